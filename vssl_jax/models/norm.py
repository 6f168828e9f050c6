"""Batch normalisation with float32 statistics, over the global batch or over groups of it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError


class BatchNorm(nn.Module):
  """Batch normalisation over every axis but the last.

  Under `jit` with arrays sharded over devices the batch is the global one, so statistics are
  cross-device without further ado; inside `shard_map` or `pmap`, name the axis.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  groups: int = 1
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Normalises `[N, ..., C]`; `train` takes the batch's statistics and moves the averages."""
    channels = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
    ra_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
    ra_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
    if not train:
      mean, var = ra_mean.value, ra_var.value
      mul = scale * lax.rsqrt(var + self.epsilon)
      return (x * mul + (bias - mean * mul)).astype(self.dtype)
    if x.shape[0] % self.groups:
      raise UserError(f"bn_groups = {self.groups} does not divide a batch of {x.shape[0]} rows")
    grouped = x.reshape(self.groups, -1, channels)
    x32 = grouped.astype(jnp.float32)
    mean = x32.mean(1)
    if self.axis_name:
      mean = lax.pmean(mean, self.axis_name)
    var = jnp.square(x32 - mean[:, None]).mean(1)
    if self.axis_name:
      var = lax.pmean(var, self.axis_name)
    if not self.is_initializing():
      for average, batch in ((ra_mean, mean), (ra_var, var)):
        average.value = self.momentum * average.value + (1 - self.momentum) * batch.mean(0)
    mul = scale * lax.rsqrt(var + self.epsilon)
    y = x32 * mul[:, None] + (bias - mean * mul)[:, None]
    return y.astype(self.dtype).reshape(x.shape)
