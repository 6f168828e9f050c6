"""The momentum encoder: a slow copy of another network, target ← m · target + (1 − m) · online.

`optax.incremental_update` is not used, because it changes the dtypes of leaves, also of counters.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from vssl_jax.errors import UserError

Tree = Any


def momentum(
  base: float, k: jax.typing.ArrayLike, total: jax.typing.ArrayLike, anneal: bool = True
) -> jax.Array:
  """The coefficient of update k: m = 1 − (1 − base)(cos(πk/K) + 1)/2.

  Grill et al. 2020 (BYOL), section 3.2; the ρ-study's section 3. m(0) = base and m(K) = 1 (the
  target no longer changes); m stays 1 after that.

  Args:
    base: m at the start, in [0, 1].
    k: number of updates before this one: 0 for the first (BYOL; PySlowFast in its sequential mode).
    total: K, number of updates in the whole run.
    anneal: False for a constant m = `base`.

  Returns:
    float32 in [base, 1].

  Raises:
    UserError: base is outside [0, 1].
  """
  if not 0 <= base <= 1:
    raise UserError(f"momentum: the base must be in [0, 1]; got {base}")
  if not anneal:
    return jnp.asarray(base, jnp.float32)
  t = jnp.asarray(k, jnp.float32) / jnp.maximum(jnp.asarray(total, jnp.float32), 1.0)
  return 1 - (1 - base) * 0.5 * (jnp.cos(math.pi * jnp.clip(t, 0.0, 1.0)) + 1)


def update(target: Tree, online: Tree, m: jax.typing.ArrayLike) -> Tree:
  """Computes m · target + (1 − m) · online per leaf: exactly `online` at m = 0, `target` at m = 1.

  The trees may hold parameters only, or parameters and buffers. Integers (counters) are copied from
  `online`.

  Args:
    target: tree of arrays; its dtypes are kept.
    online: tree of the same structure and shapes.
    m: scalar in [0, 1].

  Returns:
    The new target.

  Raises:
    UserError: the trees differ in structure or shapes.
  """
  here: Any = jax.tree.structure(target)
  there: Any = jax.tree.structure(online)
  if here != there:
    raise UserError(f"ema.update: the trees differ: target {here}, online {there}")
  m = jnp.asarray(m, jnp.float32)

  def one(path: Any, t: jax.Array, o: jax.Array) -> jax.Array:
    if jnp.shape(t) != jnp.shape(o):
      name = jax.tree_util.keystr(path)
      raise UserError(
        f"ema.update: {name} is {jnp.shape(t)} in the target and {jnp.shape(o)} online"
      )
    t, o = jnp.asarray(t), jnp.asarray(o)
    if not jnp.issubdtype(t.dtype, jnp.inexact):
      return o.astype(t.dtype)
    wide = jnp.result_type(t, jnp.float32)
    return (m * t.astype(wide) + (1 - m) * o.astype(wide)).astype(t.dtype)

  return jax.tree_util.tree_map_with_path(one, target, online)
