"""L2 normalization that is finite everywhere, in value and gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax import former

# A vector with ‖x‖² up to this is treated as having no direction.
_NO_DIRECTION = 1e-12


def inverse_norm(x: jax.Array) -> jax.Array:
  """1 / ‖x‖ along the last axis, in float32 or wider; 0 where ‖x‖ ≤ 1e-6.

  So x · inverse_norm(x) is a unit vector, or 0 with gradient 0 if x is too short to have a
  direction (1 / ‖x‖ would be huge, with an infinite gradient at 0).

  Args:
    x: `[..., D]`, any float type.

  Returns:
    `[...]`.
  """
  squared = jnp.sum(jnp.square(x.astype(jnp.result_type(x, jnp.float32))), axis=-1)
  some = ~(squared <= _NO_DIRECTION)  # NaN stays NaN
  return jnp.where(some, lax.rsqrt(jnp.where(some, squared, 1.0)), 0.0)


def l2_normalize(x: jax.Array) -> jax.Array:
  """Normalizes x `[..., D]` along the last axis, in float32 or wider; 0 where ‖x‖ ≤ 1e-6."""
  return x.astype(jnp.result_type(x, jnp.float32)) * inverse_norm(x)[..., None]


__getattr__ = former.names(__name__)
