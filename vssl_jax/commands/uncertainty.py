"""`vssl uncertainty`: the flags of `vssl_jax.uncertainty.analysis`."""

from __future__ import annotations

import argparse

from vssl_jax.cli import arguments
from vssl_jax.errors import UserError

DESCRIPTION = """\
What ProViCo's uncertainty is worth: the paper's analysis of one run or of several side by side.

Evaluation videos are the queries, the training split is the bank. The output folder gets

  training.png    uncertainty and R@1 by epoch, of all checkpoints kept (config.save.keep)
  quantiles.png   R@1 of groups of videos by uncertainty
  corruption.png  both against blur, noise, occlusion and dropped frames
  pairs_RUN.png   for some training videos the mined positives and the hardest negatives
  analysis.json   every number

The command prints whether uncertainty and R@1 correlate, and a RESULT line at the end. A run
without labels gets the pairs alone.

Uncertainty is pushed without regard to any video, which such a correlation over training cannot
tell from learning: ½ log s of the loss pushes it down, the divergence from N(0, I) up. Give the
runs of `demo`, `demo,soft` (without the one) and `demo,no_kl` (without the other) side by side.

--untrimmed=DIR asks other questions instead, of the same runs: is uncertainty higher in the
background of untrimmed videos than in their actions, or where one turns into the other, and which
moments would be mined as pairs? It writes untrimmed.json.

It uses all devices. On a pod, start the same command on every host.
"""
EXAMPLES = """\
vssl uncertainty --checkpoint runs/provico_demo --output=analysis
vssl uncertainty --output=analysis \\
  --checkpoint runs/provico_demo runs/provico_demo_no_kl runs/provico_demo_soft
vssl uncertainty --checkpoint runs/provico_demo --untrimmed=VIDEOS --output=analysis
"""


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl uncertainty", DESCRIPTION, EXAMPLES)
  add = p.add_argument
  add(
    "--checkpoint",
    required=True,
    nargs="+",
    metavar="DIR",
    help="folders of runs of provico",
  )
  arguments.which(p)
  arguments.output(p, "folder to write, made if missing")
  add("--data", default="", metavar="DIR", help="folder of prepared records (default: the run's)")
  add(
    "--videos",
    type=int,
    nargs="+",
    default=[],
    metavar="N",
    help="training videos whose pairs are shown, by number (default: six, by uncertainty)",
  )
  add(
    "--quantiles",
    type=int,
    default=5,
    help="number of groups of videos by uncertainty (default: 5)",
  )
  add(
    "--untrimmed",
    default="",
    metavar="DIR",
    help="analyze untrimmed videos instead: a folder of them, with annotations.json",
  )
  add("--annotations", default="", help="ground truth of --untrimmed, ActivityNet's JSON")
  arguments.distributed(p)
  return p


def run(args: argparse.Namespace) -> int:
  """Runs the analysis, and prints the correlations and the RESULT line."""
  from vssl_jax import parallel, results
  from vssl_jax.uncertainty import analysis, untrimmed

  given = arguments.given(args)
  if args.untrimmed:
    names = ("checkpoint", "output", "untrimmed", "annotations", "which")
    found = untrimmed.analyze_runs(**{k: given[k] for k in names})
    print(*(untrimmed.describe(name, one) for name, one in found.items()), sep="\n")
    print(results.result_line({"job": "uncertainty", "untrimmed": found}))
    return 0
  if given.pop("annotations"):
    raise UserError("--annotations: is of --untrimmed; give both.")
  del given["untrimmed"]
  runs, files = analysis.analyze_runs(**given)
  if not parallel.first():
    return 0
  for name, found in runs.items():
    print(analysis.describe(name, found))
    if "videos" not in found:
      print("  no labels: nothing but mined pairs")
  print(*files, sep="\n")
  kept = ("step", "correlations", "quantiles")
  short = {n: {k: r[k] for k in kept if k in r} for n, r in runs.items()}
  print(results.result_line({"job": "uncertainty", "runs": short}))
  return 0
