"""Encoder weights, programs and features for use elsewhere, and weights back in.

  python -m vssl_jax.export --checkpoint=runs/cvrl --output=exported \
    --formats=safetensors,program,savedmodel --features --data=/data/ucf101 --split=train,test

writes `encoder.safetensors` (arrays by '/'-joined names under `params/` and `batch_stats/`) with
`encoder.json` (the card: config, preprocessing, hashes of data, weights and programs, results of
these weights); `encoder.jax_export` and `saved_model/`, which run without this library
(`vssl_jax.program`); and `features_<split>.npz`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

import vssl_jax
from vssl_jax import card as card_lib
from vssl_jax import files as files_lib
from vssl_jax import models
from vssl_jax import results as results_lib
from vssl_jax.errors import UserError
from vssl_jax.files import make_folder
from vssl_jax.io import checkpoints
from vssl_jax.probes import features, run

WEIGHTS = "encoder.safetensors"
CARD = "encoder.json"
FORMATS = ("safetensors", "program", "savedmodel")
COLLECTIONS = ("params", "batch_stats")
_DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U64": np.uint64,
  "U32": np.uint32,
  "U16": np.uint16,
  "U8": np.uint8,
  "BOOL": np.bool_,
}


def save_encoder(
  folder: str | pathlib.Path,
  config: ConfigDict,
  variables: Mapping[str, Any],
  *,
  info: Mapping[str, Any] | None = None,
  results: Mapping[str, Any] | None = None,
  data: Mapping[str, Any] | None = None,
  programs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Writes an encoder's weights and card.

  Args:
    folder: made if missing; gets `encoder.safetensors` and, last, `encoder.json`.
    config: of the run, at least `encoder`, `augment` and `data`.
    variables: `params` and `batch_stats`, any dtypes that safetensors has.
    info: of the checkpoint: `step`, `sha256`.
    results: what a probe found, kept in the card.
    data: what an earlier card said of the videos trained on; by default told by `config.data`.
    programs: what lies beside the weights, by name, see `card.programs`.

  Returns:
    The card.
  """
  from safetensors.numpy import save

  folder = pathlib.Path(folder)
  host = jax.device_get({name: variables.get(name) or {} for name in COLLECTIONS})
  # safetensors writes the memory as it lies, so views and transposes must be laid out anew.
  flat = {
    name: np.array(x, order="C") for name, x in traverse_util.flatten_dict(host, sep="/").items()
  }
  weights = save(flat)
  files_lib.write_atomic(folder / WEIGHTS, weights)
  d = config.data
  card = {
    "format": 1,
    "vssl_jax": vssl_jax.__version__,
    "weights": {"file": WEIGHTS, "sha256": results_lib.file_hash(folder / WEIGHTS)},
    "parameters": sum(x.size for name, x in flat.items() if name.startswith("params/")),
    "encoder_sha256": results_lib.tree_hash(host),
    "checkpoint": _origin(info),
    "config_sha256": results_lib.config_hash(config),
    "data": dict(data) if data else card_lib.data(d),
    "programs": dict(programs or {}),
    "preprocessing": {
      "input": "uint8 RGB [N, T, H, W, 3]",
      "scale": "1/255, then (x - mean) / std",
      "mean": config.augment.mean,
      "std": config.augment.std,
      "trained_with": {"frames": d.frames, "stride": d.stride, "size": d.size},
      "evaluated_with": {k: d.eval[k] for k in ("frames", "stride", "resize", "size")},
    },
    "results": dict(results or {}),
    "config": json.loads(config.to_json()),
  }
  text = json.dumps(results_lib.plain(card, digits=12), indent=2, ensure_ascii=False)
  files_lib.write_atomic(folder / CARD, (text + "\n").encode())
  return card


def load_exported(path: str | pathlib.Path) -> tuple[ConfigDict, dict[str, Any]]:
  """Reads an exported encoder.

  Args:
    path: the folder that `save_encoder` wrote.

  Returns:
    `(config, variables)`: the run's config, and NumPy arrays under `params` and `batch_stats`,
    bit for bit as saved.

  Raises:
    UserError: a file is missing, or the weights are not those that the card was written for.
  """
  folder = pathlib.Path(path)
  card = load_card(folder)
  file = folder / card["weights"]["file"]
  if not file.is_file():
    raise UserError(f"{file}: missing beside its card; export the encoder again")
  found = results_lib.file_hash(file)
  if found != card["weights"]["sha256"]:
    raise UserError(
      f"{file}: damaged or replaced: its sha256 is {found[:12]}…, the card says "
      f"{card['weights']['sha256'][:12]}…; copy or export it again"
    )
  nested = traverse_util.unflatten_dict(arrays(file.read_bytes()), sep="/")
  variables = {name: nested.get(name, {}) for name in COLLECTIONS}
  return ConfigDict(_tuples(card["config"])), variables


def arrays(data: bytes) -> dict[str, np.ndarray]:
  """The arrays of a safetensors file, bfloat16 too (safetensors' own NumPy reader lacks it)."""
  import safetensors

  return {
    name: np.frombuffer(x["data"], _DTYPES[x["dtype"]]).reshape(x["shape"]).copy()
    for name, x in safetensors.deserialize(data)
  }


def load_card(path: str | pathlib.Path) -> dict[str, Any]:
  """The card of an exported encoder.

  Raises:
    UserError: the folder has none, or it is not one.
  """
  file = pathlib.Path(path) / CARD
  try:
    card = json.loads(file.read_text(encoding="utf-8"))
    if card["format"] != 1:
      raise UserError(f"{file}: format {card['format']} is newer than this version of vssl_jax")
    if not card["weights"]["file"] or not card["weights"]["sha256"] or not card["config"]:
      raise KeyError("weights or config")
  except FileNotFoundError:
    raise UserError(f"{path}: no {CARD} there; give a folder that vssl_jax.export wrote") from None
  except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as e:
    raise UserError(f"{file}: not a card of vssl_jax.export ({e!r}); export it again") from None
  return card


def export_features(
  config: ConfigDict,
  variables: Mapping[str, Any],
  source: run.Source,
  file: str | pathlib.Path,
  *,
  split: str,
  info: Mapping[str, Any] | None = None,
) -> features.Features:
  """Writes the features of every view of a split to an `.npz` file (see `features.save`).

  Args:
    config: `encoder`, `augment` and `data.eval` are read.
    variables: of the encoder.
    source: the split's videos.
    file: where to.
    split: its name, for the record.
    info: of the checkpoint.

  Returns:
    What was written.
  """
  facts = {
    "split": split,
    "layer": "global average pooling",
    "bn_mode": run.BN_MODE,
    "config_sha256": results_lib.config_hash(config),
    "encoder_sha256": results_lib.tree_hash(variables),
    "checkpoint": _origin(info),
    "vssl_jax": vssl_jax.__version__,
    "views": run.protocol(config, source, source)["views"],
  }
  found = features.extract(
    run.feature_fn(models.build_encoder(config.encoder), config),
    variables,
    run.eval_batches(source, config),
    names=getattr(source, "video_names", ()),
    label_names=source.label_names,
    info=results_lib.plain(facts),
    progress=f"features, {split} split",
    total=source.num_videos,
  )
  if jax.process_index() == 0:
    features.save(file, found)
  return found


def export(args: argparse.Namespace) -> list[pathlib.Path]:
  """Does what the command line says; the files written, in order.

  Raises:
    UserError: no such checkpoint, or a file to write exists and `--overwrite` is not given.
  """
  from vssl_jax import encoder, probing, program
  from vssl_jax.io import bundle

  splits = [s for s in args.split.split(",") if s]
  output = pathlib.Path(args.output)
  formats = _formats(args.formats)
  if (output / checkpoints.CONFIG).exists():
    raise UserError(
      f"{output}: holds a run, whose checkpoints would be hidden; give another folder."
    )
  files = [output / WEIGHTS, output / CARD]
  programs = {"program": program.PROGRAM, "savedmodel": program.SAVED_MODEL}
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
    program.require_tensorflow()
  config, variables, info = bundle.load_encoder(args.checkpoint)
  config = config.copy_and_resolve_references()
  seen = config.copy_and_resolve_references()
  _use_data(seen, args)
  sources = [_open(seen, split) for split in splits] if args.features else []
  # As the probes do: a network of single frames looks at clips inflated.
  seen, probed = probing.inflated(seen, variables)
  folder = pathlib.Path(args.checkpoint)
  old = load_card(folder) if (folder / CARD).is_file() else {}
  # Exported again: what the card said stays true.
  results = old.get("results", {}) | card_lib.results(folder, _hashes(variables, probed))
  make_folder(output)
  for name, save in (("program", program.save_program), ("savedmodel", program.save_tensorflow)):
    if name in formats:
      save(output / programs[name], encoder.build(seen, probed, info))
  for file in stale:
    _remove(file)
  save_encoder(
    output,
    config,
    variables,
    info=info,
    results=results,
    data=old.get("data"),
    programs=card_lib.programs(output, written),
  )
  for split, source, file in zip(splits, sources, files[kept:], strict=False):
    export_features(seen, probed, source, file, split=split, info=info)
  return files


def _hashes(*variables: Mapping[str, Any]) -> set[str]:
  return {results_lib.tree_hash({k: v.get(k) or {} for k in COLLECTIONS}) for v in variables}


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


def _origin(info: Mapping[str, Any] | None) -> dict[str, Any]:
  """Of a checkpoint's facts, all but where it lay on this machine."""
  return {k: v for k, v in (info or {}).items() if k != "checkpoint"}


def _use_data(config: ConfigDict, args: argparse.Namespace) -> None:
  with config.unlocked():
    config.data.fraction = 1.0  # of the labels to learn from: features are of all videos
    if args.data:
      config.data.source, config.data.path = "tfrecord", args.data
    for field in ("clips", "crops", "batch_size"):
      if getattr(args, field):
        config.data.eval[field] = getattr(args, field)


def _open(config: ConfigDict, split: str) -> run.Source:
  from data_pipelines import source

  return source.load(config.data, split=split, batch_size=1, seed=config.seed)


def _tuples(value: Any) -> Any:
  """JSON has lists where a config has tuples."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


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
  parser.add_argument("--clips", type=int, default=0, help="clips a video; default: the run's")
  parser.add_argument("--crops", type=int, default=0, help="crops a clip; default: the run's")
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


if __name__ == "__main__":
  sys.exit(main())
