"""What video labels teach BaS-Net: label-normalized cross-entropies and sparse attention.

Lee et al. (AAAI 2020), as released: the base branch is told that every video has background, the
suppression branch that none has; labels are normalized to sum to 1 and compared with a softmax
over C + 1 classes by binary cross-entropies, averaged over videos and classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def targets(labels: jax.Array, background: bool) -> jax.Array:
  """Labels `[N, C]` (0 or 1) with the background behind them, `[N, C + 1]`; rows sum to 1 or 0."""
  last = jnp.full((len(labels), 1), float(background), jnp.float32)
  whole = jnp.concatenate([labels.astype(jnp.float32), last], axis=1)
  return whole / jnp.maximum(jnp.sum(whole, axis=1, keepdims=True), 1)


def binary_cross_entropy(scores: jax.Array, target: jax.Array) -> jax.Array:
  """Mean over all entries of −y log p − (1 − y) log(1 − p), p = softmax(scores).

  In the log domain: log(1 − p_c) is the log of the other classes' share.

  Args:
    scores: `[N, K]`, K ≥ 2.
    target: `[N, K]` in [0, 1].

  Returns:
    Float32 scalar.
  """
  scores = scores.astype(jnp.float32)
  total = jax.nn.logsumexp(scores, axis=1, keepdims=True)
  own = jnp.eye(scores.shape[1], dtype=bool)
  others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, scores[:, None, :]), axis=2)
  return -jnp.mean(target * (scores - total) + (1 - target) * (others - total))


def classification(scores: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """L_base and L_supp of video scores `[2, N, C + 1]` and labels `[N, C]`."""
  return (
    binary_cross_entropy(scores[0], targets(labels, background=True)),
    binary_cross_entropy(scores[1], targets(labels, background=False)),
  )


def sparsity(attention: jax.Array) -> jax.Array:
  """L_norm: Σ_t w_t, a sum over the steps `[N, T]` (0 in padding), averaged over videos."""
  return jnp.mean(jnp.sum(jnp.abs(attention.astype(jnp.float32)), axis=1))
