"""The cost of a network per clip, counted from its layers, independent of how they are lowered."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vssl_jax.models.layers.attention import Attend
from vssl_jax.models.layers.conv import Conv
from vssl_jax.models.layers.norm import BatchNorm

LAYERS = (Conv, BatchNorm, nn.Dense, nn.LayerNorm, Attend)


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of the forward pass for one example.

  Attributes:
    parameters: number of trainable parameters.
    macs: multiply-adds of convolutions, dense layers and attention. The "GFLOPs" that papers on
      video networks publish are multiply-adds; one multiply-add is two FLOPs. Training costs three
      times as many.
    activation_bytes: size of the outputs of convolutions, norms and dense layers and of the
      attention weights, which the backward pass reads if nothing is recomputed.
  """

  parameters: int
  macs: int
  activation_bytes: int


def parameters(tree: Any) -> int:
  """Numbers in a tree of arrays (or of their shapes)."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def count(module: nn.Module, shape: tuple[int, ...]) -> Cost:
  """The cost of `module(x)` for one example of `shape` [...], without running it.

  Args:
    module: a network built from the convolution, batch norm and attention of this package and
      Flax's dense layers and layer norms.
    shape: the example's shape without the batch axis, e.g. [T, H, W, C].
  """
  macs = nbytes = 0

  def observe(next_fn, args, kwargs, context):
    nonlocal macs, nbytes
    y = next_fn(*args, **kwargs)
    layer = context.module
    if context.method_name == "__call__" and isinstance(layer, LAYERS):
      nbytes += y.size * y.dtype.itemsize
      if isinstance(layer, Conv):
        macs += y.size * math.prod(layer.kernel) * args[0].shape[-1]
      elif isinstance(layer, nn.Dense):
        macs += y.size * args[0].shape[-1]
      elif isinstance(layer, Attend):  # q kᵀ, then its product with v
        weights = y.shape[0] * y.shape[1] * y.shape[2] * args[1].shape[1]
        macs += 2 * weights * y.shape[-1]
        nbytes += weights * 4
    return y

  def run(rng: jax.Array, x: jax.Array) -> Any:
    with nn.intercept_methods(observe):
      return module.init(rng, x)

  example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  variables = jax.eval_shape(run, jax.random.key(0), example)
  return Cost(parameters(variables["params"]), macs, nbytes)
