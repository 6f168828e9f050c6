"""Applies operations to some clips only, and processes clips in steps that fit in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vssl_jax import parallel

_STEP_BYTES = 2**29  # largest float32 copy of the clips of one step, on an accelerator


def one_by_one(mesh: Mesh | None) -> bool:
  """Whether clips are processed one by one: on CPUs, where a branch not taken costs nothing."""
  return parallel.platform(mesh) == "cpu"


def apply_if(happens: jax.Array | bool, fn: Callable, value):
  """`fn(value)` if `happens`, otherwise `value`; a Python bool decides at compile time."""
  if isinstance(happens, bool):
    return fn(value) if happens else value
  return jax.lax.cond(happens, fn, lambda x: x, value)


def drawn(happens: jax.Array, p: float) -> jax.Array | bool:
  """`happens`, which was drawn with probability p; a Python bool if p is 0 or 1."""
  return p == 1 if p in (0, 1) else happens


def each(fn: Callable, *args, mesh: Mesh | None = None):
  """Maps `fn` over the leading axis of all `args`, in one step or one by one."""
  if one_by_one(mesh):
    return jax.lax.map(lambda a: fn(*a), args)
  return jax.vmap(fn)(*args)


def over_rows(fn: Callable, *args, mesh: Mesh | None = None) -> jax.Array:
  """Maps `fn` over the leading axis of all `args`, in steps that fit in memory.

  A CPU processes one row at a time: a clip stays in the cache, and operations that its draw leaves
  out are not computed. An accelerator processes as many rows at once as keep one float32 copy of
  the first argument under 512 MiB, so the memory does not grow with the batch.

  The axis is first split into one piece per device, and each step takes rows from every piece. So a
  batch that is sharded over devices stays where it is.

  Args:
    fn: takes one row of each argument and returns one array.
    *args: trees of arrays `[M, ...]`; the first is one array.
    mesh: the devices that the rows are split over; None is one device.

  Returns:
    Array `[M, ...]`.
  """
  rows = args[0].shape[0]
  pieces = 1 if mesh is None else math.gcd(rows, mesh.size)
  length, width = rows // pieces, 1
  if not one_by_one(mesh):
    fits = max(1, _STEP_BYTES // (4 * (args[0].size // rows)))
    width = max(w for w in range(1, length + 1) if length % w == 0 and w <= fits)
  steps = length // width

  def step(i):
    cut = jax.tree.map(lambda x: x.reshape(pieces, steps, width, *x.shape[1:])[:, i], args)
    if pieces == width == 1:  # no vmap: it would turn branches into selections
      return fn(*jax.tree.map(lambda x: x[0, 0], cut))[None, None]
    return jax.vmap(jax.vmap(fn))(*cut)

  out = step(0)[:, None] if steps == 1 else jnp.moveaxis(jax.lax.map(step, jnp.arange(steps)), 0, 1)
  return out.reshape(rows, *out.shape[3:])
