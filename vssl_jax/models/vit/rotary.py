"""Rotary positions on three axes, as V-JEPA 2 has them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def turns(grid: Sequence[int], channels: int) -> np.ndarray:
  """Cosine and sine of the angle by which each channel of a head is turned.

  The channels of a head are cut into three equal and even parts, for time, row and column; what is
  left over is not turned. In a part of D channels, channel i has the frequency
  10000^(−2 (i mod D/2) / D). The pairs that are turned together are neighbors, 2j and 2j + 1, so
  that the two have different frequencies: V-JEPA's code is so, and its weights are trained with it.

  Args:
    grid: tokens `(T', H', W')` of the clip.
    channels: D of a head.

  Returns:
    float32 `[2, T' H' W', D]`.
  """
  part = 2 * (channels // 3 // 2)
  angles = np.zeros((int(np.prod(grid)), channels))
  frequencies = 10000.0 ** (-np.arange(part // 2) / max(part / 2, 1))
  for axis, places in enumerate(np.indices(grid).reshape(3, -1)):
    angles[:, axis * part : (axis + 1) * part] = np.tile(places[:, None] * frequencies, 2)
  return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def turn(x: jax.Array, table: jax.Array) -> jax.Array:
  """Turns pairs of channels in float32.

  Args:
    x: queries or keys `[N, L, heads, D]`.
    table: `turns` of their grid, `[2, L, D]`.

  Returns:
    An array like x.
  """
  cosine, sine = table[:, :, None]
  y = x.astype(jnp.float32)
  even = x.shape[-1] // 2 * 2  # an odd channel at the end is among those that are not turned
  pairs = y[..., :even].reshape(*y.shape[:-1], -1, 2)
  crossed = jnp.stack([-pairs[..., 1], pairs[..., 0]], -1).reshape(*y.shape[:-1], even)
  crossed = jnp.pad(crossed, [(0, 0)] * 3 + [(0, x.shape[-1] - even)])
  return (y * cosine + crossed * sine).astype(x.dtype)
