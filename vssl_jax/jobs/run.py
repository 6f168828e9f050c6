"""Runs the job of a config and returns its result: `vssl_jax.pretrain`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import config_file, files, parallel
from vssl_jax.errors import UserError
from vssl_jax.jobs.linear_probe import linear_probe
from vssl_jax.jobs.pretrain import pretrain as train
from vssl_jax.training import checkpoints, peers

_JOBS = {"pretrain": train, "linear_probe": linear_probe}


def pretrain(
  config: ConfigDict | str | os.PathLike[str],
  *,
  workdir: str | os.PathLike[str] | None = None,
  overrides: Mapping[str, Any] | None = None,
  allow_config_change: bool = False,
  profile: int = 0,
) -> dict[str, Any]:
  """Trains what a config describes, and probes it if the config asks for that.

  An interrupted run is continued. A finished one is not trained again; its probes run again.

  Args:
    config: a config, a config file ("configs/cvrl.py:demo") or a recipe ("cvrl:demo").
    workdir: folder of the run; `runs/<config.name>` by default.
    overrides: changed fields by dotted names, such as {"epochs": 2, "data.path": "records"}.
    allow_config_change: continue a run even if its config differs.
    profile: number of train steps to trace, for TensorBoard or xprof; 0 for none.

  Returns:
    The contents of `result.json` in the folder, in types of JSON.

  Raises:
    UserError: the config or the data cannot be used, or the folder contains another run.
    NonFiniteError: the loss is not finite; the last good checkpoint is kept.
    Preempted: SIGTERM was received and everything is saved; the same call continues the run.
  """
  config = config_file.resolve(config, overrides)
  run = _JOBS.get(config.job)
  if run is None:
    raise UserError(f"config.job is {config.job!r}: choose one of {', '.join(_JOBS)}.")
  if profile < 0:
    raise UserError(f"--profile is {profile}: give a number of steps.")
  parallel.initialize(config.distributed)
  workdir = files.path(workdir or pathlib.Path("runs") / (config.name or config.method))
  timeout, coordinator = config.distributed.timeout, config.distributed.coordinator
  with peers.watched(timeout, lambda: _how_to_continue(workdir), coordinator):
    return run(config, workdir, allow_config_change=allow_config_change, profile=profile)


def _how_to_continue(workdir: pathlib.Path) -> str:
  found = files.matching(workdir / checkpoints.FOLDER, "*")
  steps = [int(p.name) for p in found if p.name.isdigit()]
  saved = f"the last checkpoint is of step {max(steps)}" if steps else "there is no checkpoint yet"
  return f"{saved}; run the same command on every host to continue."
