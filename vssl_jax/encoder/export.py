"""Encoder weights, programs and features for use elsewhere, and weights back in.

  python -m vssl_jax.export --checkpoint=runs/cvrl --output=exported \
    --formats=safetensors,program,savedmodel --features --data=/data/ucf101 --split=train,test

writes `encoder.safetensors` (arrays by '/'-joined names under `params/` and `batch_stats/`) with
`encoder.json` (the card: config, preprocessing, hashes of data, weights and programs, results of
these weights); `encoder.jax_export` and `saved_model/`, which run without this library
(`vssl_jax.encoder.program`); and `features_<split>.npz`.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from data_pipelines import source as source_lib
from vssl_jax import results as results_lib
from vssl_jax.encoder import card as card_lib
from vssl_jax.encoder import encoder, exported, features_file, program, saved_model
from vssl_jax.errors import UserError
from vssl_jax.files import make_folder
from vssl_jax.models import inflate
from vssl_jax.training import checkpoints

FORMATS = ("safetensors", "program", "savedmodel")


def export(args: argparse.Namespace) -> list[pathlib.Path]:
  """Does what the command line says; the files written, in order.

  Raises:
    UserError: no such checkpoint, or a file to write exists and `--overwrite` is not given.
  """
  splits = [s for s in args.split.split(",") if s]
  output = pathlib.Path(args.output)
  formats = _formats(args.formats)
  if (output / checkpoints.CONFIG).exists():
    raise UserError(
      f"{output}: holds a run, whose checkpoints would be hidden; give another folder."
    )
  files = [output / exported.WEIGHTS, output / exported.CARD]
  programs = {"program": program.PROGRAM, "savedmodel": saved_model.SAVED_MODEL}
  written = [programs[name] for name in programs if name in formats]
  files += [output / name for name in written]
  kept = len(files)
  if args.features:
    files += [output / f"features_{split}.npz" for split in splits]
  # Programs and features of an earlier export are of other weights: they go, or everything stays.
  stale = [output / name for name in programs.values() if name not in written]
  stale += sorted(set(output.glob("features_*.npz")) - set(files))
  existing = [f for f in (*files, *stale) if f.exists()]
  if existing and not args.overwrite:
    raise UserError(f"{existing[0]} exists: give another --output, or --overwrite to replace it")
  idle = [f for f in ("data", "clips", "crops", "batch_size") if getattr(args, f)]
  if idle and not args.features:
    raise UserError(f"--{idle[0]} is of the features that are written with --features; give both.")
  if bad := next((f for f in ("clips", "crops", "batch_size") if getattr(args, f) < 0), None):
    raise UserError(f"--{bad}={getattr(args, bad)}: give 1 or more.")
  if "savedmodel" in formats:
    saved_model.exporters()
  config, variables, info = encoder.load_encoder(args.checkpoint)
  config = config.copy_and_resolve_references()
  seen = config.copy_and_resolve_references()
  _use_data(seen, args)
  sources = [_open(seen, split) for split in splits] if args.features else []
  # As the probes do: a network of single frames looks at clips inflated.
  seen, probed = inflate.inflated(seen, variables)
  folder = pathlib.Path(args.checkpoint)
  old = exported.load_card(folder) if (folder / exported.CARD).is_file() else {}
  # Exported again: what the card said stays true.
  results = old.get("results", {}) | card_lib.results(folder, _hashes(variables, probed))
  make_folder(output)
  for name, save in (("program", program.save_program), ("savedmodel", saved_model.save_model)):
    if name in formats:
      save(output / programs[name], encoder.build(seen, probed, info))
  for file in stale:
    _remove(file)
  exported.save_encoder(
    output,
    config,
    variables,
    info=info,
    results=results,
    data=old.get("data"),
    programs=card_lib.programs(output, written),
  )
  for split, source, file in zip(splits, sources, files[kept:], strict=False):
    features_file.export_features(seen, probed, source, file, split=split, info=info)
  return files


def _hashes(*variables: Mapping[str, Any]) -> set[str]:
  return {
    results_lib.tree_hash({k: v.get(k) or {} for k in exported.COLLECTIONS}) for v in variables
  }


def _remove(path: pathlib.Path) -> None:
  if path.is_dir():
    shutil.rmtree(path)
  elif path.exists():
    path.unlink()


def _formats(text: str) -> list[str]:
  names = [name for name in text.split(",") if name]
  for name in names:
    if name not in FORMATS:
      raise UserError(f"--formats={text}: no format {name!r}; there are {', '.join(FORMATS)}.")
  return names


def _use_data(config: ConfigDict, args: argparse.Namespace) -> None:
  with config.unlocked():
    config.data.fraction = 1.0  # of the labels to learn from: features are of all videos
    if args.data:
      config.data.source, config.data.path = "tfrecord", args.data
    for field in ("clips", "crops", "batch_size"):
      if getattr(args, field):
        config.data.eval[field] = getattr(args, field)


def _open(config: ConfigDict, split: str) -> source_lib.Source:
  return source_lib.load(config.data, split=split, batch_size=1, seed=config.seed)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m vssl_jax.export",
    description="Writes an encoder as safetensors with a JSON card, programs, and features.",
  )
  parser.add_argument("--checkpoint", required=True, help="run folder (--workdir of training)")
  parser.add_argument("--output", required=True, help="folder to write, made if missing")
  parser.add_argument(
    "--formats",
    default="safetensors",
    help="comma-separated: safetensors (always), program (jax.export), savedmodel (TensorFlow)",
  )
  parser.add_argument("--features", action="store_true", help="also write features of --split")
  parser.add_argument("--data", default="", help="folder of prepared records; default: the run's")
  parser.add_argument("--split", default="train,test", help="splits, comma-separated")
  parser.add_argument("--clips", type=int, default=0, help="clips per video; default: the run's")
  parser.add_argument("--crops", type=int, default=0, help="crops per clip; default: the run's")
  parser.add_argument("--batch_size", type=int, default=0, help="videos read at a time")
  parser.add_argument("--overwrite", action="store_true", help="replace an export that exists")
  return parser


def main(argv: Iterable[str] | None = None) -> int:
  """The command line; 0, or 2 with one line on stderr for bad input."""
  args = _parser().parse_args(None if argv is None else list(argv))
  try:
    for file in export(args):
      print(file)
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    return 2
  return 0
