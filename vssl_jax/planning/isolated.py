"""Compiles in a process of its own, because a compiler that aborts takes its process with it."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection
from typing import Any

from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.planning import machines

# Lines of the compiler's log that say why it stopped: "F0101 12:00:00.000000 1 file.cc:1] reason".
_FATAL = re.compile(r"^F\d{4} [\d:.]+ +\d+ (.*)$", re.MULTILINE)


def plan(config: ConfigDict, topology: str, videos: int, stage: str = "train") -> dict[str, Any]:
  """As `plan.plan` for the machine that `topology` names, in a new process.

  If the compiler aborts, the outcome has the entry `aborted`, the reason in one line, and nothing
  of the program.

  Raises:
    UserError: see `machines.find` and `plan.plan`.
    RuntimeError: the process failed otherwise; the message has its traceback, if there is one.
  """
  environment = machines.environment(topology) | {"TF_CPP_MIN_LOG_LEVEL": "3"}
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe(duplex=False)
  with tempfile.TemporaryFile() as log:
    # The process inherits the environment, and must not look for real devices.
    saved = dict(os.environ)
    os.environ.update(environment)
    try:
      child = context.Process(
        target=_run, args=(theirs, log_path(log), config, topology, videos, stage), daemon=True
      )
      child.start()
    finally:
      os.environ.clear()
      os.environ.update(saved)
    theirs.close()
    try:
      kind, value = ours.recv()
    except EOFError:
      child.join()
      return {"aborted": _reason(log, child.exitcode)}
    child.join()
  if kind == "error":
    raise UserError(value)
  if kind == "crash":
    what = "train step" if stage == "train" else f"stage {stage}"
    raise RuntimeError(f"the {what} could not be compiled for {topology}:\n{value}")
  return value


def log_path(log: Any) -> str:
  """A path to an open file, for another process of this user."""
  return f"/proc/{os.getpid()}/fd/{log.fileno()}"


def _run(
  answer: Connection, log: str, config: ConfigDict, topology: str, videos: int, stage: str
) -> None:
  os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), sys.stderr.fileno())
  try:
    from vssl_jax.planning import plan as plan_lib

    found = plan_lib.plan(config, machines.find(topology), videos=videos, stage=stage)
    answer.send(("plan", found))
  except UserError as e:
    answer.send(("error", str(e)))
  except Exception:
    answer.send(("crash", traceback.format_exc()))


def _reason(log: Any, code: int | None) -> str:
  """Why the process ended without an answer, in one line.

  Raises:
    RuntimeError: it exited by itself, so that no compiler aborted.
  """
  log.seek(0)
  text = log.read().decode(errors="replace")
  if fatal := _FATAL.search(text):
    return " ".join(fatal[1].split())[:300]
  lines = [line for line in text.splitlines() if line.strip()]
  last = f"; last line: {lines[-1][:200]}" if lines else ""
  if code is None or code >= 0:
    raise RuntimeError(
      f"the process that compiles ended with exit status {code}{last}; a script must plan under "
      'if __name__ == "__main__":'
    )
  return f"{signal.Signals(-code).name}{last}"
