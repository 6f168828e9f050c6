"""InfoNCE over two views of every video, for batches of any size on any number of devices."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError

# Finite, so that a batch of one video (no negatives at all) has loss and gradient 0, not NaN.
_MASKED = -1e30
_SQUARED_NORM_FLOOR = 1e-12
# Two cosines closer than this are equal in float32: a collapsed batch must not score 100 %.
_COSINE_TIE = 1e-6

AxisName = str | Sequence[str]


def info_nce(
  a: jax.Array,
  b: jax.Array,
  temperature: jax.typing.ArrayLike,
  *,
  block_size: int | None = None,
  axis_name: AxisName | None = None,
  symmetric: bool = True,
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """InfoNCE over two views."""
  del block_size
  _check(a, b, temperature)
  loss, metrics = _dense(a, b, temperature, axis_name, symmetric, precision)
  return loss, jax.tree.map(lax.stop_gradient, metrics)


def _check(a, b, temperature):
  if a.ndim != 2 or a.shape != b.shape or not a.shape[0]:
    raise UserError(
      f"info_nce: a and b must share one shape [N, D], N > 0; got {a.shape}, {b.shape}"
    )
  if isinstance(temperature, int | float) and not temperature > 0:
    raise UserError(f"info_nce: temperature must be positive; got {temperature}")


def _unit(x: jax.Array) -> jax.Array:
  squared = jnp.sum(x * x, axis=-1, keepdims=True)
  some = squared > _SQUARED_NORM_FLOOR
  return jnp.where(some, x * lax.rsqrt(jnp.where(some, squared, 1.0)), 0.0)


def _dense(a, b, temperature, axis_name, symmetric, precision):
  dtype = jnp.result_type(a, b, jnp.float32)
  a, b = _unit(a.astype(dtype)), _unit(b.astype(dtype))
  n = a.shape[0]
  first, mean, gather = 0, lambda x: x, lambda x: x
  if axis_name is not None:
    first = lax.axis_index(axis_name) * n
    mean = lambda x: lax.pmean(x, axis_name)  # noqa: E731
    gather = lambda x: lax.all_gather(x, axis_name, tiled=True)  # noqa: E731
  every = jnp.concatenate([gather(a), gather(b)])  # [2N, D]
  total = every.shape[0] // 2
  video = first + jnp.arange(n)
  negative = jnp.tile(video[:, None] != jnp.arange(total)[None, :], (1, 2))
  positive = jnp.sum(a * b, axis=-1) / temperature

  def against_all(anchors):
    logits = jnp.matmul(anchors, every.T, precision=precision) / temperature
    return jnp.where(negative, logits, _MASKED)

  from_a = against_all(a)
  losses = jax.nn.softplus(jax.nn.logsumexp(from_a, axis=1) - positive)
  if symmetric:
    from_b = against_all(b)
    losses = (losses + jax.nn.softplus(jax.nn.logsumexp(from_b, axis=1) - positive)) / 2

  ab = lax.stop_gradient(from_a[:, total:])
  at = lax.stop_gradient(positive)
  ab = jnp.where(negative[:, total:], ab, at[:, None])
  log_p = jax.nn.log_softmax(ab, axis=1)
  best = jnp.max(jnp.where(negative[:, total:], ab, _MASKED), axis=1)
  summed = jnp.sum(a + b, axis=0)
  if axis_name is not None:
    summed = lax.psum(summed, axis_name)
  apart = jnp.sum(summed**2) - total * mean(jnp.mean(jnp.sum((a + b) ** 2, axis=-1)))
  metrics = {
    "contrast_accuracy": mean(jnp.mean((at - best) * temperature > _COSINE_TIE)),
    "contrast_entropy": mean(jnp.mean(-jnp.sum(jnp.exp(log_p) * log_p, axis=1))),
    "positive_similarity": mean(jnp.mean(at * temperature)),
    "negative_similarity": apart / max(4 * total * (total - 1), 1),
  }
  return mean(jnp.mean(losses)), metrics
