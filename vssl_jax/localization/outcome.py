"""The files of a localization: predictions and, if the videos are annotated, the ground truth."""

from __future__ import annotations

import pathlib

from vssl_jax.localization.annotations import Predictions, write_annotations, write_predictions
from vssl_jax.localization.source import SequenceSource

PREDICTIONS, TRUTH = "predictions.json", "truth.json"  # in the output folder


def write(folder: pathlib.Path, predictions: Predictions, source: SequenceSource) -> None:
  """Writes `predictions.json` and `truth.json`, both as ActivityNet does.

  Args:
    folder: an existing folder.
    predictions: predictions by video.
    source: the split that they are for.

  Raises:
    UserError: a time or score is not finite.
  """
  write_predictions(folder / PREDICTIONS, predictions)
  if any(video.segments for video in source.videos):
    write_annotations(folder / TRUTH, dict(zip(source.names, source.videos, strict=True)))
