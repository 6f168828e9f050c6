"""Exports the weights of an encoder, programs and features: `vssl_jax.export`.

The output is `encoder.safetensors` (arrays, named by their paths joined with "/", under `params/`
and `batch_stats/`) and `encoder.json` (the card: config, preprocessing, hashes of data, weights and
programs, results of these weights); on demand also `encoder.jax_export` and `saved_model/`, which
run without this library (`vssl_jax.encoder.program`), and `features_<split>.npz`.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from data_pipelines import source as source_lib
from data_pipelines.videos import ray_cluster
from vssl_jax import files as files_lib
from vssl_jax import results as results_lib
from vssl_jax.encoder import card as card_lib
from vssl_jax.encoder import (
  encoder,
  exported,
  features_file,
  onnx_program,
  program,
  ray_splits,
  saved_model,
)
from vssl_jax.encoder.hub import model_card, repository
from vssl_jax.errors import UserError
from vssl_jax.files import make_folder
from vssl_jax.models import inflate
from vssl_jax.probes import views
from vssl_jax.training import run_config, run_folder

FORMATS = ("safetensors", "program", "savedmodel", "onnx")
# What each format that runs without this library is written as, and by.
_PROGRAMS: dict[str, tuple[str, Callable[[Any, encoder.Encoder], None]]] = {
  "program": (program.PROGRAM, lambda file, e: program.save_program(file, e)),
  "savedmodel": (saved_model.SAVED_MODEL, lambda file, e: saved_model.save_model(file, e)),
  "onnx": (onnx_program.ONNX, lambda file, e: onnx_program.save_onnx(file, e)),
}


def export(
  checkpoint: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  which: str | int = run_folder.LAST,
  formats: str | Sequence[str] = (FORMATS[0],),
  features: bool = False,
  data: str | os.PathLike[str] = "",
  split: str | Sequence[str] = ("train", "test"),
  clips: int = 0,
  crops: int = 0,
  batch_size: int = 0,
  overwrite: bool = False,
  engine: str = "local",
  address: str = "",
  push: str = "",
  license: str = "",
  private: bool = False,
) -> list[pathlib.Path]:
  """Writes an encoder as safetensors with a JSON card, and on demand programs and features.

  Args:
    checkpoint: folder of a run, or of an earlier export.
    output: output folder, created if missing.
    which: checkpoint of a run: "last", "best" (by its `config.save.best`), or a step.
    formats: some of `FORMATS`: "safetensors" (always written), "program" (`jax.export`),
      "savedmodel" (TensorFlow).
    features: also write the features of `split`.
    data: folder of prepared records, or for a run on arrays of arrays, to extract features from; by
      default the data of the run.
    split: one or several splits.
    clips: clips per video; 0 for the value of the run, as for `crops` and `batch_size`.
    crops: crops per clip.
    batch_size: videos per batch.
    overwrite: replace an existing export.
    engine: "local" extracts features on this machine, "ray" on all accelerators of a Ray cluster,
      or on its processors if it has none. All nodes must have the data on shared storage under the
      same path, and the same software.
    address: of the Ray cluster: "HOST:PORT" of its head node, or "auto" on one of its nodes; by
      default the environment's RAY_ADDRESS, else a new cluster on this machine.
    push: `hf://owner/name[/subfolder]` of the Hugging Face Hub, to which weights, card, programs
      and a model card, README.md, are uploaded once they are written; features are not.
    license: what the model card says, as the Hub names it, such as "apache-2.0"; "" for not stated.
    private: if `push` makes the repository, only its owner sees it.

  Returns:
    The files written, in order.

  Raises:
    UserError: there is no such checkpoint or data, a file exists and may not be replaced, or the
      cluster cannot do the work, or the Hub cannot be pushed to, after all is written.
  """
  ray_cluster.check(engine, address)
  place = repository.check_push(push) if push else None
  if place is None and (license or private):
    raise UserError(f"--{'license' if license else 'private'} is of --push; give both.")
  checkpoint = repository.local(checkpoint)
  splits = [split] if isinstance(split, str) else [s for s in split if s]
  output = files_lib.path(output)
  formats = _formats([formats] if isinstance(formats, str) else formats)
  if (output / run_config.CONFIG).exists():
    raise UserError(
      f"{output}: holds a run, whose checkpoints would be hidden; give another folder."
    )
  files = [output / exported.WEIGHTS, output / exported.CARD]
  readme = [output / model_card.README] if place else []
  programs = {name: file for name, (file, _) in _PROGRAMS.items()}
  written = [programs[name] for name in programs if name in formats]
  files += [output / name for name in written]
  kept = len(files)
  if features:
    files += [output / f"features_{split}.npz" for split in splits]
  # Programs and features of an earlier export have other weights: remove all or nothing.
  stale = [output / name for name in programs.values() if name not in written]
  stale += sorted(set(files_lib.matching(output, "features_*.npz")) - set(files))
  existing = [f for f in (*files, *readme, *stale) if f.exists()]
  if existing and not overwrite:
    raise UserError(f"{existing[0]} exists: give another --output, or --overwrite to replace it")
  numbers = {"clips": clips, "crops": crops, "batch_size": batch_size}
  of_features = {"data": data, **numbers, "engine": engine != "local"}
  idle = [name for name, value in of_features.items() if value]
  if idle and not features:
    raise UserError(f"--{idle[0]} is of the features that are written with --features; give both.")
  if bad := next((name for name, value in numbers.items() if value < 0), None):
    raise UserError(f"--{bad}={numbers[bad]}: give 1 or more.")
  if "savedmodel" in formats:
    saved_model.exporters()
  if "onnx" in formats:
    onnx_program.exporters()
  if engine == "ray":  # leave room on a GPU of this machine, which is a node too
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  config, variables, info = encoder.load_encoder(checkpoint, which)
  config = config.copy_and_resolve_references()
  seen = config.copy_and_resolve_references()
  _use_data(seen, str(data), numbers)
  sources = [_open(seen, split) for split in splits] if features else []
  # As in the probes: a network for single frames is inflated for clips.
  seen, probed = inflate.inflated(seen, variables)
  found: dict[str, list[features_file.Found]] = {}
  if engine == "ray":  # before anything is written, because it may fail
    found = ray_splits.outputs(address, seen, probed, dict(zip(splits, sources, strict=True)))
  folder = files_lib.path(checkpoint)
  old = exported.load_card(folder) if (folder / exported.CARD).is_file() else {}
  # An export is exported again: the contents of its card stay valid.
  results = old.get("results", {}) | card_lib.results(folder, _hashes(variables, probed))
  make_folder(output)
  for name, (_, save) in _PROGRAMS.items():
    if name in formats:
      save(output / programs[name], encoder.build(seen, probed, info))
  for file in stale:
    _remove(file)
  card = exported.save_encoder(
    output,
    config,
    variables,
    info=info,
    results=results,
    data=old.get("data"),
    programs=card_lib.programs(output, written),
  )
  for split, source, file in zip(splits, sources, files[kept:], strict=False):
    features_file.export_features(
      seen, probed, source, file, split=split, info=info, found=found.get(split)
    )
  if place:
    files += [repository.write_card(output, place, card, license)]
    names = [exported.WEIGHTS, exported.CARD, *written, model_card.README]
    repository.push(place, output, names, private=private)
  return files


def _hashes(*variables: Mapping[str, Any]) -> set[str]:
  return {
    results_lib.tree_hash({k: v.get(k) or {} for k in exported.COLLECTIONS}) for v in variables
  }


def _remove(path: pathlib.Path) -> None:
  if path.is_dir():
    files_lib.remove_tree(path)
  elif path.exists():
    files_lib.unlink(path)


def _formats(names: Sequence[str]) -> list[str]:
  if unknown := next((name for name in names if name not in FORMATS), None):
    raise UserError(f"--formats: no format {unknown!r}; there are {', '.join(FORMATS)}.")
  return list(names)


def _use_data(config: ConfigDict, data: str, numbers: Mapping[str, int]) -> None:
  with config.unlocked():
    config.data.fraction = 1.0  # features of all videos, not only of those trained on
    if data:
      config.data.source, config.data.path = views.prepared(config), data
    config.data.eval.update({name: value for name, value in numbers.items() if value})


def _open(config: ConfigDict, split: str) -> source_lib.Source:
  return source_lib.load(config.data, split=split, batch_size=1, seed=config.seed)
