"""Runs what is missing of a study, one run after the other or several at once, and tabulates it."""

from __future__ import annotations

import gc
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vssl_jax import files, results
from vssl_jax._version import __version__
from vssl_jax.errors import NonFiniteError, UserError
from vssl_jax.files import lock
from vssl_jax.jobs.run import pretrain
from vssl_jax.studies import catalog, configs, folder, plan, plot, table, workers
from vssl_jax.studies import study as study_lib
from vssl_jax.studies.folder import Run
from vssl_jax.studies.study import Study
from vssl_jax.uncertainty import analysis

TABLE, NUMBERS, PLOT, LOGS = "table.md", "table.json", "plot.png", "logs"


def study(
  name: str | os.PathLike[str],
  *,
  output: str | os.PathLike[str] | None = None,
  variant: str = "",
  data: str | os.PathLike[str] = "",
  seeds: Sequence[int] = (),
  overrides: Mapping[str, Any] | None = None,
  only: Mapping[str, Sequence[str]] | None = None,
  part: str = "",
  jobs: int = 0,
  tabulate: bool = False,
  dry_run: bool = False,
) -> dict[str, Any]:
  """Runs what is missing of a study, and writes its table and plot.

  An interrupted run is continued; a finished one is not run again. Several processes may run the
  same study in the same folder: each takes runs that no other is training.

  Args:
    name: a study of the package, or a Python file with `STUDIES`, after a colon the name of one.
    output: folder of the study; `runs/studies/<name>` by default, with the variant if one is given.
    variant: variant of the recipes; "" for the study's own.
    data: folder of prepared records, or for DCC of features; "" for the recipe's own data.
    seeds: seeds of every cell; () for the study's own.
    overrides: fields of all cells by dotted names, such as {"epochs": 4.0}.
    only: labels by axis: runs these cells alone. The table has all cells.
    part: "3/16" runs the third of sixteen shares; "" all, or the share of this task of a SLURM
      array.
    jobs: number of runs at the same time, each in a process; 0 for one per GPU, or one without.
    tabulate: run nothing, write the table of what is there.
    dry_run: run nothing, write nothing; return the plan.

  Returns:
    The contents of `table.json`; with `dry_run`, `runs`: the state of each run, and the seconds
    that missing ones are expected to take, where known.

  Raises:
    UserError: the study, the folder, a field or the data cannot be used.
    Preempted: SIGTERM was received and everything is saved; the same call continues.
  """
  own, found = catalog.find(name)
  try:
    cells = study_lib.cells(found)
    of = variant or found.variant
    overrides = configs.with_data(found, of, os.fspath(data), overrides or {})
    made = configs.build(found, cells, of, overrides)
  except UserError as e:
    raise UserError(f"{own}: {e}") from None
  seeds = tuple(seeds) or found.seeds
  if min(seeds) < 0 or len(set(seeds)) < len(seeds):
    raise UserError(f"--seeds={','.join(map(str, seeds))}: give different seeds from 0 on.")
  place = files.path(
    output or pathlib.Path("runs/studies") / "_".join(filter(None, (own, variant)))
  )
  every = folder.runs(found, place, cells, seeds)
  chosen = {c.name for c in study_lib.choose(cells, {k: tuple(v) for k, v in (only or {}).items()})}
  index, count = workers.part(part)
  mine = [run for run in every if run.cell.name in chosen][index::count]
  recipes = ", ".join(configs.recipes(found, cells, of))
  recorded = {"recipes": recipes, "overrides": overrides, "version": __version__}
  folder.check(place, own, made, overrides)
  if dry_run:
    return {"study": own, "output": str(place), "runs": plan.plan(mine, made)}
  if tabulate and not (place / folder.RECORD).exists():
    raise UserError(f"{place}: no study there; give --output, or leave --table out to run it.")
  failures: list[str] = []
  if not tabulate:
    folder.begin(place, own, made, overrides)
    at_once = jobs or max(1, len(workers.devices()))
    if at_once < 0:
      raise UserError(f"--jobs is {jobs}: give a number of processes.")
    left = sum(run.state() != folder.DONE for run in mine)
    if min(at_once, left) > 1:
      flags = _flags(name, place, variant, seeds, overrides, only, part)
      workers.start(flags, min(at_once, left), place / LOGS, lambda: _progress(mine))
    else:
      failures = _run_all(mine, made)
  written = _write(own, found, place, every, recorded)
  if failures:
    raise UserError(f"{len(failures)} of {len(mine)} runs failed: {'; '.join(failures)}")
  return written


def _progress(runs: Sequence[Run]) -> str:
  done = sum(run.state() == folder.DONE for run in runs)
  return f"{done} of {len(runs)} runs are done"


def _run_all(runs: Sequence[Run], made: Mapping[str, ConfigDict]) -> list[str]:
  """Runs what is neither done nor being trained by another process; returns what failed."""
  failures, elsewhere = [], 0
  for i, run in enumerate(runs, 1):
    if run.state() == folder.DONE:
      continue
    try:
      with folder.locked(run.folder.parent, run.name):
        if run.state() == folder.DONE:  # by another process, since
          continue
        print(f"run {i} of {len(runs)}: {run.name}", flush=True)
        if failure := _run_one(run, made[run.cell.name]):
          failures.append(failure)
    except lock.Held:
      elsewhere += 1
    jax.clear_caches()
    gc.collect()
  if elsewhere:
    print(f"{elsewhere} runs are being trained by other processes.", flush=True)
  return failures


def _run_one(run: Run, config: ConfigDict) -> str:
  """Trains one run, or continues it; returns why it failed, or ""."""
  files.make_folder(run.folder)
  changes = {"seed": run.seed, "name": run.name}
  try:
    if run.result(study_lib.RESULT) is None:
      pretrain(config, workdir=run.folder, overrides=changes)
    if run.study.uncertainty:
      analysis.analyze_runs([str(run.folder)], (run.folder / study_lib.UNCERTAINTY).parent)
  except NonFiniteError as e:  # of this cell alone; the others may learn
    results.write_json({"error": str(e)}, run.folder / folder.FAILED)
    return f"{run.name}: {e}"
  except UserError as e:
    raise UserError(f"{run.name}: {e}") from e
  files.unlink(run.folder / folder.FAILED, missing_ok=True)
  return ""


def _write(
  own: str, found: Study, place: pathlib.Path, runs: Sequence[Run], recorded: Mapping[str, Any]
) -> dict[str, Any]:
  """Writes table and plot of all that is done; one process at a time."""
  with folder.locked(place, TABLE, wait=60.0):
    numbers = table.tabulate(own, found, runs, recorded)
    results.write_json(numbers, place / NUMBERS)
    files.write_text(place / TABLE, table.markdown(numbers))
    done = [run for run in runs if run.state() == folder.DONE]
    if done:
      plot.draw(place / PLOT, found, numbers, done)
  plain: dict[str, Any] = results.plain(numbers)
  return plain | {"output": str(place)}


def _flags(
  name: Any,
  place: pathlib.Path,
  variant: str,
  seeds: Sequence[int],
  overrides: Mapping[str, Any],
  only: Mapping[str, Sequence[str]] | None,
  part: str,
) -> list[str]:
  """The command line of a process that runs the same study, one run after the other."""
  given = [
    f"--config.{k}={v!r}" if isinstance(v, tuple) else f"--config.{k}={v}"
    for k, v in overrides.items()
  ]
  chosen = ",".join(f"{axis}={'+'.join(labels)}" for axis, labels in (only or {}).items())
  flags = {"output": place, "variant": variant, "seeds": ",".join(map(str, seeds))}
  flags |= {"only": chosen, "part": part, "jobs": 1}
  return [os.fspath(name), *(f"--{k}={v}" for k, v in flags.items() if v != ""), *given]
