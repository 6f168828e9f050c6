"""Scores any file of predictions, as ActivityNet's evaluator does."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.localization import annotations as annotations_lib
from vssl_jax.localization import scores
from vssl_jax.localization.detection_map import DetectionMap, detection_map


def score(
  annotations: str | os.PathLike[str],
  predictions: str | os.PathLike[str],
  *,
  durations: str | os.PathLike[str] = "",
  subset: str = "",
  protocol: str = "thumos14",
  tious: Sequence[float] = (),
  lenient: bool = False,
) -> dict[str, Any]:
  """Average precisions of a file of predictions.

  Args:
    annotations: ground truth, ActivityNet's JSON.
    predictions: likewise.
    durations: CSV of video_id, duration_s, if the annotations have no durations; they only serve to
      tell of segments past the end of their video.
    subset: of the ground truth; "" is all of it.
    protocol: "thumos14" (tIoU 0.1 to 0.7) or "activitynet" (0.5 to 0.95).
    tious: thresholds in (0, 1] in place of the protocol's.
    lenient: count predictions in other videos and of other classes as the evaluator does, in place
      of refusing them.

  Returns:
    `mAP` by threshold, `average` by range, average precisions `per_class`, `subset`, `protocol`
    ("" with thresholds of one's own, which are averaged from the lowest to the highest).

  Raises:
    UserError: a file is missing or malformed, predictions and ground truth do not fit, or a
      threshold is out of range or given twice.
  """
  found = compare(
    annotations,
    predictions,
    durations=durations,
    subset=subset,
    protocol=protocol,
    tious=tious,
    lenient=lenient,
  )
  return figures(found, subset=subset, protocol="" if tious else protocol)


def compare(
  annotations: str | os.PathLike[str],
  predictions: str | os.PathLike[str],
  *,
  durations: str | os.PathLike[str] = "",
  subset: str = "",
  protocol: str = "thumos14",
  tious: Sequence[float] = (),
  lenient: bool = False,
) -> DetectionMap:
  """What `score` is computed from, with a table of it; tells of times that no video has."""
  if protocol not in scores.TIOUS:
    raise UserError(f"--protocol: {protocol!r} is none of {', '.join(scores.TIOUS)}.")
  told = [f"{t:g}" for t in tious]  # as the figures name them
  if not all(0 < t <= 1 for t in tious) or len(set(told)) < len(told):
    raise UserError(f"--tious={','.join(told)}: give different thresholds, above 0 and at most 1.")
  truth = annotations_lib.read_annotations(annotations, durations=durations or None)
  chosen = truth
  if subset:
    chosen = annotations_lib.of_subset(truth, subset)  # names the subsets, where this is none
  found = annotations_lib.read_predictions(predictions)
  for path, listed in ((annotations, None), (predictions, found)):
    if odd := annotations_lib.odd_times(chosen, listed):
      note = files.printable(f"{path}: {odd}")
      print(f"note: {note}.", file=sys.stderr, flush=True)
  return detection_map(
    truth,
    found,
    tious=tuple(sorted(tious)) or scores.TIOUS[protocol],
    subset=subset or None,
    strict=not lenient,
  )


def figures(found: DetectionMap, *, subset: str, protocol: str) -> dict[str, Any]:
  """What `score` returns, of what `compare` found; `protocol` is "" for other thresholds."""
  return scores.summary(found, protocol) | {"subset": subset, "protocol": protocol}


if __name__ == "__main__":
  from vssl_jax import cli

  sys.exit(cli.run("vssl_jax.commands.score"))
