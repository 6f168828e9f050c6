"""`vssl localize`: the flags of `vssl_jax.localize`."""

from __future__ import annotations

import argparse
import math

from vssl_jax.cli import arguments
from vssl_jax.errors import UserError
from vssl_jax.localization.proposals import evenly_spaced

DESCRIPTION = """\
Actions in untrimmed videos, by a trained BaS-Net or DCC.

--data is a folder of <video>.npy as the run was trained on (vssl extract makes such), or in another
form of feature folders, such as BaS-Net's; without it the run's own test split is taken. With
annotations (annotations.json or gt.json in the folder, or --annotations) predictions are scored,
and ground truth is drawn beside them; without any all videos of the folder are localized. Held-out
videos tell, before methods are compared, which thresholds suit a network.

VIDEO is a raw video, or a folder of them: their features are extracted as those that the run was
trained on, if these were made by vssl extract and still have their manifest. --overlay also writes
the videos with their timelines.

The output folder gets predictions.json (ActivityNet's format), timelines/<video>.png and, with
annotations, scores.json; for raw videos also features/ and a page, report.html.
"""
EXAMPLES = """\
vssl localize --checkpoint=runs/actions --output=found
vssl localize holiday.mp4 --checkpoint=runs/actions --output=found --overlay=holiday_actions.mp4
vssl localize --checkpoint=runs/actions --which=best --data=NEW --output=found
vssl localize --checkpoint=runs/actions --split=train:held_out --thresholds=0.3:0.75:0.05 \\
  --output=chosen
"""
_THRESHOLDS = 1000


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl localize", DESCRIPTION, EXAMPLES)
  add = p.add_argument
  add("videos", nargs="?", default="", metavar="VIDEO", help="a raw video, or a folder of them")
  arguments.checkpoint(p, "folder of a run of configs/dcc.py")
  add("--data", default="", help="folder of feature sequences (default: the run's own test split)")
  add(
    "--annotations",
    default="",
    help="ground truth, ActivityNet's JSON (default: annotations.json or gt.json in DATA)",
  )
  add("--durations", default="", help="CSV of video_id, duration_s, if the JSON has no durations")
  add("--split", default="", help="subset of the annotations (default: the run's evaluation split)")
  add(
    "--thresholds",
    default="",
    metavar="FIRST:LAST:STEP|A,B,…",
    help="activations above which proposals are made (default: the run's)",
  )
  arguments.output(p, "folder for predictions and pictures")
  add(
    "--encoder",
    default="",
    metavar="DIR",
    help="encoder for VIDEO (default: the one of the run's features)",
  )
  add(
    "--overlay",
    default="",
    metavar="FILE",
    help="also write VIDEO with its timeline, as MP4 without sound; a folder for several",
  )
  add("--timelines", type=int, default=8, help="number of videos drawn, evenly spaced (default: 8)")
  return p


def run(args: argparse.Namespace) -> int:
  """Localizes, prints what was found; status 3 if videos could not be read."""
  from vssl_jax.jobs.localize import localize

  given = arguments.given(args)
  given["thresholds"] = _thresholds(args.thresholds) if args.thresholds else ()
  outcome = localize(**given)
  print(f"{args.output}: {outcome['segments']} segments in {outcome['videos']} videos")
  if "scores" in outcome:
    print("mAP " + ", ".join(f"@{t} {100 * x:.1f}" for t, x in outcome["scores"]["mAP"].items()))
    for span, value in outcome["scores"]["average"].items():
      print(f"average of {span}: {100 * value:.1f} %")
  return 3 if outcome.get("unreadable") else 0


def _thresholds(text: str) -> tuple[float, ...]:
  """Parses `first:last:step`, or comma-separated numbers.

  Raises:
    UserError: the text is neither, the range is empty, or there are too many numbers.
  """
  try:
    numbers = [float(x) for x in text.split(":" if ":" in text else ",")]
    if not all(map(math.isfinite, numbers)) or (":" in text and len(numbers) != 3):
      raise ValueError
  except ValueError:
    raise UserError(
      f"--thresholds: {text!r} is neither first:last:step nor numbers between commas."
    ) from None
  if ":" not in text:
    return tuple(numbers)
  first, last, step = numbers
  if step <= 0 or last < first:
    raise UserError(
      f"--thresholds: {text!r} is an empty range; give first:last:step that rises, such as "
      "0.3:0.7:0.1."
    )
  if (last - first) / step >= _THRESHOLDS:
    raise UserError(f"--thresholds: {text!r} is too many; give {_THRESHOLDS} or fewer.")
  return evenly_spaced(first, last, step)
