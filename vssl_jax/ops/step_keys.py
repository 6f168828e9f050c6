"""PRNG keys of a train step: they depend only on (seed, step, row), not on the devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def step_keys(seed: int, step: jax.Array | int, n: int) -> tuple[jax.Array, jax.Array]:
  """One key for the step and one for each of its n examples, functions of (seed, step, row)."""
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)
  rows = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))
  return jax.random.fold_in(key, n), rows
