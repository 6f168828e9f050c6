"""Baselines without a learned representation: classify videos from pixels and colors alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax.probes import logistic, views
from vssl_jax.probes.features import combine

Batch = Mapping[str, np.ndarray]


def middle_frame(clips: np.ndarray, side: int = 16) -> np.ndarray:
  """The middle frame of uint8 clips [N, T, H, W, C], area-averaged: float32 [N, side²·C]."""
  return _flat(shrink(clips[:, clips.shape[1] // 2], min(side, clips.shape[2])))


def small_clip(clips: np.ndarray, frames: int = 4, side: int = 8) -> np.ndarray:
  """`frames` evenly spaced frames, area-averaged: float32 [N, frames·side²·C]."""
  length = clips.shape[1]
  pick = np.linspace(0, length - 1, min(frames, length)).round().astype(int)
  return _flat(shrink(clips[:, pick], min(side, clips.shape[2])))


def color_means(clips: np.ndarray) -> np.ndarray:
  """The mean color of every frame: float32 [N, T·C]."""
  return _flat(clips.mean(axis=(2, 3), dtype=np.float64))


BASELINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  "pixels": middle_frame,
  "pixels_clip": small_clip,
  "color_means": color_means,
}


def collect(batches: Iterable[Batch], view: int = 0) -> dict[str, np.ndarray]:
  """Collects the input of every baseline, from one view of each video.

  Args:
    batches: evaluation batches with clips, uint8 [N, S, T, H, W, C].
    view: index of the view, of S.

  Returns:
    float32 [V, F] for each name in `BASELINES`, and `label` and `video` [V], sorted by video.

  Raises:
    UserError: the batches hold no video.
  """
  parts = []
  for batch in batches:
    keep = np.asarray(batch.get("valid", np.ones(len(batch["label"]), bool)))
    clips = np.asarray(batch["clips"])[keep, view]
    part = {name: np.asarray(batch[name])[keep] for name in ("label", "video")}
    parts.append(part | {name: function(clips) for name, function in BASELINES.items()})
  return combine(parts)


def shrink(frames: np.ndarray, side: int) -> np.ndarray:
  """Area averaging of uint8 [..., H, W, C] to float32 [..., side, side, C] in [0, 1].

  Each source pixel is weighted by its overlap with the target pixel, so the mean stays the same.
  """
  rows, columns = (_overlap(n, side) for n in frames.shape[-3:-1])
  small = np.einsum("...hwc,ih->...iwc", frames.astype(np.float32) / 255.0, rows)
  return np.einsum("...iwc,jw->...ijc", small, columns)


def _overlap(length: int, side: int) -> np.ndarray:
  """The fraction of each target cell that each source pixel covers, float32 [side, length]."""
  edges = np.arange(side + 1) * length / side
  pixel = np.arange(length)
  low = np.maximum(edges[:-1, None], pixel)
  high = np.minimum(edges[1:, None], pixel + 1)
  return (np.maximum(high - low, 0.0) * side / length).astype(np.float32)


def _flat(x: np.ndarray) -> np.ndarray:
  return x.reshape(len(x), -1).astype(np.float32)


def evaluate(config: ConfigDict, source_train: Source, source_eval: Source) -> dict[str, Any]:
  """Fits the probes' logistic regression on pixels and colors of each video's middle view.

  Returns:
    For each name in `BASELINES`: `top1`, `top5`, how the regression was fitted, and `numbers`,
    the number of inputs per video.

  Raises:
    UserError: a split is empty or has no labels.
  """
  e = config.data.eval
  middle = (e.clips // 2) * e.crops + e.crops // 2
  train = collect(views.eval_batches(source_train, config), middle)
  test = collect(views.eval_batches(source_eval, config), middle)
  names = source_train.video_names
  names = tuple(names[v] for v in train["video"]) if names else ()
  result = {}
  for name in BASELINES:
    given = (train[name], train["label"], test[name], test["label"])
    fitted = logistic.fit(config, source_train, *given, names=names)
    result[name] = fitted.summary() | {"numbers": train[name].shape[1]}
  return result
