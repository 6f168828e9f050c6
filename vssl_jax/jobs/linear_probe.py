"""Probes a checkpoint: the job of `configs/linear_probe.py`."""

from __future__ import annotations

import pathlib
import time
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax import former, parallel
from vssl_jax.encoder import encoder
from vssl_jax.errors import UserError
from vssl_jax.evaluation import end_of_run
from vssl_jax.files import make_folder
from vssl_jax.jobs.pretrain import report
from vssl_jax.methods.base import Variables


def linear_probe(
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  allow_config_change: bool = False,
  profile: int = 0,
) -> dict[str, Any]:
  """Probes the encoder of `config.checkpoint`.

  Returns:
    The contents of `result.json`.

  Raises:
    UserError: no checkpoint, or one that cannot be read; its data cannot be probed; or a trace is
      asked for. An earlier `result.json` stays then.
  """
  del allow_config_change
  if profile:
    raise UserError(f"--profile is {profile}: probes are not traced; leave it out.")
  began = time.perf_counter()
  config, trained, variables, info = load(config)
  make_folder(workdir)
  mesh = parallel.make_mesh()
  outcome = {"job": "linear_probe", "name": config.name, "method": trained.method, **info}
  outcome |= end_of_run.probe(config, variables, workdir, mesh)
  outcome["seconds"] = time.perf_counter() - began
  return report(outcome, workdir)


def load(config: ConfigDict) -> tuple[ConfigDict, ConfigDict, Variables, dict[str, Any]]:
  """The encoder of `config.checkpoint`, and the config to probe it under.

  Returns:
    The config with the encoder, its normalization and flips, and its data where the config names
    none; and what `encoder.load_encoder` returns.

  Raises:
    UserError: no checkpoint, or one that cannot be read.
  """
  if not config.checkpoint:
    raise UserError("config.checkpoint is empty: give the run folder, --config.checkpoint=runs/...")
  trained, variables, info = encoder.load_encoder(config.checkpoint)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.encoder = trained.encoder
    if config.probe.flip == -1:
      config.probe.flip = config_lib.probe_flip(trained)
    config.augment.mean, config.augment.std = trained.augment.mean, trained.augment.std
    config.data.channels = trained.data.channels  # data of others is refused when it is opened
    if not config.data.path and not config.data.name:  # the data it was trained on
      own = ("source", "path", "name", "train_split", "eval_split", "synthetic", "value_range")
      for field in own:
        config.data[field] = trained.data[field]
  return config, trained, variables, info


former.callable_module(__name__, "linear_probe")
