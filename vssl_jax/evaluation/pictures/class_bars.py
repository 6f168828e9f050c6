"""Draws top-1 within each class as bars, with the protocols side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from vssl_jax import figure as figure_lib

_MOST = 40  # at most this many classes in one picture


def draw(
  path: str | os.PathLike[str],
  per_class: Mapping[str, Sequence[float]],
  label_names: Sequence[str],
  videos: Sequence[int | None],
  title: str = "",
) -> None:
  """Draws a group of horizontal bars per class.

  With more than 40 classes, only the 20 weakest and the 20 strongest are drawn.

  Args:
    path: path of the PNG.
    per_class: protocol -> top-1 of each of K classes, NaN or None for a class without videos.
    label_names: K names.
    videos: number of evaluation videos of each of K classes, None if unknown.
    title: title above the picture.
  """
  scores = np.array([[np.nan if x is None else x for x in row] for row in per_class.values()])
  shown = select(scores)
  rows, bars = len(shown), len(scores)
  height = 0.8 / bars
  figure = figure_lib.new(7.5, 1.3 + rows * (0.16 * bars + 0.16) + 0.22 * ((bars + 3) // 4))
  axis = figure.subplots()
  tones = figure_lib.colors(max(bars, 3))
  y = np.arange(rows)
  for i, (name, row) in enumerate(zip(per_class, scores, strict=True)):
    place = y + (i - (bars - 1) / 2) * height
    axis.barh(place, 100 * np.nan_to_num(row[shown]), height * 0.92, color=tones[i], label=name)
  names = [
    figure_lib.short(label_names[c]) + (f" ({videos[c]})" if videos[c] is not None else "")
    for c in shown
  ]
  axis.set_yticks(y, names)
  axis.set(xlim=(0, 100), ylim=(rows - 0.5, -0.5), xlabel="top-1 within the class, %")
  axis.set_title(title, fontsize=10, loc="left")
  axis.grid(axis="x", color="0.9")
  axis.set_axisbelow(True)
  if rows < len(label_names):
    axis.axhline(rows / 2 - 0.5, color=figure_lib.GREY, ls=":")
  figure.legend(loc="outside lower center", ncols=min(4, bars), frameon=False, fontsize=9)
  figure_lib.save(figure, path)


def select(scores: np.ndarray, most: int = _MOST) -> np.ndarray:
  """The classes to show: all, or the weakest and the strongest by the mean over protocols.

  Args:
    scores: float `[P, K]`, NaN if unknown.
    most: the largest number of classes to show.

  Returns:
    int `[≤ most]`: class indices, ascending if all are shown, else from weakest to strongest.
  """
  known = np.flatnonzero(~np.isnan(scores).all(axis=0))
  if len(known) <= most:
    return known
  order = known[np.argsort(np.nanmean(scores[:, known], axis=0), kind="stable")]
  return np.concatenate([order[: most // 2], order[len(order) - most // 2 :]])
