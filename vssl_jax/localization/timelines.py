"""Pictures: the timeline of a video, and snippets in two dimensions."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vssl_jax import figure as figure_lib
from vssl_jax.localization.annotations import Prediction, Video
from vssl_jax.localization.observe import Look, Observed, observe
from vssl_jax.localization.proposals import normalize
from vssl_jax.localization.segments import runs
from vssl_jax.localization.source import SequenceSource

TIMELINES = "timelines"  # in the output folder
_MOST = 30  # largest number of predictions drawn per class
_NAMED = 24  # largest number of classes in the legend


def timeline(
  path: str | os.PathLike[str],
  seen: Observed,
  video: Video,
  predictions: Sequence[Prediction],
  label_names: Sequence[str],
) -> None:
  """Draws one video over time, with annotation, pseudo-labels, activations and predictions in rows.

  Pseudo-labels are drawn for the classes of the video: first before denoising, then (if the method
  denoises) after it. After denoising, a higher confidence is drawn darker; a snippet in a cluster
  of different ones has a confidence near 0. T-CAS is normalized as for proposals, but not
  smoothed; what is below 0 is not shown. The best predictions of each class are drawn, the most
  certain darkest and lowest.

  Args:
    path: path of the PNG, which is written atomically.
    seen: the steps of the video.
    video: the annotation of the video.
    predictions: the predictions for the video.
    label_names: the C classes.
  """
  own = [label_names[c] for c in seen.classes]
  found = [p.label for p in sorted(predictions, key=lambda p: -p.score)]
  shown = list(dict.fromkeys([*own, *found]))[: max(len(own), 4)]
  colors = {name: _color(label_names.index(name)) for name in shown}
  lanes = {name: i for i, name in enumerate(shown)}
  end = len(seen.attention) * seen.seconds
  edges = np.arange(len(seen.attention) + 1) * seen.seconds
  tall = 0.3 + 0.25 * len(shown)
  lanes_of: dict[str, np.ndarray] = {}
  if video.segments or own:  # a video without annotation has only predictions
    lanes_of |= {"ground truth": seen.truth, "pseudo-labels": seen.pseudo}
    if seen.trust is not None:
      lanes_of["… denoised"] = seen.pseudo * seen.trust
  heights = [tall] * len(lanes_of) + [0.8, 1.3, 1.7]
  figure = figure_lib.new(12, sum(heights) + 0.7)
  rows = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
  attention, activation, predicted = rows[-3:]

  for s in video.segments:
    if s.label in lanes:
      _block(rows[0], s.start, s.end, lanes[s.label], colors[s.label], 1.0)
  for i, name in enumerate(own):
    for axes, weight in zip(rows[1:], list(lanes_of.values())[1:], strict=False):
      _stripe(axes, edges, weight[:, i], lanes[name], colors[name])
  middle = edges[:-1] + seen.seconds / 2
  attention.fill_between(middle, seen.attention, color="0.75", linewidth=0)
  attention.plot(middle, seen.attention, color="0.3", linewidth=0.8)
  attention.set(ylim=(0, 1), yticks=(0, 1))
  for name in shown:
    c = label_names.index(name)
    activation.plot(middle, normalize(seen.cas[:, [c]])[:, 0], color=colors[name], linewidth=1)
  activation.set(ylim=(0, 1.02), yticks=(0, 1))
  _predicted(predicted, predictions, lanes, colors)

  labels = (*lanes_of, "attention", "T-CAS", f"predictions\n(of {len(predictions)})")
  for axes, label in zip(rows, labels, strict=True):
    axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    for s in video.segments:
      if axes is not rows[0] and s.label in lanes:
        axes.axvspan(s.start, min(s.end, end), color="0.93", zorder=-2, linewidth=0)
  for axes in rows[: len(lanes_of)]:
    axes.set(ylim=(max(len(shown), 1) - 0.5, -0.5), yticks=())
  grey = " (grey: annotated actions)" if video.segments else ""
  rows[-1].set(xlim=(0, end), xlabel=f"seconds{grey}")
  handles = [_patch(colors[name], name) for name in shown]
  rows[0].legend(
    handles=handles, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9
  )
  rows[0].set_title(seen.name, loc="right", fontsize=10)
  figure_lib.save(figure, path)


def scatter(
  path: str | os.PathLike[str],
  planes: Mapping[str, np.ndarray],
  label: np.ndarray,
  label_names: Sequence[str],
  notes: Mapping[str, str],
) -> None:
  """Draws snippets in two dimensions, one panel per space, one color per class, background gray.

  Args:
    path: path of the PNG, which is written atomically.
    planes: points `[N, 2]`, by title of the panel.
    label: int `[N]`, −1 for background.
    label_names: the classes.
    notes: text below each title.
  """
  figure = figure_lib.new(4.4 * len(planes) + 1.8, 5.6)
  panels = figure.subplots(1, len(planes), squeeze=False)[0]
  for axes, (title, xy) in zip(panels, planes.items(), strict=True):
    back = label < 0
    axes.scatter(*xy[back].T, s=6, color="0.78", linewidth=0, zorder=1)
    for c in np.unique(label[~back]):
      axes.scatter(*xy[label == c].T, s=9, color=_color(c), linewidth=0, alpha=0.85, zorder=2)
    axes.set_title(f"{title}\n{notes[title]}", fontsize=9)
    axes.set(xticks=(), yticks=(), box_aspect=1)
  present = [c for c in np.unique(label) if c >= 0][:_NAMED]
  handles = [_patch("0.78", "background")] + [_patch(_color(c), label_names[c]) for c in present]
  figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
  figure_lib.save(figure, path)


def _predicted(axes: Any, predictions: Sequence[Prediction], lanes: Any, colors: Any) -> None:
  """Draws predictions as bars; those of each class start at the bottom with the highest score."""
  best = sorted((p for p in predictions if p.label in lanes), key=lambda p: -p.score)
  placed = dict.fromkeys(lanes, 0)
  low = min((p.score for p in best), default=0.0)
  span = max(best[0].score - low, 1e-9) if best else 1.0
  for p in best:
    if placed[p.label] < _MOST:
      dark = 0.15 + 0.85 * (p.score - low) / span
      _block(axes, p.start, p.end, placed[p.label], colors[p.label], dark)
      placed[p.label] += 1
  axes.set(ylim=(-0.7, max([*placed.values(), 1]) - 0.3), yticks=())


def _block(axes: Any, start: float, end: float, lane: float, color: Any, dark: float) -> None:
  axes.barh(lane, end - start, left=start, height=0.8, color=color, alpha=dark, linewidth=0)


def _stripe(axes: Any, edges: np.ndarray, weight: np.ndarray, lane: int, color: Any) -> None:
  """Draws a row of steps, darker for higher weights; equal neighbors become one block."""
  level = np.round(np.asarray(weight, float), 2)
  for value in np.unique(level[level > 0]):
    for first, last in runs(level == value):
      _block(axes, edges[first], edges[last], lane, color, float(min(value, 1.0)))


def _color(c: int) -> Any:
  """One of twenty colors, strong ones first, then repeated."""
  from matplotlib import colormaps

  c = int(c) % 20
  return colormaps["tab20"](2 * c % 20 + c // 10)


def _patch(color: Any, label: str) -> Any:
  from matplotlib.patches import Patch

  return Patch(color=color, label=label if len(label) <= 24 else label[:23] + "…")


def timelines(
  folder: pathlib.Path,
  look: Look,
  source: SequenceSource,
  predictions: Mapping[str, Sequence[Prediction]],
  *,
  batch_size: int,
  videos: int,
) -> None:
  """Draws `timelines/<video>.png` for a number (`videos`) of evenly spaced videos of a split."""
  count = min(videos, source.num_videos)
  if count < 1:
    return
  few = source.only(np.linspace(0, source.num_videos - 1, count).astype(int).tolist())
  for seen in observe(look, few, batch_size=batch_size):
    if jax.process_index() == 0:
      path = folder / TIMELINES / (re.sub(r"[^\w.-]", "_", seen.name) + ".png")
      video, own = few.videos[seen.video], predictions[seen.name]
      timeline(path, seen, video, own, few.label_names)
