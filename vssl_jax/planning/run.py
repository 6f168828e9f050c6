"""Plans a run for TPUs or GPUs, without having them: `vssl_jax.plan`."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import config_file, files, results
from vssl_jax.errors import UserError
from vssl_jax.planning import fit as fit_lib
from vssl_jax.planning import isolated, machines

# Those of `planning.stages`, which imports more than a process needs that compiles nothing.
STAGES = (
  "train",
  "init",
  "restore",
  "linear_probe",
  "finetune",
  "features",
  "knn",
  "logistic",
)


def plan(
  config: ConfigDict | str,
  topology: str | Sequence[str],
  *,
  videos: int = 240_000,
  fit: bool = False,
  stage: str = "train",
  output: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
  """Compiles the train step of a config, or another stage of its run, for machines.

  Each is compiled in a process of its own.

  These processes import the script that calls this function, so a script must call it under
  `if __name__ == "__main__":`.

  Args:
    config: a config, or the name of one, such as `cvrl:k400`.
    topology: machines such as `v5e:8x8`, see `planning.machines`.
    videos: number of training videos, which gives the length of the run.
    fit: search settings with which the train step fits, the fastest first.
    stage: "train"; "init", the first state; "restore", the check of a checkpoint that was read onto
      the devices; "linear_probe" or "finetune", their train step; "features", the extraction of one
      batch of views; or on all features of Kinetics-400 "knn" or "logistic", the fit of a
      classifier.
    output: file for the plans as JSON, written again after each plan.

  Returns:
    A plan for each machine, with `fit` one for each setting that was tried: plain data, see
    `planning.plan.plan`. Where the compiler itself aborted, the plan has an entry `aborted`; where
    a machine or setting cannot be planned though others can, an entry `refused`.

  Raises:
    UserError: a machine or stage is unknown, the output cannot be written, or nothing can be
      planned: the compiler is not installed, the batch does not divide among the devices, or a
      field of the config is impossible.
    RuntimeError: a process failed otherwise; its traceback is the message.
  """
  if videos < 1:
    raise UserError(f"--videos is {videos}: it must be at least 1.")
  if stage not in STAGES:
    raise UserError(f"--stage: {stage!r} is unknown; there are {', '.join(STAGES)}.")
  if fit and stage != "train":
    raise UserError(f"--fit: it searches settings of the train step; leave out --stage={stage}.")
  # What can be found wrong now must not end a run of hours later.
  named = [(name, *machines.parse(name)) for name in files.listed(topology) or [""]]
  file = None if output is None else _writable(output)
  config = config_file.load(config) if isinstance(config, str) else config
  if (job := config.get("job", "pretrain")) != "pretrain":
    raise UserError(
      f"config.job is {job!r}: only pre-training can be planned; give a config of pre-training, "
      "such as cvrl:k400."
    )
  plans: list[dict[str, Any]] = []
  first: UserError | None = None
  for name, chip, chips in named:
    compile = functools.partial(isolated.plan, topology=name, videos=videos, stage=stage)
    tried = fit_lib.fit(config, chips * chip.cores, compile) if fit else _once(config, compile)
    known: dict[str, Any] = {} if stage == "train" else {"stage": stage}
    known |= {"config": {"name": config.name}, "machine": {"topology": name}}
    try:
      for found in tried:
        plans.append(known | found)
        _write(plans, file)
    except UserError as e:
      first = first or e
      plans.append(known | {"refused": str(e)})
      _write(plans, file)
  if first and not _any(plans):
    raise first
  return plans


def _once(config: ConfigDict, compile: fit_lib.Compile) -> Iterator[dict[str, Any]]:
  yield compile(config)


def _any(plans: Sequence[dict[str, Any]]) -> bool:
  return any("refused" not in p for p in plans)


def _writable(output: str | os.PathLike[str]) -> pathlib.Path:
  """The file for the plans, after a trial that it can be written; makes its folder."""
  file = files.local(output)
  files.make_folder(file.parent)
  if file.is_dir():
    raise UserError(f"--output: {file} is a folder; give a file.")
  trial = files.temporary_of(file)
  try:
    trial.touch()
    trial.unlink()
  except OSError as e:
    raise UserError(
      f"--output: {file} cannot be written ({e.strerror}); choose another path."
    ) from None
  return file


def _write(plans: Sequence[dict[str, Any]], file: pathlib.Path | None) -> None:
  if file is not None and _any(plans):
    results.write_json({"plans": plans}, file)
