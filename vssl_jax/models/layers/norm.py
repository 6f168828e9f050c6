"""Batch normalization with float32 statistics, over the global batch or over groups of it.

Flax's batch norm cannot compute statistics over groups of a batch.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from vssl_jax.errors import UserError
from vssl_jax.parallel import vary_with


class BatchNorm(nn.Module):
  """Batch normalization over all axes except the last, with momentum defined as in Keras.

  Under `jit` with sharded arrays the batch is the global batch, so the statistics are automatically
  over all devices. Inside `shard_map` or `pmap`, set `axis_name`. In training mode it has only a
  reverse-mode gradient.

  Attributes:
    momentum: Running average = momentum · running average + (1 − momentum) · batch statistic.
    epsilon: Added to the variance.
    groups: With G > 1, each of G equal contiguous groups of the batch is normalized by its own
      statistics, as on G devices without cross-device statistics. The running averages move toward
      the mean over groups of means and of variances (the variance between the group means is left
      out, as when averaging over devices).
    axis_name: Mapped axis over which to average the statistics.
    dtype: Dtype of the result. Parameters, statistics and arithmetic are float32.
    affine: False for no parameters: scale 1 and bias 0.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  groups: int = 1
  axis_name: str | None = None
  dtype: DTypeLike = jnp.float32
  affine: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Normalizes `[N, ..., C]`.

    Args:
      x: `[N, ..., C]`.
      train: True normalizes by the batch's statistics and, if the collection `batch_stats` is
        mutable, updates the running averages `mean` and `var` (biased, as in Keras); False
        normalizes by the running averages.

    Raises:
      UserError: `groups` does not divide N.
    """
    channels = x.shape[-1]
    scale, bias = jnp.ones(channels, jnp.float32), jnp.zeros(channels, jnp.float32)
    if self.affine:
      scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
      bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
    running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
    if not train:
      factor = scale * lax.rsqrt(running_var.value + self.epsilon)
      return ((x - running_mean.value) * factor + bias).astype(self.dtype)
    if x.shape[0] % self.groups:
      raise UserError(f"bn_groups = {self.groups} does not divide a batch of {x.shape[0]} rows")
    rows = x.reshape(self.groups, x.shape[0] // self.groups, -1, channels)
    given = vary_with(rows, scale, bias, running_mean.value)
    y, offset, var = _normalize(rows, *given, self.epsilon, self.axis_name, self.dtype)
    mean = running_mean.value + offset
    if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
      for average, batch in ((running_mean, mean), (running_var, var)):
        average.value = self.momentum * average.value + (1 - self.momentum) * batch.mean(0)
    return y.reshape(x.shape)


def _sum(x: jax.Array) -> jax.Array:
  """Sum of `[G, N, M, C]` to `[G, 1, 1, C]`: first within examples, then over examples.

  The first sum runs in parallel over examples, and each sum has fewer terms.
  """
  return x.sum(2, keepdims=True).sum(1, keepdims=True)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _normalize(x, scale, bias, shift, epsilon, axis_name, dtype):
  """Normalizes `[G, N, M, C]` to zero mean and unit variance per group, then scales and adds bias.

  Computes the variance in one pass over `x`, relative to a shift s: E[(x − s)²] − E[x − s]². This
  loses log10(1 + (E[x − s] / σ)²) of float32's seven digits. With the running mean as the shift the
  loss is small for any offset of the input. A second pass would lose nothing but would read half as
  much again.

  Returns:
    The result in `dtype`; mean − `shift` and variance `[G, C]`, through which no gradient flows.
  """
  return _normalize_forward(x, scale, bias, shift, epsilon, axis_name, dtype)[0]


def _normalize_forward(x, scale, bias, shift, epsilon, axis_name, dtype):
  size = x.shape[1] * x.shape[2]
  centered = x.astype(jnp.float32) - shift
  first, second = _sum(centered) / size, _sum(centered * centered) / size
  if axis_name is not None:
    first, second = lax.pmean((first, second), axis_name)
  var = jnp.maximum(second - first * first, 0)
  mean, inverse = first + shift, lax.rsqrt(var + epsilon)
  y = ((centered - first) * (inverse * scale) + bias).astype(dtype)
  return (y, first[:, 0, 0], var[:, 0, 0]), (x, scale, mean, inverse)


def _normalize_backward(epsilon, axis_name, dtype, saved, gradients):
  x, scale, mean, inverse = saved
  dy = gradients[0].astype(jnp.float32)
  centered = (x.astype(jnp.float32) - mean) * inverse
  dbias, dscale = _sum(dy), _sum(dy * centered)
  size = x.shape[1] * x.shape[2]
  first, second = dbias / size, dscale / size
  if axis_name is not None:
    first, second = lax.pmean((first, second), axis_name)
  dx = (dy - first - centered * second) * (inverse * scale)
  return dx.astype(x.dtype), dscale.sum((0, 1, 2)), dbias.sum((0, 1, 2)), jnp.zeros_like(scale)


_normalize.defvjp(_normalize_forward, _normalize_backward)
