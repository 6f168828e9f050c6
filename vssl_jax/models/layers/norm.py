"""Batch normalization with float32 statistics, over the global batch or over groups of it.

Flax's has no statistics over groups of a batch.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError
from vssl_jax.parallel import vary_with


class BatchNorm(nn.Module):
  """Batch normalization over every axis but the last, with Keras' convention of momentum.

  Under `jit` with arrays sharded over devices the batch is the global one, so statistics are
  cross-device with nothing said; inside `shard_map` or `pmap`, name the axis. In training mode it
  has a reverse-mode gradient only.

  Attributes:
    momentum: Running average = momentum · running average + (1 − momentum) · batch statistic.
    epsilon: Added to the variance.
    groups: G > 1 normalizes each of G equal contiguous groups of the batch by its own statistics,
      as G devices without cross-device statistics would. The running averages then move towards
      the groups' mean of means and mean of variances (which leaves out the variance between the
      means of groups, as averaging over devices does).
    axis_name: Mapped axis over which to average the statistics.
    dtype: Of the result. Parameters, statistics and the arithmetic are float32.
    affine: False has no parameters: scale 1 and bias 0.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  groups: int = 1
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  affine: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Normalizes `[N, ..., C]`.

    Args:
      x: `[N, ..., C]`.
      train: Use the batch's statistics, and move the running averages `mean` and `var` (biased,
        as Keras') where the collection `batch_stats` is mutable; False uses the averages.

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
  """Sum `[G, 1, 1, C]` of `[G, N, M, C]`: within examples, then over them.

  The first sum runs in parallel over examples, and adds up fewer terms at a time.
  """
  return x.sum(2, keepdims=True).sum(1, keepdims=True)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _normalize(x, scale, bias, shift, epsilon, axis_name, dtype):
  """`[G, N, M, C]` to zero mean and unit variance by group, then scale and bias.

  One pass over `x`, about `shift`: E[(x − s)²] − E[x − s]² loses log10(1 + (E[x − s] / σ)²) of
  float32's seven digits. The running mean as shift keeps that small for any offset of the input;
  a second pass would keep it at nothing, for half as much reading again.

  Returns:
    The result in `dtype`; mean − `shift` and variance `[G, C]`, through which no gradient flows.
  """
  return _normalize_forward(x, scale, bias, shift, epsilon, axis_name, dtype)[0]


def _normalize_forward(x, scale, bias, shift, epsilon, axis_name, dtype):
  size = x.shape[1] * x.shape[2]
  centred = x.astype(jnp.float32) - shift
  first, second = _sum(centred) / size, _sum(centred * centred) / size
  if axis_name is not None:
    first, second = lax.pmean((first, second), axis_name)
  var = jnp.maximum(second - first * first, 0)
  mean, inverse = first + shift, lax.rsqrt(var + epsilon)
  y = ((centred - first) * (inverse * scale) + bias).astype(dtype)
  return (y, first[:, 0, 0], var[:, 0, 0]), (x, scale, mean, inverse)


def _normalize_backward(epsilon, axis_name, dtype, saved, gradients):
  x, scale, mean, inverse = saved
  dy = gradients[0].astype(jnp.float32)
  centred = (x.astype(jnp.float32) - mean) * inverse
  dbias, dscale = _sum(dy), _sum(dy * centred)
  size = x.shape[1] * x.shape[2]
  first, second = dbias / size, dscale / size
  if axis_name is not None:
    first, second = lax.pmean((first, second), axis_name)
  dx = (dy - first - centred * second) * (inverse * scale)
  return dx.astype(x.dtype), dscale.sum((0, 1, 2)), dbias.sum((0, 1, 2)), jnp.zeros_like(scale)


_normalize.defvjp(_normalize_forward, _normalize_backward)
