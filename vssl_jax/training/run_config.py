"""The config of a run: `config.json` in its folder, and what in it a continuation may change."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax import files, methods
from vssl_jax.errors import UserError
from vssl_jax.training import checkpoints

CONFIG = "config.json"
# Fields that may differ between a run and its continuation, because they change no number.
# Places of videos and lists may differ because the fingerprint of the videos is compared instead;
# epochs may differ because the total number of steps is compared instead.
_FREE = (
  "name",
  "log_every",
  "save",
  "probe",
  "knn",
  "distributed",
  "data.threads",
  "data.prefetch",
  "data.cache_folder",
  "data.eval",
  "data.path",
  "data.eval_split",
  "data.videos.root",
  "data.videos.split_list",
  "data.videos.cache",
  "data.videos.timeout",
  "steps",
  "epochs",
  "steps_per_epoch",
  "checkpoint",
)
_HELD_OUT = "data.held_out_sha256"


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(tree, Mapping):
    return {prefix: tree}
  flat: dict[str, Any] = {}
  for k, v in tree.items():
    flat |= _flat(v, f"{prefix}.{k}" if prefix else k)
  return flat


def bound(config: ConfigDict) -> dict[str, Any]:
  """The config fields that decide a run's numbers, by dotted name, and the total steps."""
  flat = _flat(json.loads(config.to_json()))
  free = (*_FREE, *methods.undecisive_fields(config.method))
  kept = {k: v for k, v in flat.items() if not any(k == f or k.startswith(f + ".") for f in free)}
  if kept.get("data.cache") != "device":  # the other places change no number
    kept.pop("data.cache", None)
  if not kept.get(_HELD_OUT):  # as in a config of before there was the field
    kept.pop(_HELD_OUT, None)
  epoch = config.get("steps_per_epoch", 0)
  if epoch or config.steps:
    kept["total steps"] = config_lib.total_steps(config, epoch)
  return kept


def check_config(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Checks that the run in `workdir` was started with this config, before it is continued.

  Fields that change no number (logging, saving, probing, paths, processes) may differ.

  Raises:
    UserError: other fields differ; the message names each with both values.
  """
  if not (workdir / CONFIG).exists() or not (workdir / checkpoints.FOLDER).exists():
    return
  # It may name code, as it is only compared.
  began = methods.complete(load_config(workdir), workdir / CONFIG)
  old, new = bound(began), bound(config)
  apart = {k for k in ("data.fingerprint", "total steps") if not old.get(k)} | {_HELD_OUT}
  changed = [
    f"{k}: {old.get(k)!r} -> {new.get(k)!r}"
    for k in sorted({*old, *new} - apart)
    if old.get(k) != new.get(k)
  ]
  if old.get(_HELD_OUT) != new.get(_HELD_OUT):
    changed.append(_other_held_out(began))
  if changed:
    raise UserError(
      f"{workdir} holds a run with another config ({'; '.join(changed)}): give another "
      "--workdir, or --allow_config_change to continue with the new values."
    )


def _other_held_out(began: ConfigDict) -> str:
  """Says that other videos are held out than when a run began, and what to set."""
  if not began.data.held_out_sha256:
    return (
      "config.knn.held_out would hold out videos that it learns from: set config.knn.every_epochs=0"
    )
  k = began.knn
  return (
    "config.knn.held_out held out other videos: set "
    f"config.knn.held_out={k.held_out} and config.knn.every_epochs={k.every_epochs}, as then"
  )


def write_config(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Writes `config.json`."""
  if jax.process_index() == 0:
    text = json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True)
    with files.replacing(workdir / CONFIG) as file:
      file.write(f"{text}\n".encode())


def load_config(path: pathlib.Path) -> ConfigDict:
  """Reads the config of a run folder.

  Raises:
    UserError: the folder holds no run, or its `config.json` is damaged or of another library.
  """
  file = files.path(path) / CONFIG
  if not file.is_file():
    raise UserError(f"{path}: no {CONFIG} there; give the folder of a run (--workdir of training).")
  try:
    values = files.read_json(file)
  except ValueError as e:
    raise UserError(f"{file}: damaged, not JSON ({e}); restore it, or give another run.") from None
  if not isinstance(values, dict) or not isinstance(values.get("method"), str):
    raise UserError(
      f"{file}: no config of a run, as it names no method; give the folder of a run (--workdir of "
      "training)."
    )
  return config_lib.from_json(values, file)
