"""SwAV's loss: predicts the prototype code of one clip from another; prototype statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError

# Cosines this close count as equal.
_TIE = 1e-6


def code_cross_entropy(
  scores: jax.Array, codes: jax.Array, temperature: jax.typing.ArrayLike
) -> jax.Array:
  """Mean over rows of −Σ_k code_k log softmax(scores / T)_k.

  Caron et al. 2020 (SwAV), eq. 2, and one term of the ρ-study's eq. 3. The KL divergence there also
  has the entropy of the codes, which has no gradient.

  Args:
    scores: `[N, K]`, cosines between the embeddings of one clip and the prototypes, any float type.
    codes: `[N, K]`, codes of another clip (`vssl_jax.ops.sinkhorn`); rows sum to 1; no gradient.
    temperature: T > 0.

  Returns:
    float32 scalar in [0, ∞).

  Raises:
    UserError: shapes differ or aren't `[N, K]`, or the temperature isn't positive.
  """
  if scores.ndim != 2 or scores.shape != codes.shape or not scores.shape[0]:
    raise UserError(
      f"code_cross_entropy: scores and codes must be [N, K] alike, N > 0; got {scores.shape} "
      f"and {codes.shape}"
    )
  if isinstance(temperature, int | float) and not temperature > 0:
    raise UserError(f"code_cross_entropy: temperature must be positive; got {temperature}")
  log_p = jax.nn.log_softmax(_float32(scores) / temperature, axis=1)
  return -jnp.mean(jnp.sum(_float32(lax.stop_gradient(codes)) * log_p, axis=1))


def prototype_statistics(scores: jax.Array) -> dict[str, jax.Array]:
  """How evenly the embeddings are distributed over the prototypes, by nearest prototype.

  Computed from the scores, not from the codes: Sinkhorn's codes always use the prototypes evenly,
  even if all embeddings are close to one prototype.

  Args:
    scores: `[M, K]`, of all clips of a batch.

  Returns:
    float32 scalars without gradient:
    prototype_entropy: entropy of the histogram of nearest prototypes, in nats, in
      [0, log min(M, K)]; 0 if one prototype is nearest to all.
    prototype_usage: number of prototypes that are nearest to some embedding, divided by min(M, K),
      the largest possible number; in (0, 1].
  """
  m, k = scores.shape
  scores = _float32(lax.stop_gradient(scores))
  # Ties go to the first prototype, so that equal prototypes count as one despite rounding.
  nearest = jnp.argmax(scores >= jnp.max(scores, axis=1, keepdims=True) - _TIE, axis=1)
  share = jnp.mean(jax.nn.one_hot(nearest, k, dtype=jnp.float32), axis=0)
  used = share > 0
  return {
    "prototype_entropy": -jnp.sum(jnp.where(used, share * jnp.log(jnp.where(used, share, 1)), 0)),
    "prototype_usage": jnp.sum(used, dtype=jnp.float32) / min(m, k),
  }


def _float32(x: jax.Array) -> jax.Array:
  return x.astype(jnp.result_type(x, jnp.float32))
