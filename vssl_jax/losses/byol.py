"""BYOL's loss: pulls predictions toward the target network's projections, without negatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError
from vssl_jax.ops.sphere import l2_normalize


def negative_cosine(
  p: jax.Array, k: jax.Array, temperature: jax.typing.ArrayLike = 0.5
) -> jax.Array:
  """Mean over rows of −cos(p, k) / T; only p has a gradient.

  The temperature only scales the loss. T = ½ has the gradient of BYOL's ‖p̄ − k̄‖² = 2 − 2 cos
  (Grill et al. 2020, eq. 2) and is PySlowFast's setting; the ρ-study's eq. 2 has T = 1.

  Args:
    p: predictions `[N, D]`, any float type; a row with norm below 1e-6 has cosine and gradient 0.
    k: the target's projections `[N, D]`.
    temperature: T > 0.

  Returns:
    float32 scalar in [−1/T, 1/T].

  Raises:
    UserError: shapes differ or aren't `[N, D]`, or the temperature isn't positive.
  """
  if p.ndim != 2 or p.shape != k.shape or not p.shape[0]:
    raise UserError(
      f"negative_cosine: p and k must be [N, D] alike, N > 0; got {p.shape} and {k.shape}"
    )
  if isinstance(temperature, int | float) and not temperature > 0:
    raise UserError(f"negative_cosine: temperature must be positive; got {temperature}")
  return (
    -jnp.mean(jnp.sum(l2_normalize(p) * l2_normalize(lax.stop_gradient(k)), axis=1)) / temperature
  )
