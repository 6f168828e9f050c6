"""Sinkhorn-Knopp in the log domain: assigns a batch to prototypes so that all are used evenly.

A library for optimal transport (ott-jax) iterates until a tolerance is met. SwAV needs only a few
fixed iterations, which take a few lines here.
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
  """Codes Q ∝ diag(u) exp(scores / ε) diag(v); samples (rows) sum to 1, prototypes to B/K.

  Caron et al. 2020 (SwAV), eq. 4 and Algorithm 1: each iteration first scales the sums of the
  prototypes, then those of the samples. So samples always sum to 1, and prototypes to B/K in the
  limit. The papers use three iterations. u and v are stored as float32 logarithms, and only the
  last step, a softmax, leaves the log domain. So no score overflows or underflows, and
  half-precision scores lose no further precision here.

  Args:
    scores: `[B, K]`, cosines of embeddings and prototypes, any float type; no gradient. Under `jit`
      over global arrays B is the global batch size.
    epsilon: ε > 0; smaller values are closer to one prototype per sample.
    iterations: number of iterations; 0 gives the softmax of scores / ε.
    axis_name: for use inside `shard_map`: the axis over which the batch is sharded; `scores` are
      this device's rows.

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
  # log u is one number per sample: the softmax does not depend on it, and normalizes exactly.
  return lax.stop_gradient(jax.nn.softmax(logits + prototypes, axis=1))


def _over_batch(x: jax.Array, axis_name: str | Sequence[str] | None) -> jax.Array:
  """Log-sum-exp over the whole batch, `[1, K]`."""
  if axis_name is None:
    return jax.nn.logsumexp(x, axis=0, keepdims=True)
  most = lax.pmax(jnp.max(x, axis=0, keepdims=True), axis_name)
  total = lax.psum(jnp.sum(jnp.exp(x - most), axis=0, keepdims=True), axis_name)
  return most + jnp.log(total)
