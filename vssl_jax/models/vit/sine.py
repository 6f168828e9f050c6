"""Fixed positions of tokens, numbered in one sequence: a table of sines and cosines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def positions(length: int, channels: int) -> np.ndarray:
  """Position embedding: sine and cosine of the token number, alternating: `[length, channels]`.

  Attention Is All You Need, section 3.5. As in VideoMAE, all tokens of a clip are numbered in one
  sequence, with width fastest and time slowest. So a table fits only one shape of clip.
  """
  frequencies = 10000.0 ** (-2 * (np.arange(channels) // 2) / channels)
  angles = np.arange(length)[:, None] * frequencies
  table = np.where(np.arange(channels) % 2, np.cos(angles), np.sin(angles))
  return table.astype(np.float32)


def on_grid(grid: Sequence[int], trained: Sequence[int], channels: int) -> np.ndarray:
  """Positions for a grid of tokens, interpolated from those of the grid of training.

  Each axis is interpolated linearly between the centers of tokens, and constant beyond the first
  and the last, as `torch.nn.functional.interpolate(mode="trilinear")` does. A number of a token has
  no meaning on another grid: one row down is one trained width further.

  Args:
    grid: tokens `(T', H', W')` of the clip.
    trained: those of the clips of training.
    channels: C.

  Returns:
    float32 `[T' H' W', C]`; where the grids are equal, `positions` itself.
  """
  table = positions(int(np.prod(trained)), channels)
  if tuple(grid) == tuple(trained):
    return table
  table = table.astype(np.float64).reshape(*trained, channels)
  for axis, (n, m) in enumerate(zip(grid, trained, strict=True)):
    at = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
    low = np.floor(at).astype(int)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
    first, second = (table.take(i, axis) for i in (low, np.minimum(low + 1, m - 1)))
    table = first * (1 - share) + second * share
  return table.reshape(-1, channels).astype(np.float32)
