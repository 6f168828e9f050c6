"""Processes that survive their task's crash: a decoder that dies takes one video, not the job."""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Report = Callable[[Any], None]


@dataclasses.dataclass
class _Worker:
  process: multiprocessing.process.BaseProcess
  pipe: multiprocessing.connection.Connection
  ready: bool = False
  task: Any = None


def run(
  function: Callable[[Any, Report], Any],
  tasks: Sequence[Any],
  *,
  workers: int,
  on_report: Callable[[Any, Any], None],
  on_crash: Callable[[Any, str], Any],
) -> Iterator[tuple[Any, Any]]:
  """Runs `function(task, report)` for every task and yields (task, result) as they end.

  With one worker everything happens in this process. With more, each is a freshly started
  ("spawn") process, so neither threads nor devices of this one matter; `function`, tasks and
  results are pickled. Workers end when this process does, however it ends.

  Args:
    function: importable; calls `report(message)` as often as it likes.
    tasks: what to do, in order of start.
    workers: number of processes.
    on_report: gets (task, message) in this process.
    on_crash: gets (task, reason) when a worker died in a task, by a signal for instance; returns
      the task to run instead, or None to give it up.

  Raises:
    Exception: whatever `function` raised, the first one; the other workers are stopped.
  """
  if workers <= 1:
    for task in tasks:
      yield task, function(task, lambda message, task=task: on_report(task, message))
    return
  queue = collections.deque(tasks)
  pool = [_start(function) for _ in range(min(workers, len(queue)))]
  try:
    while busy := {w.pipe: w for w in pool if w.task is not None or not w.ready}:
      for pipe in multiprocessing.connection.wait(list(busy)):
        worker = busy[pipe]
        try:
          kind, value = pipe.recv()
        except (EOFError, OSError):
          worker.process.join()
          reason = _reason(worker.process.exitcode)
          if not worker.ready:
            raise RuntimeError(
              f"worker processes cannot start: {reason}; a script that uses several workers must "
              "start under `if __name__ == '__main__':`"
            ) from None
          pool.remove(worker)
          retry = on_crash(worker.task, reason)
          if retry is not None:
            queue.appendleft(retry)
          if queue:
            pool.append(_start(function))
          continue
        if kind == "report":
          on_report(worker.task, value)
        elif kind == "error":
          error, text = value
          error.add_note(f"in a worker process:\n{text}")
          raise error
        else:
          task, worker.ready = worker.task, True
          _give(worker, queue)
          if kind == "done":
            yield task, value
  finally:
    for worker in pool:
      worker.process.terminate()
      worker.pipe.close()
    for worker in pool:
      worker.process.join()


def _start(function) -> _Worker:
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe()
  process = context.Process(target=_loop, args=(function, theirs), daemon=True)
  process.start()
  theirs.close()
  return _Worker(process, ours)


def _give(worker: _Worker, queue: collections.deque) -> None:
  worker.task = queue.popleft() if queue else None
  if worker.task is not None:
    worker.pipe.send(worker.task)


def _loop(function, pipe: multiprocessing.connection.Connection) -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C and stops its workers
  threading.Thread(target=_end_with_parent, daemon=True).start()
  answer = ("ready", None)
  try:
    while True:
      pipe.send(answer)
      task = pipe.recv()
      try:
        answer = ("done", function(task, lambda message: pipe.send(("report", message))))
      except (BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
      except Exception as error:
        answer = ("error", (_picklable(error), traceback.format_exc()))
  except (EOFError, BrokenPipeError, ConnectionResetError):
    return


def _end_with_parent() -> None:
  multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
  os._exit(1)


def _picklable(error: Exception) -> Exception:
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:
    return RuntimeError(f"{type(error).__name__}: {error}")
  return error


def _reason(code: int | None) -> str:
  if code is not None and code < 0:
    return f"the process was ended by {signal.Signals(-code).name}"
  return f"the process ended with status {code}"
