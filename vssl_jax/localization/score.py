"""Scores a file of predictions from any program, as ActivityNet's evaluator does.

  python -m vssl_jax.localization.score --annotations=gt.json --predictions=predictions.json

Prints a Markdown table of average precisions by class and tIoU threshold, and the averages. A
prediction in a video outside of the subset, or of a class that is not annotated, is an error;
--lenient treats it as the evaluator does.

Exit status: 0 all is well, 2 bad usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vssl_jax import results
from vssl_jax.errors import UserError
from vssl_jax.localization import annotations as annotations_lib
from vssl_jax.localization import scores
from vssl_jax.localization.detection_map import detection_map


def score(args: argparse.Namespace) -> str:
  """Scores the predictions as given on the command line; returns the text to print.

  Raises:
    UserError: a file is missing or malformed, or predictions do not match the ground truth.
  """
  truth = annotations_lib.read_annotations(args.annotations)
  subset = args.subset or None
  if subset:
    annotations_lib.of_subset(truth, subset)  # raises an error that lists the subsets
  found = detection_map(
    truth,
    annotations_lib.read_predictions(args.predictions),
    tious=scores.TIOUS[args.protocol],
    subset=subset,
    strict=not args.lenient,
  )
  figures = scores.summary(found, args.protocol)
  lines = [found.table()]
  if found.ignored:
    lines.append(f"{found.ignored} predictions of classes that do not occur here are ignored")
  lines += [f"average of {span}: {100 * value:.2f} %" for span, value in figures["average"].items()]
  if args.json:
    figures |= {"subset": args.subset, "protocol": args.protocol}
    results.write_json(figures, args.json)
  return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m vssl_jax.localization.score",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--annotations", required=True, help="ground truth, in ActivityNet's JSON format")
  add("--predictions", required=True, help="predictions, in ActivityNet's JSON format")
  add("--subset", default="", help="score only this subset of the ground truth (default: all)")
  add("--protocol", default="thumos14", choices=[*scores.TIOUS], help="tIoU 0.1:0.7 or 0.5:0.95")
  add(
    "--lenient", action="store_true", help="accept predictions in other videos or of other classes"
  )
  add("--json", default="", help="also write the figures to this file")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit status."""
  try:
    print(score(_parser().parse_args(argv)))
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
