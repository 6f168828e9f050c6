"""`vssl score`: the flags of `vssl_jax.localization.score`."""

from __future__ import annotations

import argparse

from vssl_jax.cli import arguments

DESCRIPTION = """\
Scores a file of predictions, whoever made it, as ActivityNet's evaluator does.

Prints a Markdown table of average precisions by class and tIoU threshold, and the averages. A
prediction in a video that is not of the subset, or of a class that is nowhere annotated, is refused
by name; --lenient counts it as the evaluator does. Segments that start before 0 or end past the end
of their video count as they are; how many there are is said.
"""
EXAMPLES = """\
vssl score --annotations=gt.json --predictions=found/predictions.json
vssl score --annotations=gt.json --predictions=theirs.json --subset=validation \\
  --protocol=activitynet --lenient --json=scores.json
vssl score --annotations=gt.json --predictions=theirs.json --tious=0.3,0.5,0.7
"""


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl score", DESCRIPTION, EXAMPLES)
  add = p.add_argument
  add("--annotations", required=True, help="ground truth, ActivityNet's JSON")
  add("--predictions", required=True, help="predictions, ActivityNet's JSON")
  add("--durations", default="", help="CSV of video_id, duration_s, if the JSON has no durations")
  add("--subset", default="", help="subset of the ground truth (default: all of it)")
  add(
    "--protocol",
    default="thumos14",
    help="tIoU thresholds: thumos14, 0.1:0.7, or activitynet, 0.5:0.95 (default: thumos14)",
  )
  add(
    "--tious",
    type=arguments.listed(float),
    default=(),
    metavar="T,T",
    help="tIoU thresholds in place of the protocol's, such as 0.3,0.5,0.7",
  )
  add(
    "--lenient", action="store_true", help="allow predictions in other videos and of other classes"
  )
  add("--json", default="", help="file to write the figures to as well, unrounded")
  return p


def run(args: argparse.Namespace) -> int:
  """Scores, and prints the table."""
  from vssl_jax import results
  from vssl_jax.localization import score

  given = arguments.given(args)
  del given["json"]
  found = score.compare(**given)
  figures = score.figures(found, subset=args.subset, protocol="" if args.tious else args.protocol)
  print(found.table())
  if found.ignored:
    print(f"{found.ignored} predictions of classes that do not occur here are left out")
  for span, value in figures["average"].items():
    print(f"average of {span}: {100 * value:.2f} %")
  if args.json:
    results.write_json(figures, args.json, digits=results.EXACT)
  return 0
