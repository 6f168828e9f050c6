"""Plans a run for machines that need not be here."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import config_file, files, results
from vssl_jax.errors import UserError
from vssl_jax.files import local
from vssl_jax.planning import fit as fit_lib
from vssl_jax.planning import isolated, machines


def plan(
  config: ConfigDict | str,
  topology: str | Sequence[str],
  *,
  videos: int = 240_000,
  fit: bool = False,
  output: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
  """Compiles the train step of a config for machines, each in a process of its own.

  Args:
    config: a config, or the name of one, such as `cvrl:k400`.
    topology: machines such as `v5e:8x8`, see `planning.machines`.
    videos: number of training videos, which gives the length of the run.
    fit: search settings with which the step fits, the fastest first.
    output: file for the plans as JSON.

  Returns:
    A plan for each machine, with `fit` one for each setting that was tried: plain data, see
    `planning.plan.plan`. Where the compiler itself aborted, the plan has an entry `aborted`.

  Raises:
    UserError: a machine is unknown, its compiler is not installed, the batch does not divide among
      its devices, or a field of the config is impossible.
  """
  if videos < 1:
    raise UserError(f"--videos is {videos}: it must be at least 1.")
  file = None if output is None else local(output)
  config = config_file.load(config) if isinstance(config, str) else config
  plans: list[dict[str, Any]] = []
  for name in files.listed(topology):
    chip, chips = machines.parse(name)
    compile = functools.partial(_one, topology=name, videos=videos)
    plans += fit_lib.fit(config, chips * chip.cores, compile) if fit else [compile(config)]
  if file is not None:
    results.write_json({"plans": plans}, file)
  return plans


def _one(config: ConfigDict, *, topology: str, videos: int) -> dict[str, Any]:
  found = isolated.plan(config, topology, videos)
  named = {"config": {"name": config.name}, "machine": {"topology": topology}}
  return named | found
