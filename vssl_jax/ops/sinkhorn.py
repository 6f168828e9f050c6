"""Sinkhorn-Knopp in the log domain: assign a batch to prototypes, evenly.

A library of optimal transport (ott-jax) iterates to a tolerance; SwAV takes a few steps, and a few
lines say them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError


def sinkhorn(
  scores: jax.Array,
  *,
  epsilon: float = 0.05,
  iterations: int = 3,
  axis_name: str | Sequence[str] | None = None,
) -> jax.Array:
  """Codes Q ∝ diag(u) exp(scores / ε) diag(v), each sample's summing to 1, each prototype's to B/K.

  Caron et al. 2020 (SwAV), eq. 4 and its Algorithm 1: each iteration scales the prototypes' sums,
  then the samples'. So samples always sum to 1, prototypes to B/K in the limit; three iterations
  are the papers' choice. u and v live as logarithms in float32, and only the last step, a softmax,
  leaves the log domain: no score over- or underflows, and half-precision scores lose nothing here.

  Args:
    scores: `[B, K]`, cosines of embeddings and prototypes, any float type; no gradient. Under `jit`
      over global arrays B is the global batch.
    epsilon: ε > 0; smaller is nearer to one prototype a sample.
    iterations: 0 leaves the softmax of scores / ε.
    axis_name: under `shard_map`: `scores` are this device's rows of a batch split over this axis.

  Returns:
    float32 `[B, K]`, in [0, 1].

  Raises:
    UserError: scores aren't `[B, K]`, ε isn't positive or iterations is negative.
  """
  if scores.ndim != 2 or not min(scores.shape):
    raise UserError(f"sinkhorn: scores must be [B, K], neither 0; got {scores.shape}")
  if not epsilon > 0 or iterations < 0:
    raise UserError(
      f"sinkhorn: epsilon must be positive and iterations not negative; got {epsilon}, {iterations}"
    )
  logits = lax.stop_gradient(scores).astype(jnp.result_type(scores, jnp.float32)) / epsilon
  samples = jnp.zeros_like(logits[:, :1])  # log u, [B, 1]
  prototypes = jnp.zeros_like(logits[:1])  # log v, [1, K]
  for _ in range(iterations):
    prototypes = -_over_batch(logits + samples, axis_name)
    samples = -jax.nn.logsumexp(logits + prototypes, axis=1, keepdims=True)
  # log u is one number a sample, which softmax ignores: what it does to sums, it does exactly.
  return lax.stop_gradient(jax.nn.softmax(logits + prototypes, axis=1))


def _over_batch(x: jax.Array, axis_name: str | Sequence[str] | None) -> jax.Array:
  """Log-sum-exp over the whole batch, `[1, K]`."""
  if axis_name is None:
    return jax.nn.logsumexp(x, axis=0, keepdims=True)
  most = lax.pmax(jnp.max(x, axis=0, keepdims=True), axis_name)
  total = lax.psum(jnp.sum(jnp.exp(x - most), axis=0, keepdims=True), axis_name)
  return most + jnp.log(total)
