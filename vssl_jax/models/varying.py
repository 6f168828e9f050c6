"""Parameters inside `shard_map`, for functions with a gradient of their own."""

from __future__ import annotations

import jax
from jax import lax


def vary_with(x: jax.Array, *parameters: jax.Array) -> tuple[jax.Array, ...]:
  """Marks `parameters` as varying over the mapped axes that `x` varies over.

  A custom gradient returns each device's share of a parameter's gradient; the mark's transpose
  sums the shares, as the built-in operations do unasked. Outside `shard_map` nothing happens.
  """
  axes = _axes(x)
  return tuple(_mark(p, tuple(axes - _axes(p))) for p in parameters)


def _axes(x: jax.Array) -> frozenset[str]:
  kind = jax.typeof(x)
  if hasattr(kind, "manual_axis_type"):
    return kind.manual_axis_type.varying
  return getattr(kind, "vma", frozenset())  # JAX before 0.10


def _mark(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  if not axes:
    return x
  return lax.pcast(x, axes, to="varying") if hasattr(lax, "pcast") else lax.pvary(x, axes)
