"""A config's job, from its name to its result: `vssl_jax.pretrain`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import config_file, parallel
from vssl_jax.errors import UserError
from vssl_jax.jobs.linear_probe import linear_probe
from vssl_jax.jobs.pretrain import pretrain as train

_JOBS = {"pretrain": train, "linear_probe": linear_probe}


def pretrain(
  config: ConfigDict | str | os.PathLike[str],
  *,
  workdir: str | os.PathLike[str] | None = None,
  overrides: Mapping[str, Any] | None = None,
  allow_config_change: bool = False,
) -> dict[str, Any]:
  """Trains what a config describes, and probes it if the config asks for that.

  A run that was broken off goes on. A finished one is not trained again; its probes run again.

  Args:
    config: a config, a config file ("configs/cvrl.py:demo") or a recipe ("cvrl:demo").
    workdir: the run's folder; `runs/<config.name>` by default.
    overrides: other values by dotted names, such as {"epochs": 2, "data.path": "records"}.
    allow_config_change: continue a run under another config than the one that it began with.

  Returns:
    The result, as in the folder's `result.json`: JSON's own types.

  Raises:
    UserError: the config or the data is impossible, or the folder holds another run.
    NonFiniteError: the loss is not finite any more; the last good checkpoint stays.
    Preempted: SIGTERM came and all is saved; the same call goes on.
  """
  config = config_file.resolve(config, overrides)
  run = _JOBS.get(config.job)
  if run is None:
    raise UserError(f"config.job is {config.job!r}: choose one of {', '.join(_JOBS)}.")
  parallel.initialize(config.distributed)
  workdir = pathlib.Path(workdir or pathlib.Path("runs") / (config.name or config.method))
  return run(config, workdir, allow_config_change=allow_config_change)
