"""InfoNCE against a queue of negatives: MoCo with one or several positives per query.

The candidates of a query are P positives (keys of the other clips of its video) and K negatives
(the rows of a queue, keys of earlier batches). All logits are float32 cosines divided by τ. Let s_p
be the logits of the positives and n the log-sum-exp of the K negatives. The loss of a query is

  separate: mean_p log(1 + exp(n − s_p))          one (1 + K)-way cross-entropy per positive
  sum:      log(1 + exp(n − log Σ_p exp s_p))     positives summed inside the log

Both are equal for P = 1. `sum` is the paper's eq. 1 (Feichtenhofer et al. 2021); `separate` is what
its released code (PySlowFast) computes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError
from vssl_jax.ops.sphere import l2_normalize

# Cosines this close count as equal: rounding must not give a collapsed batch 100 % accuracy.
_TIE = 1e-6


def queue_nce(
  q: jax.Array,
  keys: jax.Array,
  queue: jax.Array,
  temperature: jax.typing.ArrayLike,
  *,
  positives: str = "separate",
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """InfoNCE of queries with their own keys as positives and a queue as negatives.

  All three are L2-normalized inside (a vector with norm below 1e-6 has similarity 0 to everything
  and gradient 0). PySlowFast does not normalize the rows of the queue. This only matters for the
  random rows at the start, and no parameter is updated while the queue still has some.

  Under `jit` over global arrays, value and gradient are those of the global batch, for any sharding
  of rows and queue.

  Args:
    q: queries `[N, D]`, any float type.
    keys: `[N, P, D]`, the P positives of each query; no gradient.
    queue: `[K, D]`, negatives of all queries; no gradient.
    temperature: τ > 0.
    positives: "separate" (released code: one log per positive) or "sum" (paper, eq. 1).
    precision: precision of the matrix products; the default keeps float32 even where the backend
      would use TF32.

  Returns:
    loss: float32 scalar in [0, ∞), the mean over queries. If all vectors are equal it is
      log(1 + K/P) for "sum" and log(1 + K) for "separate".
    metrics: float32 scalars without gradient.
      contrast_accuracy: share of positives that are nearer to their query than all K negatives, by
        more than 1e-6 in cosine; for "sum", share of queries with such a positive.
      contrast_entropy: mean entropy of the softmax over candidates, in nats, in [0, log(1 + K)]
        for "separate" and [0, log(P + K)] for "sum".
      positive_similarity, negative_similarity: mean cosines, in [−1, 1].

  Raises:
    UserError: shapes don't fit, the temperature isn't positive, or `positives` is unknown.
  """
  _check(q, keys, queue, temperature, positives)
  q, keys, queue = (
    l2_normalize(q),
    l2_normalize(lax.stop_gradient(keys)),
    l2_normalize(lax.stop_gradient(queue)),
  )
  negative = jnp.matmul(q, queue.T, precision=precision) / temperature  # [N, K]
  cosine = jnp.einsum("nd,npd->np", q, keys, precision=precision)
  positive = cosine / temperature
  if positives == "sum":
    positive = jax.nn.logsumexp(positive, axis=1, keepdims=True)
  gap = jax.nn.logsumexp(negative, axis=1, keepdims=True) - positive  # [N, P] or [N, 1]
  loss = jnp.mean(jax.nn.softplus(gap))

  metrics = {
    "contrast_accuracy": _accuracy(cosine, negative * temperature, positives),
    "contrast_entropy": _entropy(cosine / temperature, negative, positives),
    "positive_similarity": jnp.mean(cosine),
    "negative_similarity": jnp.vdot(jnp.mean(q, axis=0), jnp.mean(queue, axis=0)),
  }
  return loss, jax.tree.map(lax.stop_gradient, metrics)


def _accuracy(cosine: jax.Array, negative: jax.Array, positives: str) -> jax.Array:
  best = jnp.max(cosine, axis=1, keepdims=True) if positives == "sum" else cosine
  ahead = best - jnp.max(negative, axis=1, keepdims=True) > _TIE
  return jnp.mean(ahead, dtype=cosine.dtype)


def _entropy(positive: jax.Array, negative: jax.Array, positives: str) -> jax.Array:
  """Mean entropy, log Z − E[s], over the softmaxes; all positives share the sums over negatives."""
  # [N, P, 1]: P softmaxes with one positive each; [N, 1, P]: one softmax with all positives.
  own = positive[:, None, :] if positives == "sum" else positive[:, :, None]
  most = jnp.maximum(jnp.max(negative, axis=1)[:, None], jnp.max(own, axis=2))  # [N, P or 1]
  top = jnp.max(negative, axis=1, keepdims=True)
  shifted = negative - top
  mass, slope = jnp.sum(jnp.exp(shifted), 1), jnp.sum(jnp.exp(shifted) * shifted, 1)
  share, drop = jnp.exp(top - most), top - most
  near = own - most[:, :, None]
  total = share * mass[:, None] + jnp.sum(jnp.exp(near), axis=2)
  moment = share * (slope[:, None] + drop * mass[:, None]) + jnp.sum(jnp.exp(near) * near, axis=2)
  return jnp.mean(jnp.log(total) - moment / total)


def _check(q, keys, queue, temperature, positives):
  fits = (
    q.ndim == 2
    and keys.ndim == 3
    and queue.ndim == 2
    and keys.shape[::2] == q.shape
    and queue.shape[1] == q.shape[1]
    and min(*keys.shape, *queue.shape) > 0
  )
  if not fits:
    raise UserError(
      "queue_nce: q, keys and queue must be [N, D], [N, P, D] and [K, D], none empty; got "
      f"{q.shape}, {keys.shape} and {queue.shape}"
    )
  if isinstance(temperature, int | float) and not temperature > 0:
    raise UserError(f"queue_nce: temperature must be positive; got {temperature}")
  if positives not in ("separate", "sum"):
    raise UserError(f"queue_nce: positives must be separate or sum; got {positives!r}")
