"""Processes that survive their task's crash or hang: a bad decoder takes one video, not the job.

Pebble starts the processes and tells how they ended. Each has a pool of its own: processes of one
pool share a lock, and one that is killed while it holds the lock would stop the others.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pebble

Report = Callable[[Any], None]
_TICK = 0.1  # seconds between two looks at the clock and at processes that ended without a word
_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)  # what no decoder does to itself


@dataclasses.dataclass(frozen=True)
class Crash:
  """How a process was lost in the middle of a task.

  Attributes:
    reason: for people.
    outside: something else killed it, the system short of memory for instance, so that another
      try may well succeed.
  """

  reason: str
  outside: bool


def run(
  function: Callable[[Any, Report], Any],
  tasks: Sequence[Any],
  *,
  workers: int,
  on_report: Callable[[Any, Any], None],
  on_crash: Callable[[Any, Crash], Any],
  timeout: float = 0.0,
) -> Generator[tuple[Any, Any]]:
  """Runs `function(task, report)` for every task and yields (task, result) as they end.

  With one worker and no time limit everything happens in this process. Otherwise each worker is a
  freshly started ("spawn") process, so neither threads nor devices of this one matter; `function`,
  tasks, reports and results are pickled. Workers end when this process does, however it ends.

  Args:
    function: importable; calls `report(message)` as often as it likes.
    tasks: what to do, in order of start.
    workers: number of processes.
    on_report: gets (task, message) in this process.
    on_crash: gets (task, crash) when a worker died in a task or ran into the time limit; returns
      the task to run instead, which may be the same, or None to give it up.
    timeout: seconds from a task's start or one of its reports to the next or to its end, before
      its process is ended; time that this process takes over reports does not count. 0 for none.

  Raises:
    Exception: whatever `function` raised, the first one; the other workers are stopped.
  """
  if workers <= 1 and not timeout:
    for task in tasks:
      yield task, function(task, functools.partial(on_report, task))
    return
  queue = collections.deque((task, 0) for task in tasks)  # with the starts that failed
  idle = [_Worker() for _ in range(min(max(workers, 1), len(queue)))]
  busy: dict[multiprocessing.connection.Connection, _Worker] = {}
  try:
    while queue or busy:
      while queue and idle:
        worker = idle.pop()
        busy[worker.start(function, *queue.popleft())] = worker
      multiprocessing.connection.wait(list(busy), _TICK)
      for pipe, worker in list(busy.items()):
        # Asked first: then a silent pipe has given all its reports.
        done = worker.future.done() or not worker.pool.active
        if pipe.poll():
          try:
            message = pipe.recv()
          except (EOFError, OSError):  # also in the middle of a message
            pass
          else:
            if worker.began:
              on_report(worker.task, message)
            worker.began = time.monotonic()
            continue
        elif not (done or worker.is_late(timeout)):
          continue
        crash, result = worker.finish(timeout)
        del busy[pipe]
        task, lost_before = worker.task, worker.failed_starts
        idle.append(worker if crash is None else _Worker())
        if crash is None:
          yield task, result
        elif worker.began:
          if (retry := on_crash(task, crash)) is not None:
            queue.appendleft((retry, 0))
        elif not lost_before:
          queue.appendleft((task, 1))
        else:
          raise RuntimeError(
            f"worker processes cannot start: {crash.reason}; a script that uses them must start "
            "under `if __name__ == '__main__':`"
          )
  finally:
    pools = [worker.pool for worker in (*idle, *busy.values())]
    for pool in pools:
      pool.stop()
    for pool in pools:
      pool.join()


class _Worker:
  """A process, and the task that it is at.

  Attributes:
    pool: Pebble's pool of this one process, which starts with its first task.
    task: what it does.
    future: of the result.
    began: when the task began or reported last, `time.monotonic()`; 0 before it began.
    failed_starts: how often a process ended before it began this task.
  """

  def __init__(self):
    self.pool = _pool()

  def start(self, function, task, failed_starts) -> multiprocessing.connection.Connection:
    """Begins a task; returns the pipe of its reports, which ends when the task does."""
    self.task, self.failed_starts, self.began = task, failed_starts, 0.0
    # A pipe a task: what a killed process left half sent cannot reach the next one's reports.
    self._ours, self._theirs = multiprocessing.Pipe(duplex=False)
    args = (function, task, self._theirs)
    try:
      self.future = self.pool.schedule(_call, args=args)
    except RuntimeError:  # the process was killed while it had no task
      self._end()
      self.pool = _pool()
      self.future = self.pool.schedule(_call, args=args)
    theirs = self._theirs
    self.future.add_done_callback(lambda _: theirs.close())
    return self._ours

  def is_late(self, timeout: float) -> bool:
    """Whether the last report lies longer back than allowed."""
    return bool(timeout and self.began) and time.monotonic() - self.began > timeout

  def finish(self, timeout: float) -> tuple[Crash | None, Any]:
    """Ends a task that is done, dead or late: how it was lost, else its result."""
    crash = result = None
    if self.future.done():
      try:
        result = self.future.result()
      except pebble.ProcessExpired as error:
        crash = _crash(error.exitcode)
      except BrokenProcessPool as error:  # it ended before the task reached it
        crash = Crash(f"the process ended ({error})", outside=True)
    elif self.pool.active:
      crash = Crash(f"decoding took longer than {timeout:g} s (--timeout)", outside=False)
    else:  # likewise, while the task was on its way: then Pebble forgets the future
      crash = Crash("the process ended", outside=True)
    if crash is not None:
      self._end()
      self._theirs.close()
    self._ours.close()
    return crash, result

  def _end(self) -> None:
    self.pool.stop()
    self.pool.join()


def _pool() -> pebble.ProcessPool:
  context = multiprocessing.get_context("spawn")
  return pebble.ProcessPool(1, context=context, initializer=_settle_in)


def _settle_in() -> None:
  signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Pebble's handler waits for a decoder to return
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  assert parent is not None  # this runs in a process that was started
  multiprocessing.connection.wait([parent.sentinel])
  os._exit(1)


def _call(function, task, pipe: multiprocessing.connection.Connection) -> Any:
  with pipe:
    pipe.send(None)  # it has begun
    try:
      return function(task, pipe.send)
    except Exception as error:
      raise _picklable(error) from error


def _picklable(error: Exception) -> Exception:
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:
    return RuntimeError(f"{type(error).__name__}: {error}")
  return error


def _crash(code: int) -> Crash:
  if code < 0:
    name = signal.Signals(-code).name
    return Crash(f"the process was ended by {name}", outside=-code in _OUTSIDE)
  return Crash(f"the process ended with status {code}", outside=False)
