"""Worker processes that answer requests one by one, for threads that wait for the answers.

`workers.run` works off a list; here the requests come one after the other. A process that crashes
or exceeds the time limit costs its request alone, and another one takes its place.
"""

from __future__ import annotations

import atexit
import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pebble

from data_pipelines.videos import workers

_LOCK = threading.Lock()


class LostError(Exception):
  """The process of a request was lost.

  Attributes:
    crash: how.
  """

  def __init__(self, crash: workers.Crash):
    super().__init__(crash.reason)
    self.crash = crash


class Servers:
  """A number of worker processes, which start with their first request.

  Args:
    count: number of processes.
  """

  def __init__(self, count: int):
    self._idle: queue.LifoQueue[pebble.ProcessPool] = queue.LifoQueue()
    self._pools = {workers.new_pool() for _ in range(count)}
    for pool in self._pools:
      self._idle.put(pool)

  def call(self, function: Callable[[Any], Any], argument: Any, *, timeout: float = 0.0) -> Any:
    """Runs `function(argument)` in an idle process, after waiting for one; from any thread.

    A request is tried once more if something else has killed its process, such as the system when
    short of memory, or if it exceeded the time limit, which may be the fault of a busy machine.

    Args:
      function: an importable function.
      argument: pickled, as is the result.
      timeout: seconds that the function may take, with the start of its process; 0: no limit.

    Raises:
      LostError: the process crashed, or was killed or exceeded the time limit twice.
      Exception: what the function raises.
    """
    pool = self._idle.get()
    try:
      for again in (False, True):
        if not pool.active:  # killed while it was idle
          pool = self._renewed(pool)
        crash, result = _ask(pool, function, argument, timeout)
        if crash is None:
          return result
        pool = self._renewed(pool)
        if again or not (crash.outside or crash.late):
          break
      assert crash is not None
      raise LostError(crash)
    finally:
      self._idle.put(pool)

  def close(self) -> None:
    """Ends all processes."""
    for pool in list(self._pools):
      pool.stop()
    for pool in list(self._pools):
      pool.join()

  def _renewed(self, pool: pebble.ProcessPool) -> pebble.ProcessPool:
    pool.stop()
    pool.join()
    self._pools.discard(pool)
    self._pools.add(pool := workers.new_pool())
    return pool


def shared(count: int) -> Servers:
  """Servers that all sources of this process share, so that each split needs none of its own."""
  with _LOCK:  # of threads that ask at once, each would get processes of its own
    return _shared(count)


@functools.lru_cache(maxsize=4)
def _shared(count: int) -> Servers:
  found = Servers(count)
  atexit.register(found.close)
  return found


def _ask(
  pool: pebble.ProcessPool, function: Callable[[Any], Any], argument: Any, timeout: float
) -> tuple[workers.Crash | None, Any]:
  try:
    future = workers.schedule(pool, _guarded, (function, argument))
  except RuntimeError:  # it has just ended
    return workers.Crash("the process ended", outside=True), None
  try:
    result = future.result(timeout or None)
  except TimeoutError:
    reason = f"decoding took longer than {timeout:g} s"
    return workers.Crash(reason, outside=False, late=True), None
  except pebble.ProcessExpired as error:
    return workers.crash_of(error.exitcode), None
  except BrokenProcessPool as error:  # it ended before it received the request
    return workers.Crash(f"the process ended ({error})", outside=True), None
  if isinstance(result, Exception):
    raise result
  return None, result


def _guarded(function: Callable[[Any], Any], argument: Any) -> Any:
  """The result, or the exception: a `TimeoutError` of the function is not one of the process."""
  try:
    return function(argument)
  except Exception as error:
    return workers.picklable(error)
