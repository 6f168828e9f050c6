"""The order in which ActivityNet's evaluator takes values, of which some may be equal.

It reverses NumPy's quicksort, which is not stable: the order of equal values follows from the steps
of the algorithm. NumPy now sorts with other algorithms on processors with AVX2 or AVX-512, so the
same file could score differently on two machines. The steps here are those of the plain quicksort:
median of three, partition from both ends, the smaller part first, and insertion for 16 and fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_INSERTION = 16  # at most so many values are sorted by insertion, which is stable


def descending(values: np.ndarray | Sequence[float], *, least: float = -math.inf) -> np.ndarray:
  """Positions of the values from highest to lowest, as `np.argsort(values)[::-1]` orders them.

  Args:
    values: `[N]`, finite.
    least: equal values below this may come in any order.

  Returns:
    int64 `[N]`.
  """
  values = np.asarray(values)
  order = np.argsort(values, kind="stable")
  ranked = values[order]
  tied = (ranked[1:] == ranked[:-1]) & (ranked[1:] >= least)
  if len(values) > _INSERTION and tied.any():
    order = np.array(_quicksort(values.tolist()))
  return order[::-1]


def _quicksort(v: list[float]) -> list[int]:
  t = list(range(len(v)))
  # Ranges that are still to be sorted, both ends included, and how often each may be divided.
  left = [(0, len(v) - 1, 2 * (len(v).bit_length() - 1))]
  while left:
    low, high, depth = left.pop()
    while high - low >= _INSERTION and depth >= 0:
      middle = low + (high - low) // 2
      for a, b in ((middle, low), (high, middle), (middle, low)):
        if v[t[a]] < v[t[b]]:
          t[a], t[b] = t[b], t[a]
      pivot = v[t[middle]]
      i, j = low, high - 1
      t[middle], t[j] = t[j], t[middle]
      while True:
        i += 1
        while v[t[i]] < pivot:
          i += 1
        j -= 1
        while pivot < v[t[j]]:
          j -= 1
        if i >= j:
          break
        t[i], t[j] = t[j], t[i]
      t[i], t[high - 1] = t[high - 1], t[i]
      depth -= 1
      if i - low < high - i:
        left.append((i + 1, high, depth))
        high = i - 1
      else:
        left.append((low, i - 1, depth))
        low = i + 1
    # A range that was divided too often, which takes values made for it, is left to a stable sort;
    # NumPy's heapsort would order equal values there differently.
    t[low : high + 1] = sorted(t[low : high + 1], key=v.__getitem__)
  return t
