"""InfoNCE for any number of clips per video, with positives summed inside the logarithm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError
from vssl_jax.ops.sphere import l2_normalize

_MASKED = -1e30  # finite, so that a row without negatives has a finite gradient
_TIE = 1e-6  # as in info_nce: cosines this close count as equal


def multi_nce(
  z: jax.Array,
  temperature: float,
  *,
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The mean over all ρN clips q of −log Σ_{k⁺} exp(s) / Σ_{k⁺ ∪ k⁻} exp(s), s = cosine / τ.

  Feichtenhofer et al. 2021, eq. 1: the positives k⁺ are the video's other ρ − 1 clips, the
  negatives k⁻ are all clips of other videos; the query itself is left out. It has (ρN)² logits in
  memory. For ρ = 2 it equals `info_nce`. Under `jit` over global arrays, value and gradient are
  those of the global batch under any sharding.

  Args:
    z: raw embeddings `[N, ρ, D]`, ρ ≥ 2, any float type; L2-normalized inside.
    temperature: τ > 0.
    precision: precision of the matrix product.

  Returns:
    loss: float32 scalar in [0, ∞); log((ρN − 1)/(ρ − 1)) if all embeddings are equal.
    metrics: float32 scalars without gradient: contrast_accuracy, share of clips that are nearer to
      a clip of their own video than to any other clip, by more than 1e-6 in cosine;
      contrast_entropy, mean entropy of the softmax over all candidates, in nats;
      positive_similarity and negative_similarity, mean cosines.

  Raises:
    UserError: z isn't `[N, ρ, D]` with ρ ≥ 2, or the temperature isn't positive.
  """
  if z.ndim != 3 or z.shape[1] < 2 or not z.shape[0]:
    raise UserError(f"multi_nce: z must be [N, ρ, D] with ρ > 1; got {z.shape}")
  if not temperature > 0:
    raise UserError(f"multi_nce: temperature must be positive; got {temperature}")
  n, clips, dim = z.shape
  x = l2_normalize(z).reshape(n * clips, dim)
  cosine = jnp.matmul(x, x.T, precision=precision)
  logits = cosine / temperature
  video = jnp.arange(n * clips) // clips
  same = video[:, None] == video[None, :]
  own = same & ~jnp.eye(n * clips, dtype=bool)
  pull = jax.nn.logsumexp(jnp.where(own, logits, _MASKED), axis=1)
  push = jax.nn.logsumexp(jnp.where(same, _MASKED, logits), axis=1)
  loss = jnp.mean(jax.nn.softplus(push - pull))

  log_p = jax.nn.log_softmax(jnp.where(jnp.eye(n * clips, dtype=bool), _MASKED, logits), axis=1)
  nearest = jnp.max(jnp.where(own, cosine, -2.0), axis=1)
  rival = jnp.max(jnp.where(same, -2.0, cosine), axis=1)
  metrics = {
    "contrast_accuracy": jnp.mean(nearest - rival > _TIE, dtype=jnp.float32),
    "contrast_entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=1)),
    "positive_similarity": jnp.sum(jnp.where(own, cosine, 0)) / jnp.sum(own),
    "negative_similarity": jnp.sum(jnp.where(same, 0, cosine)) / jnp.maximum(jnp.sum(~same), 1),
  }
  return loss, jax.tree.map(lax.stop_gradient, metrics)
