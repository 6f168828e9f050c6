"""The losses of BaS-Net: cross-entropies with video-level labels, and sparse attention.

As in the released code of Lee et al. (AAAI 2020). In the base branch every video also has the label
background; in the suppression branch no video has it. Labels are normalized to sum to 1. Binary
cross-entropies compare them with a softmax over C + 1 classes, averaged over videos and classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def targets(labels: jax.Array, background: bool) -> jax.Array:
  """Normalized labels: `[N, C]` of 0 and 1 to `[N, C + 1]`, background last; rows sum to 1 or 0."""
  last = jnp.full((len(labels), 1), float(background), jnp.float32)
  whole = jnp.concatenate([labels.astype(jnp.float32), last], axis=1)
  return whole / jnp.maximum(jnp.sum(whole, axis=1, keepdims=True), 1)


def binary_cross_entropy(scores: jax.Array, target: jax.Array) -> jax.Array:
  """Mean over all entries of −y log p − (1 − y) log(1 − p), p = softmax(scores).

  Computed in the log domain: log(1 − p_c) is the log of the sum over the other classes.

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
  """L_base and L_supp, from video scores `[2, N, C + 1]` and labels `[N, C]`."""
  return (
    binary_cross_entropy(scores[0], targets(labels, background=True)),
    binary_cross_entropy(scores[1], targets(labels, background=False)),
  )


def sparsity(attention: jax.Array) -> jax.Array:
  """L_norm: Σ_t w_t, attention `[N, T]` (0 in padding) summed over steps, averaged over videos."""
  return jnp.mean(jnp.sum(jnp.abs(attention.astype(jnp.float32)), axis=1))
