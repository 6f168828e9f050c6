"""`vssl train`: the flags of `vssl_jax.pretrain`."""

from __future__ import annotations

import argparse

from vssl_jax.cli import arguments, restarts
from vssl_jax.errors import UserError

RESUMES = True
DESCRIPTION = """\
Runs a config: pre-training with the probes that it asks for, fine-tuning, or a probe of a
checkpoint.

The folder of the run gets checkpoints, metrics.jsonl, TensorBoard's files and result.json, which is
printed as well, as a RESULT line. Running the same command again goes on where it was broken off.
Every field of a config has its default and its meaning in vssl_jax/config.py; the docstring of a
recipe has its variants, costs and results.
"""
EXAMPLES = """\
vssl train --config=cvrl:demo
vssl train --config=cvrl:ucf6 --config.data.path=RECORDS --workdir=runs/mine
vssl train --config=configs/mine.py --config.optim.lr=0.1 --config.epochs=50
vssl train --config=linear_probe:demo --config.checkpoint=runs/mine
vssl train --config=cvrl:k400 --dry_run
"""


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl train", DESCRIPTION, EXAMPLES, config=True)
  p.add_argument(
    "--workdir",
    metavar="DIR",
    help="folder of the run, which a second call continues (default: runs/<config.name>)",
  )
  arguments.switch(
    p, "dry_run", "print the resolved config, parameters, FLOPs, bytes and devices, and exit"
  )
  arguments.switch(
    p, "allow_config_change", "continue a run under a config other than the one it began with"
  )
  p.add_argument(
    "--profile",
    type=int,
    default=0,
    metavar="STEPS",
    help="trace so many train steps, for TensorBoard or xprof (default: 0)",
  )
  p.add_argument(
    "--restarts",
    type=int,
    default=0,
    metavar="N",
    help="start the run again up to N times if it crashes or loses another process (default: 0)",
  )
  return p


def run(args: argparse.Namespace) -> int:
  """Runs the config, and prints the RESULT line."""
  if args.config is None:
    raise UserError("--config is missing: e.g. --config=cvrl:demo")
  if args.restarts < 0:
    raise UserError(f"--restarts is {args.restarts}: give a number of times.")
  if args.restarts and not args.dry_run:
    return restarts.supervise(args.argv, args.restarts)
  import jax

  from vssl_jax import parallel, results
  from vssl_jax.jobs import dry_run
  from vssl_jax.jobs.run import pretrain

  if args.dry_run:
    parallel.initialize(args.config.distributed)
    print(dry_run.describe(args.config))
    return 0
  outcome = pretrain(
    args.config,
    workdir=args.workdir,
    allow_config_change=args.allow_config_change,
    profile=args.profile,
  )
  if jax.process_index() == 0:
    print(results.result_line(outcome), flush=True)
  return 0
