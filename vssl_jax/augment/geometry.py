"""Flips and quarter turns of clips; they only move pixels and work with any dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def flip(clip: jax.Array) -> jax.Array:
  """Mirrors `[..., H, W, C]` left to right."""
  return clip[..., ::-1, :]


def rotate(clip: jax.Array, turns: jax.Array | int) -> jax.Array:
  """Turns square frames counter-clockwise by `turns` quarter turns, as `tf.image.rot90`.

  Args:
    clip: `[..., H, W, C]` with H = W.
    turns: integer, taken modulo 4; may be traced.

  Returns:
    The rotated clip, with the same shape and dtype.
  """
  turns = jnp.asarray(turns) % 4
  # A quarter turn is a transposition and a vertical flip; a half turn is both flips.
  odd, half = turns % 2 == 1, turns >= 2
  turned = jnp.where(odd, jnp.swapaxes(clip, -3, -2)[..., ::-1, :, :], clip)
  return jnp.where(half, turned[..., ::-1, ::-1, :], turned)
