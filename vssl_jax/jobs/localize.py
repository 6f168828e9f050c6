"""Actions in untrimmed videos, by a trained BaS-Net or DCC.

  python -m vssl_jax.localize --checkpoint=RUN --data=FEATURES --output=DIR

FEATURES is a folder of `<video>.npy` as the run was trained on (`vssl_jax.extract_features` makes
such); without it the run's own test split is taken. With annotations (`annotations.json` in the
folder, or --annotations) predictions are scored, and ground truth is drawn beside them; without any
all videos of the folder are localized. Held-out videos tell, before methods are compared, which
thresholds suit a network:

  python -m vssl_jax.localize --checkpoint=RUN --split=train:held_out --thresholds=0.3:0.75:0.05 \
      --output=DIR

DIR gets `predictions.json` (ActivityNet's format), `timelines/<video>.png` and, with annotations,
`scores.json`.

Exit status: 0 all is well, 2 bad usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vssl_jax import methods, results
from vssl_jax.errors import UserError
from vssl_jax.files import make_folder
from vssl_jax.localization import scores as scores_lib
from vssl_jax.localization import timelines
from vssl_jax.localization.annotations import write_predictions
from vssl_jax.localization.source import SequenceSource, sequences_of
from vssl_jax.methods.base import Localizer
from vssl_jax.training import run_folder, sources

SCORES = "scores.json"
_THRESHOLDS = 1000


def localize(args: argparse.Namespace) -> dict[str, Any]:
  """Does what the command line says.

  Returns:
    `videos`, `segments`, and with annotations `scores`, as `localization.scores.score` has them.

  Raises:
    UserError: no such run, another method's, no such data, or data of another width or classes.
  """
  config, _, state = run_folder.load_state(pathlib.Path(args.checkpoint))
  localizer = methods.evaluator(config).localizer
  if localizer is None:
    raise UserError(
      f"--checkpoint: {args.checkpoint} is a run of {config.method}, which does not localize; give "
      "one of configs/dcc.py."
    )
  given = {"annotations": args.annotations, "durations": args.durations}
  source = open_split(config, localizer, args.data, split=args.split, **given)
  output = make_folder(args.output)
  params = jax.device_get(state.params)
  options = dict(localizer.predict)
  if args.thresholds:
    chosen = {"thresholds": _thresholds(args.thresholds)}
    options["settings"] = dataclasses.replace(options["settings"], **chosen)
  predictions, accuracy = scores_lib.predict(localizer.activate(params), source, **options)
  write_predictions(output / timelines.PREDICTIONS, predictions)
  drawn = localizer.look(params, state.method)
  timelines.timelines(
    output, drawn, source, predictions, batch_size=options["batch_size"], videos=args.timelines
  )
  outcome: dict[str, Any] = {
    "videos": len(predictions),
    "segments": sum(map(len, predictions.values())),
  }
  if any(video.segments for video in source.videos):
    scores = scores_lib.score(source, predictions, accuracy, protocol=localizer.protocol)
    outcome["scores"] = scores
    results.write_json(scores, output / SCORES)
  return outcome


def _thresholds(text: str) -> tuple[float, ...]:
  """`first:last:step`, or numbers between commas.

  Raises:
    UserError: it is neither, or they are too many.
  """
  try:
    if ":" not in text:
      return tuple(float(x) for x in text.split(","))
    first, last, step = (float(x) for x in text.split(":"))
    count = math.floor((last - first) / step + 1e-9) + 1  # 0.3:0.7:0.1 has five, for all rounding
  except (ValueError, ZeroDivisionError, OverflowError):
    raise UserError(
      f"--thresholds: {text!r} is neither first:last:step nor numbers between commas."
    ) from None
  if count > _THRESHOLDS:
    raise UserError(f"--thresholds: {text!r} are {count}; give {_THRESHOLDS} or fewer.")
  return tuple((first + step * np.arange(count)).tolist())


def open_split(
  config: ConfigDict,
  localizer: Localizer,
  data: str,
  *,
  annotations: str = "",
  durations: str = "",
  split: str = "",
) -> SequenceSource:
  """The videos to localize.

  Args:
    config: a run's.
    localizer: of its method.
    data: folder of features; "" for the run's own data.
    annotations: ground truth; "" for `annotations.json` in the folder, if there is one.
    durations: CSV of durations where the annotations have none.
    split: by default the run's evaluation split; of annotated videos only.

  Raises:
    UserError: no such data, or of another width or of unknown classes.
  """
  from data_pipelines.untrimmed import sequences

  chosen, split = split, split or config.data.eval_split
  if not data:
    if annotations or durations:
      raise UserError("--annotations and --durations are of other videos: give their --data.")
    return sequences_of(sources.load_source(config, split))
  config = config.copy_and_resolve_references().unlock()
  fields = config.data.localization
  config.data.source, config.data.path = "localization", data
  fields.annotations, fields.durations = annotations, durations
  names = localizer.label_names
  if not names:
    raise UserError(
      "--data: the run is of before class names were kept; it knows its own data only."
    )
  where = {"batch_size": 1, "seed": 0, "process_index": 0, "process_count": 1}
  if annotations or (pathlib.Path(data) / "annotations.json").is_file():
    dataset = sequences.read(config.data, split, label_names=names)
  else:
    if chosen or durations:
      raise UserError(
        f"--split and --durations are of annotated videos: give --annotations, or put "
        f"annotations.json into {data}."
      )
    split = sequences.UNLABELLED
    dataset = sequences.unlabelled(config.data, names)
  source = sequences.LocalizationSource(config.data, dataset, split=split, **where)
  width = source.sequence(0).shape[1]
  if width != localizer.width:
    raise UserError(
      f"--data: {data} has features of width {width}, the run was trained on {localizer.width}."
    )
  return source


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m vssl_jax.localize",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--checkpoint", required=True, help="folder of a run of configs/dcc.py")
  add("--data", default="", help="folder of feature sequences (the run's own test split)")
  add("--annotations", default="", help="ground truth, ActivityNet's JSON (DATA/annotations.json)")
  add("--durations", default="", help="CSV of video_id, duration_s, where the JSON has none")
  add("--split", default="", help="subset of the annotations (the run's evaluation split)")
  add("--thresholds", default="", help="of proposals, FIRST:LAST:STEP or A,B,… (the run's)")
  add("--output", required=True, help="folder for predictions and pictures")
  add("--timelines", type=int, default=8, help="videos drawn, evenly spaced (8)")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit status."""
  args = _parser().parse_args(argv)
  try:
    outcome = localize(args)
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    return 2
  print(f"{args.output}: {outcome['segments']} segments in {outcome['videos']} videos")
  if "scores" in outcome:
    print("mAP " + ", ".join(f"@{t} {100 * x:.1f}" for t, x in outcome["scores"]["mAP"].items()))
    for span, value in outcome["scores"]["average"].items():
      print(f"average of {span}: {100 * value:.1f} %")
  return 0
