"""`vssl study`: the flags of `vssl_jax.study`."""

from __future__ import annotations

import argparse

from vssl_jax.cli import arguments
from vssl_jax.errors import UserError
from vssl_jax.studies import catalog

RESUMES = True
_DESCRIPTION = """\
A table of a paper by one command: trains every cell of a study with every seed, and tabulates.

Running it again continues interrupted runs and runs no finished one again. Several processes may
share the runs: --jobs starts some, one per GPU; tasks of a SLURM array have a share each; and any
others that are started in the same folder take the runs that no other is training.

The folder gets the folder of each run with its result.json, table.md and table.json with mean and
standard deviation over seeds, and plot.png. Scores are those of the test split, of each run's last
checkpoint; a study chooses nothing by them. NAME may also be a Python file with studies of your
own, which is run; after a colon the name of one of several.

studies:
"""
EXAMPLES = """\
vssl study cvrl_fig7_interval
vssl study cvrl_fig7_interval --dry_run
vssl study rho_clips_epochs --only=method=MoCo+BYOL --seeds=0 --config.epochs=9
vssl study cvrl_fig11_data --variant=ucf6 --data=RECORDS --jobs=4
vssl study provico_parts --output=/shared/provico_parts --part=3/16
vssl study dcc_memory --table
"""


def parser() -> arguments.Parser:
  """The flags."""
  width = max(map(len, catalog.SHIPPED))
  listed = "\n".join(f"  {name:{width}}  {s.about}" for name, s in catalog.SHIPPED.items())
  p = arguments.Parser("vssl study", _DESCRIPTION + listed, EXAMPLES, fields=True)
  add = p.add_argument
  add("name", metavar="NAME", help="a study above, or a file of your own with studies")
  arguments.output(
    p, "folder of the study (default: runs/studies/NAME, or NAME_VARIANT)", required=False
  )
  add(
    "--variant",
    default="",
    metavar="NAME",
    help="variant of the recipes, such as ucf6 (default: the study's own, demo)",
  )
  add(
    "--data",
    default="",
    metavar="DIR",
    help="folder of prepared records, or for DCC of features (default: the recipe's data)",
  )
  add(
    "--seeds",
    type=arguments.listed(int),
    default=(),
    metavar="N,…",
    help="seeds of every cell (default: the study's own, 0,1,2)",
  )
  add(
    "--only",
    type=_labels,
    default={},
    metavar="AXIS=LABEL+LABEL,…",
    help="run these cells alone; the table has all",
  )
  add(
    "--part",
    default="",
    metavar="I/N",
    help="run the I-th of N shares of the runs (default: all, or a SLURM array task's share)",
  )
  add(
    "--jobs",
    type=int,
    default=0,
    metavar="N",
    help="runs at the same time (default: 0, one per GPU, or one without a GPU)",
  )
  arguments.switch(p, "table", "run nothing, write the table of what is there")
  arguments.switch(p, "dry_run", "run nothing, list the runs, their states and expected times")
  return p


def _labels(text: str) -> dict[str, tuple[str, ...]]:
  """Parses "method=MoCo+BYOL,ρ=2"."""
  found = {}
  for item in filter(None, text.split(",")):
    axis, equals, labels = item.partition("=")
    if not equals or not labels:
      raise argparse.ArgumentTypeError(f"{item!r}: give an axis and labels, as in method=MoCo+BYOL")
    found[axis.strip()] = tuple(labels.split("+"))
  return found


def run(args: argparse.Namespace) -> int:
  """Runs the study, and prints its table or the plan."""
  from vssl_jax import files, results
  from vssl_jax.studies import configs, plan
  from vssl_jax.studies import run as run_lib

  if args.table and args.dry_run:
    raise UserError("--table and --dry_run: give one of them.")
  fields = args.fields
  given = {k: v for k, v in arguments.given(args).items() if k not in ("fields", "table")}
  if fields:
    _, found = catalog.find(args.name)
    config = configs.load(found.recipe, args.variant or found.variant)
    given["overrides"] = arguments.field_values(config, fields)
  outcome = run_lib.study(given.pop("name"), tabulate=args.table, **given)
  if args.dry_run:
    print(plan.text(outcome["runs"]))
    return 0
  print(files.read_text(files.path(outcome["output"]) / run_lib.TABLE))
  short = {row["cell"]: row["scores"] for row in outcome["rows"]}
  print(results.result_line({"job": "study", "study": outcome["study"], "cells": short}))
  return 0
