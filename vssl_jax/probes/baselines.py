"""What a class can be told by without any representation: pixels and colors."""

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
  """The middle frame of uint8 clips [N, T, H, W, C], averaged down: float32 [N, side²·C]."""
  return _flat(shrink(clips[:, clips.shape[1] // 2], min(side, clips.shape[2])))


def small_clip(clips: np.ndarray, frames: int = 4, side: int = 8) -> np.ndarray:
  """`frames` frames, evenly spaced and averaged down: float32 [N, frames·side²·C]."""
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
  """Every baseline's input for one view of each video.

  Args:
    batches: evaluation batches, clips uint8 [N, S, T, H, W, C].
    view: which of the S views.

  Returns:
    float32 [V, F] under each name of `BASELINES`, and `label` and `video` [V], sorted by video.

  Raises:
    UserError: there is no video.
  """
  parts = []
  for batch in batches:
    keep = np.asarray(batch.get("valid", np.ones(len(batch["label"]), bool)))
    clips = np.asarray(batch["clips"])[keep, view]
    part = {name: np.asarray(batch[name])[keep] for name in ("label", "video")}
    parts.append(part | {name: function(clips) for name, function in BASELINES.items()})
  return combine(parts)


def shrink(frames: np.ndarray, side: int) -> np.ndarray:
  """Averages areas: [..., H, W, C] to float32 [..., side, side, C] in [0, 1] for uint8 input.

  Every source pixel weighs in by its overlap with the target pixel, so the mean is kept.
  """
  rows, columns = (_overlap(n, side) for n in frames.shape[-3:-1])
  small = np.einsum("...hwc,ih->...iwc", frames.astype(np.float32) / 255.0, rows)
  return np.einsum("...iwc,jw->...ijc", small, columns)


def _overlap(length: int, side: int) -> np.ndarray:
  """Share of each target cell that each source pixel covers, float32 [side, length]."""
  edges = np.arange(side + 1) * length / side
  pixel = np.arange(length)
  low = np.maximum(edges[:-1, None], pixel)
  high = np.minimum(edges[1:, None], pixel + 1)
  return (np.maximum(high - low, 0.0) * side / length).astype(np.float32)


def _flat(x: np.ndarray) -> np.ndarray:
  return x.reshape(len(x), -1).astype(np.float32)


def evaluate(config: ConfigDict, source_train: Source, source_eval: Source) -> dict[str, Any]:
  """The same logistic regression on pixels and colors of each video's middle view.

  Returns:
    For each of `baselines.BASELINES` `top1`, `top5`, how it was fitted, and `numbers`, the
    numbers per video that it sees.

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
