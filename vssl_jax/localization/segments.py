"""Segments in time and their overlap."""

from __future__ import annotations

import numpy as np


def tiou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Temporal intersection over union of all pairs.

  Args:
    a: float `[N, 2]`, starts and ends in any unit, start ≤ end.
    b: float `[M, 2]`, in the same unit.

  Returns:
    float64 `[N, M]` in [0, 1]. An empty segment has tIoU 1 with an equal segment, otherwise 0.
  """
  a, b = (np.asarray(x, np.float64).reshape(-1, 2) for x in (a, b))
  inside = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
  inside = np.maximum(inside, 0)
  # This order of the sum gives the same rounding as ActivityNet's evaluator.
  union = (b[None, :, 1] - b[None, :, 0]) + (a[:, None, 1] - a[:, None, 0]) - inside
  same = (a[:, None] == b[None]).all(axis=-1)
  return np.divide(inside, union, out=same.astype(np.float64), where=union > 0)


def runs(active: np.ndarray) -> np.ndarray:
  """Maximal runs of True as half-open ranges.

  Args:
    active: bool `[T]`.

  Returns:
    int64 `[R, 2]`, ascending: `active[start:end]` is all True.
  """
  edges = np.diff(np.concatenate([[False], np.asarray(active, bool), [False]]).astype(np.int8))
  return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)


def covers(segment: np.ndarray, steps: int, step_seconds: float) -> np.ndarray:
  """Which segments contain the middle of each step.

  Args:
    segment: float `[S, 2]`, half-open, in seconds.
    steps: T.
    step_seconds: step t covers [t, t + 1) times this.

  Returns:
    bool `[S, T]`.
  """
  segment = np.asarray(segment, np.float64).reshape(-1, 2)
  middle = (np.arange(steps) + 0.5) * step_seconds
  return (segment[:, :1] <= middle) & (middle < segment[:, 1:])
