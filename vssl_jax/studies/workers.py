"""Several processes that share the runs of a study: one per device, or the parts of a job array."""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from vssl_jax import files
from vssl_jax.cli.restarts import passed_on
from vssl_jax.errors import Interrupted, Preempted, UserError

_ARRAY = "SLURM_ARRAY_TASK_"
_GPUS = pathlib.Path("/proc/driver/nvidia/gpus")


def part(given: str, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
  """The share of the runs of this process: its number, from 0, and how many there are.

  Args:
    given: "3/16" is the third of sixteen; "" asks SLURM, whose array tasks are the shares; without
      an array the share is all runs.
    environment: variables of the environment.

  Raises:
    UserError: it is no share, or the array has gaps, so that shares would stay undone.
  """
  if given:
    number, slash, count = given.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
      raise UserError(f"--part={given}: give the number of the part and of all parts, as in 3/16.")
    return int(number) - 1, int(count)
  if f"{_ARRAY}ID" not in environment:
    return 0, 1
  keys = ("ID", "MIN", "MAX", "COUNT")
  task, least, most, tasks = (int(environment.get(_ARRAY + key, 0)) for key in keys)
  if most - least + 1 != tasks or not least <= task <= most:
    raise UserError(
      f"SLURM's array has {tasks} tasks from {least} to {most}: give it tasks without gaps, "
      "such as --array=1-8, or give --part."
    )
  return task - least, tasks


def devices(environment: Mapping[str, str] = os.environ) -> list[str]:
  """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; [] without one."""
  platforms = environment.get("JAX_PLATFORMS", "cuda").split(",")
  if not {"cuda", "gpu", ""} & set(platforms):
    return []
  if "CUDA_VISIBLE_DEVICES" in environment:
    named = (name.strip() for name in environment["CUDA_VISIBLE_DEVICES"].split(","))
    return list(
      itertools.takewhile(lambda name: name and name[0] != "-", named)
    )  # as CUDA reads it
  return [str(i) for i in range(len(list(_GPUS.glob("*"))))]


def start(
  arguments: Sequence[str], jobs: int, logs: pathlib.Path, progress: Callable[[], str]
) -> None:
  """Runs `vssl study` in several processes, each on one GPU if there are some, until all end.

  The processes take runs that are not locked. SIGTERM and Ctrl-C are passed on to them.

  Args:
    arguments: flags of each process.
    jobs: number of processes.
    logs: folder for what they print.
    progress: text that is printed whenever it changes.

  Raises:
    UserError: a process failed.
    Preempted: SIGTERM or Ctrl-C was passed on, and the processes have saved.
  """
  files.make_folder(logs)
  command = [sys.executable, "-m", "vssl_jax.study", *arguments]
  gpus, said = devices(), ""
  with passed_on() as (running, stopped):
    for i in range(jobs):
      environment = dict(os.environ)
      if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
        if jobs > len(gpus):  # several on a GPU: none may take nearly all of its memory at once
          environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
      if stopped:
        break
      with (logs / f"job_{i}.txt").open("ab") as log:
        # In a group of its own, Ctrl-C reaches it once, through this process.
        process = subprocess.Popen(
          command, env=environment, stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
        running.append(process)
    while any(process.poll() is None for process in running):
      if (now := progress()) != said:
        print(said := now, flush=True)
      time.sleep(1.0)
    codes = [process.returncode for process in running]
  if stopped:
    kind = Interrupted if stopped[0] == 2 else Preempted
    raise kind("the runs of all processes")
  if bad := [i for i, code in enumerate(codes) if code]:
    last = (logs / f"job_{bad[0]}.txt").read_text(errors="replace").strip().splitlines()
    raise UserError(
      f"{len(bad)} of {jobs} processes failed: {last[-1] if last else 'without a word'} "
      f"({logs / f'job_{bad[0]}.txt'}); run the same command again."
    )
