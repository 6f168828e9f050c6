"""`vssl export`: the flags of `vssl_jax.export`."""

from __future__ import annotations

import argparse

from vssl_jax.cli import arguments

DESCRIPTION = """\
Writes an encoder as safetensors with a JSON card, and on demand programs and features.

The folder gets encoder.safetensors and encoder.json (config, preprocessing, hashes, results of
these weights); with --formats=program encoder.jax_export, with savedmodel saved_model/ and with
onnx encoder.onnx, which run without this library; with --features features_<split>.npz.
"""
EXAMPLES = """\
vssl export --checkpoint=runs/mine --output=exported
vssl export --checkpoint=runs/mine --which=best --output=exported --formats=program,savedmodel
vssl export --checkpoint=runs/mine --output=exported --features --data=RECORDS --split=train,test
vssl export --checkpoint=runs/mine --output=exported --push=hf://me/mine --license=apache-2.0
"""


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl export", DESCRIPTION, EXAMPLES)
  add, listed = p.add_argument, arguments.listed()
  arguments.checkpoint(p)
  arguments.output(p, "folder to write, made if missing")
  add(
    "--formats",
    type=listed,
    default=("safetensors",),
    metavar="NAME,…",
    help="what to write: safetensors (always), program (jax.export), savedmodel (TensorFlow), onnx",
  )
  add("--features", action="store_true", help="also write the features of --split")
  add("--data", default="", metavar="DIR", help="folder of prepared records (default: the run's)")
  add(
    "--split",
    type=listed,
    default=("train", "test"),
    metavar="NAME,…",
    help="splits whose features are written (default: train,test)",
  )
  add("--clips", type=int, default=0, help="clips per video (default: the run's)")
  add("--crops", type=int, default=0, help="crops per clip (default: the run's)")
  add("--batch_size", type=int, default=0, help="videos read at a time (default: the run's)")
  add("--overwrite", action="store_true", help="replace an export that is there already")
  add(
    "--push",
    default="",
    metavar="hf://OWNER/NAME",
    help="also upload to the Hugging Face Hub, with a model card, README.md",
  )
  add("--license", default="", metavar="NAME", help="of the model card, such as apache-2.0")
  add("--private", action="store_true", help="if --push makes the repository: only you see it")
  arguments.engine(p, "--data")
  return p


def run(args: argparse.Namespace) -> int:
  """Exports, and prints the files."""
  from vssl_jax.encoder.export import export

  print(*export(**arguments.given(args)), sep="\n")
  return 0
