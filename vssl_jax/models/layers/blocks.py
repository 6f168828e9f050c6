"""What the convolutional families build from: their convolution and batch norm, as set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from vssl_jax.models.layers.conv import Conv
from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.models.layers.padding import Padding


def layers(network: nn.Module, padding: Padding, kernel_init: Callable) -> tuple[partial, partial]:
  """A network's convolution and batch norm, to be called with what differs from layer to layer.

  Args:
    network: its `dtype`, `conv`, `bn_momentum`, `bn_epsilon` and `bn_groups` are read.
    padding: of every convolution.
    kernel_init: of every kernel.
  """
  conv = partial(
    Conv, padding=padding, dtype=network.dtype, lowering=network.conv, kernel_init=kernel_init
  )
  norm = partial(
    BatchNorm,
    network.bn_momentum,
    network.bn_epsilon,
    groups=network.bn_groups,
    dtype=network.dtype,
  )
  return conv, norm
