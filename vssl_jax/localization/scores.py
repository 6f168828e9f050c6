"""Computes predictions and mean average precision from a network's activations on a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from vssl_jax.errors import UserError
from vssl_jax.localization import detection_map as maps
from vssl_jax.localization.annotations import Prediction, Predictions
from vssl_jax.localization.nms import suppress
from vssl_jax.localization.proposals import ProposalSettings, propose
from vssl_jax.localization.source import SequenceSource

TIOUS: Mapping[str, tuple[float, ...]] = {
  "thumos14": maps.THUMOS14,
  "activitynet": maps.ACTIVITYNET,
}
_AVERAGES = {
  "thumos14": ((0.1, 0.7), (0.1, 0.5), (0.3, 0.7)),
  "activitynet": ((0.5, 0.95),),
}

# (features float32 [N, T, D], mask bool [N, T]) -> logits [N, T, C] of the classes over time and
# probabilities [N, C] of the classes in the video
Activate = Callable[[np.ndarray, np.ndarray], tuple[jax.Array, jax.Array]]


class Activity(NamedTuple):
  """What a network finds in one video of T steps, and the labels of the video.

  Attributes:
    video: its number in the split.
    cas: float32 `[T, C]`, activation of the classes, without padding.
    probability: float32 `[C]`.
    seconds: duration of a step.
    labels: `[C]`, 1 if the class occurs.
  """

  video: int
  cas: np.ndarray
  probability: np.ndarray
  seconds: float
  labels: np.ndarray


class Choice(NamedTuple):
  """One of several sets of thresholds.

  Attributes:
    thresholds: the set with the best score; of equal ones the first.
    scores: the average mAP of each set, in their order.
  """

  thresholds: tuple[float, ...]
  scores: tuple[float, ...]


def predict(
  activate: Activate,
  source: SequenceSource,
  *,
  batch_size: int,
  settings: ProposalSettings | None = None,
  nms: float = 0.7,
  sigma: float | None = None,
) -> tuple[dict[str, list[Prediction]], float]:
  """Scored segments of every video of a split.

  Args:
    activate: see `Activate`.
    source: the split.
    batch_size: videos at a time; must be a multiple of the number of processes.
    settings: settings of the proposals.
    nms: of two segments of a class that overlap by this tIoU or more, the worse one is dropped.
    sigma: width of soft suppression, which then replaces `nms`.

  Returns:
    Predictions by video name, and the share of labeled videos whose most likely class is correct.
  """
  found = _activities(activate, source, batch_size)
  return _segments(found, source, settings=settings, nms=nms, sigma=sigma)


def choose(
  activate: Activate,
  source: SequenceSource,
  sets: Sequence[Sequence[float]],
  *,
  protocol: str,
  batch_size: int,
  settings: ProposalSettings | None = None,
  nms: float = 0.7,
  sigma: float | None = None,
) -> Choice:
  """Chooses among sets of thresholds by the average mAP on a split, such as held-out videos.

  Args:
    activate: see `Activate`; called once for each batch.
    source: the split.
    sets: the sets, at least one.
    protocol: see `evaluate`.
    batch_size: see `predict`.
    settings: settings of the proposals; its thresholds are not used.
    nms: see `predict`.
    sigma: see `predict`.
  """
  found = list(_activities(activate, source, batch_size))
  figures = []
  for thresholds in sets:
    own = dataclasses.replace(settings or ProposalSettings(), thresholds=tuple(thresholds))
    segments = _segments(found, source, settings=own, nms=nms, sigma=sigma)
    ((_, headline),) = score(source, *segments, protocol=protocol)["headline"].items()
    figures.append(headline["trained"])
  return Choice(tuple(sets[int(np.argmax(figures))]), tuple(figures))


def _activities(activate: Activate, source: SequenceSource, batch_size: int) -> Iterator[Activity]:
  for batch in source.eval_batches(batch_size):
    cas, probability = jax.device_get(activate(batch["features"], batch["mask"]))
    kept = ("mask", "labels", "seconds", "video", "valid")
    rows = gather({"cas": cas, "probability": probability, **{k: batch[k] for k in kept}})
    for i in np.flatnonzero(rows["valid"]):
      yield Activity(
        int(rows["video"][i]),
        rows["cas"][i][rows["mask"][i]],
        rows["probability"][i],
        float(rows["seconds"][i]),
        rows["labels"][i],
      )


def _segments(
  found: Iterable[Activity],
  source: SequenceSource,
  *,
  settings: ProposalSettings | None,
  nms: float,
  sigma: float | None,
) -> tuple[dict[str, list[Prediction]], float]:
  predictions, right, labeled = {}, 0, 0
  for one in found:
    proposals = propose(
      one.cas,
      one.probability,
      settings=settings,
      step_seconds=one.seconds,
      duration=source.videos[one.video].duration,
    )
    chosen = suppress(proposals, threshold=nms, sigma=sigma)
    predictions[source.names[one.video]] = chosen.predictions(source.label_names)
    labeled += bool(one.labels.any())
    right += bool(one.labels[one.probability.argmax()])
  return predictions, right / max(labeled, 1)


def evaluate(
  activate: Activate, source: SequenceSource, *, protocol: str = "thumos14", **kwargs: Any
) -> dict[str, Any]:
  """Predicts a split and scores it against its annotations.

  Args:
    activate: see `Activate`.
    source: the split.
    protocol: `thumos14` (tIoU 0.1 to 0.7) or `activitynet` (0.5 to 0.95).
    **kwargs: further arguments of `predict`.

  Returns:
    `mAP` by threshold, `average` by range, `per_class` average precisions, `video_accuracy`,
    `segments_per_video`, and the `headline`: shares in [0, 1].

  Raises:
    UserError: the protocol is unknown.
  """
  _check(protocol)
  predictions, accuracy = predict(activate, source, **kwargs)
  return score(source, predictions, accuracy, protocol=protocol)


def score(
  source: SequenceSource, predictions: Predictions, accuracy: float, *, protocol: str
) -> dict[str, Any]:
  """Scores the predictions for a split; returns the same as `evaluate`.

  Args:
    source: the split.
    predictions: predictions for all videos of the split, by name.
    accuracy: share of videos whose most likely class is correct.
    protocol: see `evaluate`.
  """
  _check(protocol)
  truth = dict(zip(source.names, source.videos, strict=True))
  # Not strict: a small split, such as the held-out videos, may not have all classes of the network.
  found = maps.detection_map(truth, predictions, tious=TIOUS[protocol], strict=False)
  figures = summary(found, protocol)
  first, value = next(iter(figures["average"].items()))
  return {
    **figures,
    "video_accuracy": accuracy,
    "segments_per_video": sum(map(len, predictions.values())) / max(len(predictions), 1),
    "videos": len(predictions),
    "headline": {f"mAP@{first}": {"trained": value}},
  }


def summary(found: maps.DetectionMap, protocol: str = "") -> dict[str, Any]:
  """`mAP` by threshold, `average` by range and average precisions `per_class`.

  Args:
    found: what is summarized.
    protocol: whose ranges are averaged; "": from the lowest to the highest threshold.
  """
  ranges = _AVERAGES[protocol] if protocol else ((min(found.tious), max(found.tious)),)
  tious = [f"{t:g}" for t in found.tious]
  return {
    "mAP": dict(zip(tious, found.mean.tolist(), strict=True)),
    "average": {f"{a:g}:{b:g}": found.average(a, b) for a, b in ranges},
    "per_class": {
      name: dict(zip(tious, row, strict=True))
      for name, row in zip(found.label_names, found.ap.tolist(), strict=True)
    },
  }


def _check(protocol: str) -> None:
  if protocol not in TIOUS:
    raise UserError(f"protocol is {protocol!r}: choose one of {', '.join(TIOUS)}.")


def gather(rows: Mapping[str, Any]) -> Mapping[str, Any]:
  """Gathers the rows of all processes, in their order: arrays, or trees of arrays, by name."""
  if jax.process_count() == 1:
    return rows
  return multihost_utils.process_allgather(dict(rows), tiled=True)
