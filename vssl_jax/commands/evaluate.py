"""`vssl evaluate`: the flags of `vssl_jax.evaluate`."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from vssl_jax.cli import arguments
from vssl_jax.evaluation import options as options_lib

RESUMES = True
DESCRIPTION = """\
Every evaluation protocol from one checkpoint, as a table, numbers and pictures.

Protocols: logistic, cross_validation (within the training split), knn, retrieval, few_shot, motion
(frames of test clips in other orders), embedding (pictures), linear, semi_supervised, finetune, and
with --untrimmed=DIR localization_features; all by default. Data, views and clips are the
checkpoint's own unless flags say otherwise. Several folders, or several pairs of splits, are
evaluated one by one and averaged.

The output folder gets table.md and summary.json, and for each pair of splits a folder with
<protocol>.json (the scores and the whole protocol), pictures, and the subsets of the
semi-supervised protocol as lists of videos. Running again goes on where it was broken off and runs
no finished protocol again, but for those that videos were lost to; --again does.

It uses all devices. On a pod, start the same command on every host, with --output on storage that
all hosts share.
"""
EXAMPLES = """\
vssl evaluate --checkpoint=runs/mine --data=RECORDS
vssl evaluate --checkpoint=runs/mine --which=best --protocols=linear,knn,retrieval
vssl evaluate --checkpoint=runs/mine --data=UCF_1,UCF_2,UCF_3
vssl evaluate --checkpoint=runs/mine --splits=train1:test1,train2:test2,train3:test3
vssl evaluate --checkpoint=runs/mine --source=videos --data=VIDEOS
vssl evaluate --checkpoint=/shared/runs/mine --config.distributed.coordinator=auto
vssl evaluate --checkpoint=runs/mine --source=tfds --data=ucf101/ucf101_1,ucf101/ucf101_2
"""
_LISTS = {
  "lr_steps": float,
  "fractions": float,
  "subset_seeds": int,
  "shots": int,
  "subsets": str,
  "motion_scores": str,
}
# Of what the checkpoint decides if the flag is not given.
_UNSET = {"seed": int, "target_fps": float, "flip": float}


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl evaluate", DESCRIPTION, EXAMPLES)
  listed = arguments.listed()
  arguments.checkpoint(p)
  p.add_argument(
    "--data",
    type=listed,
    default=(),
    metavar="DIR,…",
    help="folders of prepared records, or with --source=videos of videos, or with --source=tfds "
    "names of data sets (default: the run's)",
  )
  p.add_argument(
    "--source",
    default="",
    help="config.data.source that reads --data (default: tfrecord; arrays for a run on arrays)",
  )
  p.add_argument(
    "--data_dir", default="", help="folder of TFDS's data, with --source=tfds (default: TFDS's own)"
  )
  p.add_argument(
    "--splits",
    type=listed,
    default=(),
    metavar="TRAIN:TEST,…",
    help="pairs of splits to evaluate on (default: the run's)",
  )
  p.add_argument(
    "--protocols", default="all", metavar="NAME,…", help="protocols to run (default: all)"
  )
  arguments.output(
    p,
    "folder for the results (default: evaluation in the checkpoint's folder, or evaluation_WHICH)",
    required=False,
  )
  p.add_argument("--again", action="store_true", help="run finished protocols again")
  arguments.distributed(p)
  for field in dataclasses.fields(options_lib.Options):
    if isinstance(field.default, bool):
      arguments.switch(p, field.name, options_lib.HELP[field.name], default=field.default)
      continue
    if field.name == "knn_bound":
      what = f"{options_lib.HELP[field.name]} (default: the checkpoint's)"
      arguments.switch(p, field.name, what, default=None)
      continue
    kind = arguments.listed(_LISTS[field.name]) if field.name in _LISTS else type(field.default)
    kind = _UNSET.get(field.name, kind)
    default: Any = field.default
    shown = ",".join(map(str, default)) if field.name in _LISTS else default
    shown = f"{shown:g}" if isinstance(shown, float) else shown
    own = "" if shown == "" else f" (default: {shown})"
    if field.name in options_lib.FROM_CHECKPOINT:
      own = " (default: the checkpoint's)"
    names = [f"--{field.name}", *options_lib.FORMER_FLAGS.get(field.name, ())]
    p.add_argument(
      *names, type=kind, default=field.default, help=options_lib.HELP[field.name] + own
    )
  return p


def run(args: argparse.Namespace) -> int:
  """Evaluates, and prints the RESULT line."""
  from vssl_jax import parallel, results
  from vssl_jax.evaluation.run import evaluate

  summary = evaluate(**arguments.given(args))
  left_out = ("views", "data", "settings")  # the file has them
  parallel.say(results.result_line({k: v for k, v in summary.items() if k not in left_out}))
  return 0
