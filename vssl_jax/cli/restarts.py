"""Starts a command again when it crashes: `vssl train --restarts=N`."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from vssl_jax.errors import PEER_LOST

PAUSE = 5.0  # seconds before a start, in which the other processes end as well
_FLAG = re.compile(r"--?restarts(=|$)")
_STOPS = (signal.SIGTERM, signal.SIGINT)


def supervise(argv: Sequence[str], restarts: int) -> int:
  """Runs `vssl train` in a process of its own, and again while it crashes.

  A crash is the loss of another process (status 75) or a signal such as SIGKILL. Bad input, other
  errors, Ctrl-C and SIGTERM end the command as without `--restarts`.

  Args:
    argv: the flags of the command.
    restarts: how often it is started again at most.

  Returns:
    The last exit code; 128 plus its number for a signal.
  """
  command = [sys.executable, "-m", "vssl_jax.main", *_without_restarts(argv)]
  for left in range(restarts, -1, -1):
    code, stopped = _run(command)
    crashed = code == PEER_LOST or code < 0
    if not crashed or stopped or not left:
      break
    why = f"signal {-code}" if code < 0 else f"status {code}"
    print(f"note: the run ended with {why}; starting it again, {left - 1} times more.", flush=True)
    time.sleep(PAUSE)
  return 128 - code if code < 0 else code


def _without_restarts(argv: Sequence[str]) -> list[str]:
  kept, values = [], iter(argv)
  for argument in values:
    if not _FLAG.match(argument):
      kept.append(argument)
    elif "=" not in argument:
      next(values, None)
  return kept


def _run(command: Sequence[str]) -> tuple[int, bool]:
  """The exit code, and whether this process was asked to stop, which it passes on."""
  with passed_on() as (running, stopped):
    # In a group of its own, Ctrl-C reaches it once, through this process.
    running.append(subprocess.Popen(command, process_group=0))
    if stopped:  # before it ran
      running[0].send_signal(stopped[0])
    code = running[0].wait()
  return code, bool(stopped)


@contextlib.contextmanager
def passed_on() -> Iterator[tuple[list[subprocess.Popen], list[int]]]:
  """Passes SIGTERM and Ctrl-C on to other processes meanwhile.

  Yields:
    The processes, to which the caller adds each when it starts it, and the signals that came.
  """
  running: list[subprocess.Popen] = []
  stopped: list[int] = []

  def pass_on(number: int, frame: FrameType | None) -> None:
    del frame
    stopped.append(number)
    for process in running:
      process.send_signal(number)

  before = {number: signal.signal(number, pass_on) for number in _STOPS}
  try:
    yield running, stopped
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
