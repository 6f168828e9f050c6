"""The layers of a convolutional network, with the settings of that network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from vssl_jax.models.layers.conv import Conv
from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.models.layers.padding import Padding
from vssl_jax.models.layers.pool import max_pool


def layers(
  network: nn.Module, padding: Padding, kernel_init: Callable
) -> tuple[partial, partial, partial]:
  """Convolution, batch norm and max pooling of a network; the caller adds each layer's arguments.

  Args:
    network: its `dtype`, `reduce_dtype`, `conv`, `bn_momentum`, `bn_epsilon` and `bn_groups` are
      read.
    padding: padding of all convolutions and poolings.
    kernel_init: initializer of all kernels.
  """
  conv = partial(
    Conv,
    padding=padding,
    dtype=network.dtype,
    lowering=network.conv,
    reduce_dtype=network.reduce_dtype,
    kernel_init=kernel_init,
  )
  norm = partial(
    BatchNorm,
    network.bn_momentum,
    network.bn_epsilon,
    groups=network.bn_groups,
    dtype=network.dtype,
  )
  return conv, norm, partial(max_pool, padding=padding, lowering=network.conv)
