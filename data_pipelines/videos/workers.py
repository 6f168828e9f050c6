"""Runs tasks in worker processes: a decoder that crashes or hangs costs one video, not the job.

Pebble starts the processes and reports how they ended. Each process has its own pool, because the
processes of a pool share a lock: if one were killed while it holds the lock, the others would stop.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

import pebble

Report = Callable[[Any], None]
_TICK = 0.1  # seconds between two checks for time limits and for processes that ended silently
_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)  # signals not caused by a decoder itself


def cores() -> int:
  """Number of cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Piece:
  """A report that does not restart the time limit, of a task that sends many small ones."""

  message: Any


@dataclasses.dataclass(frozen=True)
class Crash:
  """How a process was lost in the middle of a task.

  Attributes:
    reason: the reason, as text for the user.
    outside: True if something else killed the process, for example the system when short of
      memory, so that a second try may succeed.
    late: True if it exceeded the time limit of a request.
  """

  reason: str
  outside: bool
  late: bool = False


def run(
  function: Callable[[Any, Report], Any],
  tasks: Sequence[Any],
  *,
  workers: int,
  on_report: Callable[[Any, Any], None],
  on_crash: Callable[[Any, Crash], Any],
  timeout: float = 0.0,
) -> Generator[tuple[Any, Any]]:
  """Runs `function(task, report)` for every task and yields (task, result) as the tasks end.

  With one worker and no time limit, everything runs in this process. Otherwise each worker is a
  new ("spawn") process, which does not inherit this process's threads or devices; `function`,
  tasks, reports and results are pickled. Workers end when this process ends, for whatever reason.

  Args:
    function: an importable function; it may call `report(message)` any number of times.
    tasks: the tasks, in the order in which they start.
    workers: number of processes.
    on_report: called with (task, message) in this process; a `Piece` is unpacked.
    on_crash: called with (task, crash) if a worker died during a task or exceeded the time limit;
      returns the task to run instead, which may be the same one, or None to give it up.
    timeout: a task's process is ended if it sends no report for this many seconds after its start
      or its last report, where a `Piece` is none; the time that this process needs for reports does
      not count. 0 sets no limit.

  Raises:
    Exception: the first exception that `function` raised; the other workers are stopped.
  """

  def deliver(task: Any, message: Any) -> None:
    on_report(task, message.message if isinstance(message, Piece) else message)

  if workers <= 1 and not timeout:
    for task in tasks:
      yield task, function(task, functools.partial(deliver, task))
    return
  queue = collections.deque((task, 0) for task in tasks)  # (task, number of failed starts)
  idle = [_Worker() for _ in range(min(max(workers, 1), len(queue)))]
  busy: dict[multiprocessing.connection.Connection, _Worker] = {}
  clock = _Clock()
  try:
    while queue or busy:
      while queue and idle:  # the worker is in `idle` or `busy` whenever Ctrl-C may come
        worker = idle[-1]
        busy[worker.start(function, *queue.popleft())] = worker
        idle.pop()
      multiprocessing.connection.wait(list(busy), _TICK)
      for pipe, worker in list(busy.items()):
        # Check this before the pipe: if it is done, an empty pipe has delivered all its reports.
        done = worker.future.done() or not worker.pool.active
        if pipe.poll():
          try:
            message = pipe.recv()
          except (EOFError, OSError):  # the pipe ended, perhaps in the middle of a message
            pass
          else:
            if worker.began:
              with clock.stopped():
                deliver(worker.task, message)
            worker.heard = time.monotonic()
            if not (worker.began and isinstance(message, Piece)):
              worker.began = clock.now()
            continue
        elif not (done or worker.is_late(timeout, clock)):
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
            f"worker processes cannot start: {crash.reason}; put the code of your script under "
            "`if __name__ == '__main__':`"
          )
  finally:
    pools = {worker.pool for worker in (*idle, *busy.values())}
    for pool in pools:
      pool.stop()
    for pool in pools:
      pool.join()


class _Clock:
  """A clock that stands still while this process is at work and workers may have to wait for it."""

  def __init__(self):
    self._stood = 0.0

  def now(self) -> float:
    return time.monotonic() - self._stood

  @contextlib.contextmanager
  def stopped(self) -> Iterator[None]:
    start = time.monotonic()
    try:
      yield
    finally:
      self._stood += time.monotonic() - start


class _Worker:
  """A process and its current task.

  Attributes:
    pool: Pebble's pool of this one process; the process starts with its first task.
    task: the current task.
    future: future of the result.
    began: by the `_Clock`, when the task began or last reported, pieces aside; 0 before it began.
    heard: `time.monotonic()` when it last reported anything.
    failed_starts: how often a process ended before it began this task.
  """

  def __init__(self):
    self.pool = new_pool()

  def start(self, function, task, failed_starts) -> multiprocessing.connection.Connection:
    """Begins a task; returns the pipe of its reports, which is closed when the task ends."""
    self.task, self.failed_starts, self.began, self.heard = task, failed_starts, 0.0, 0.0
    # One pipe per task: a message half sent by a killed process cannot mix with the next task's.
    self._ours, self._theirs = multiprocessing.Pipe(duplex=False)
    args = (function, task, self._theirs)
    try:
      self.future = schedule(self.pool, _call, args)
    except RuntimeError:  # the process was killed while it had no task
      self._end()
      self.pool = new_pool()
      self.future = schedule(self.pool, _call, args)
    theirs = self._theirs
    self.future.add_done_callback(lambda _: theirs.close())
    return self._ours

  def is_late(self, timeout: float, clock: _Clock) -> bool:
    """Whether the last report is older than the time limit, or the last piece, if it hangs."""
    if not (timeout and self.began):
      return False
    return clock.now() - self.began > timeout or time.monotonic() - self.heard > timeout

  def finish(self, timeout: float) -> tuple[Crash | None, Any]:
    """Ends a task that is done, dead or late; returns (crash or None, result or None)."""
    crash = result = None
    if self.future.done():
      try:
        result = self.future.result()
      except pebble.ProcessExpired as error:
        crash = crash_of(error.exitcode)
      except BrokenProcessPool as error:  # the process ended before it received the task
        crash = Crash(f"the process ended ({error})", outside=True)
    elif self.pool.active:
      crash = Crash(f"decoding took longer than {timeout:g} s (--timeout)", outside=False)
    else:  # the same, but while the task was being sent; then Pebble never completes the future
      crash = Crash("the process ended", outside=True)
    if crash is not None:
      self._end()
      self._theirs.close()
    self._ours.close()
    return crash, result

  def _end(self) -> None:
    self.pool.stop()
    self.pool.join()


def new_pool() -> pebble.ProcessPool:
  """A pool of one process, which starts with its first task and ends with this process."""
  context = multiprocessing.get_context("spawn")
  return pebble.ProcessPool(1, context=context, initializer=_settle_in)


def schedule(
  pool: pebble.ProcessPool, function: Callable[..., Any], args: Sequence[Any]
) -> concurrent.futures.Future[Any]:
  """Gives a pool a task; starts its process, which Ctrl-C of the terminal does not reach.

  Ctrl-C in this process waits meanwhile: a process that is half started would outlive its pool, and
  say at its end that it never heard what to do.

  Raises:
    RuntimeError: the process has ended.
  """
  with _undisturbed():
    return pool.schedule(function, args=args)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
  """Holds SIGINT back from this process, and for good from the processes that are started here."""
  came: list[tuple[int, FrameType | None]] = []
  before: Any = None
  if threading.current_thread() is threading.main_thread():  # others get no KeyboardInterrupt
    before = signal.getsignal(signal.SIGINT)
  if callable(before):
    # The mask alone does not do: another thread may take the signal for the main one.
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
  # Python starts its tracker of resources with the first process, and unblocks SIGINT after it.
  resource_tracker.ensure_running()
  mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if callable(before):
      signal.signal(signal.SIGINT, before)
      if came:
        before(*came[0])


def _settle_in() -> None:
  # Pebble's own handler would wait until a hanging decoder returns.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  assert parent is not None  # this runs only in worker processes
  multiprocessing.connection.wait([parent.sentinel])
  os._exit(1)


def _call(function, task, pipe: multiprocessing.connection.Connection) -> Any:
  with pipe:
    pipe.send(None)  # tells the parent that the task has begun
    try:
      return function(task, pipe.send)
    except Exception as error:
      raise picklable(error) from error


def picklable(error: Exception) -> Exception:
  """The exception, or one of the same text that another process can receive."""
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:
    return RuntimeError(f"{type(error).__name__}: {error}")
  return error


def crash_of(code: int) -> Crash:
  """How a process was lost that ended with this exit code, negative for a signal."""
  if code < 0:
    name = signal.Signals(-code).name
    return Crash(f"the process was ended by {name}", outside=-code in _OUTSIDE)
  return Crash(f"the process ended with status {code}", outside=False)
