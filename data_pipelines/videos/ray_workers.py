"""`workers.run` on a Ray cluster: each task in a process of its own, on whichever node has room.

Ray cannot say which signal ended a process, nor end one that hangs in a decoder. So an actor on the
node watches over the process, with the same code that does it on one machine: crashes, time limits
and their texts are the same. All that Ray adds is that a node may be lost.
"""

from __future__ import annotations

import functools
import math
import platform
import queue
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import av
import PIL

from data_pipelines.videos import ray_cluster, workers
from vssl_jax import files
from vssl_jax._version import __version__


def run(
  function: Callable[[Any, workers.Report], Any],
  tasks: Sequence[Any],
  *,
  count: int,
  on_report: Callable[[Any, Any], None],
  on_crash: Callable[[Any, workers.Crash], Any],
  timeout: float = 0.0,
  address: str = "",
  shared: Mapping[str, int] | None = None,
) -> Generator[tuple[Any, Any]]:
  """Runs `function(task, report)` for every task and yields (task, result) as the tasks end.

  Args:
    function: see `workers.run`; nodes import it from their own installation.
    tasks: see `workers.run`.
    count: number of workers, each with one CPU of the cluster; 0 takes all CPUs that it has now.
      If it has fewer, the rest starts when nodes join.
    on_report: see `workers.run`.
    on_crash: see `workers.run`; if a node is lost, each of its tasks has a crash from outside.
    timeout: see `workers.run`; measured on the node.
    address: of the cluster, see `ray_cluster.joined`.
    shared: files that all nodes must have, with their sizes in bytes.

  Raises:
    UserError: there is no cluster, no worker can start, a node has other versions of the software,
      or it does not have the files.
    Exception: the first exception that `function` raised; the other workers are stopped.
  """
  if not tasks:
    return

  def again(task: Any, crash: workers.Crash) -> list[Any]:
    retry = on_crash(task, crash)
    return [] if retry is None else [retry]

  with ray_cluster.joined(address) as ray:
    actor = ray.remote(Watcher).options(
      num_cpus=1, scheduling_strategy="SPREAD", max_restarts=0, max_task_retries=0
    )
    yield from ray_cluster.drive(
      ray,
      functools.partial(actor.remote, function, timeout, dict(shared or {})),
      count or ray_cluster.cpus(ray),
      tasks,
      on_report=on_report,
      on_crash=again,
      on_ready=problem,
    )


def software() -> dict[str, str]:
  """What decides which bytes a video becomes: versions by name."""
  return {
    "vssl_jax": __version__,
    "PyAV": av.__version__,
    "Pillow": PIL.__version__,
    "processor": platform.machine(),
  }


def describe(shared: Mapping[str, int]) -> dict[str, Any]:
  """What a node says about itself: `host`, `software`, and the files of `shared` it `lacks`."""
  return {
    "host": socket.gethostname(),
    "software": software(),
    "lacks": [path for path, size in shared.items() if _size(path) != size],
  }


def problem(facts: Mapping[str, Any]) -> str:
  """Why a node that described itself so cannot take part; "" if it can."""
  here = software()
  for name, version in facts["software"].items():
    if version != here.get(name):
      return (
        f"{facts['host']}: has {name} {version}, this machine {here.get(name)}: results could "
        "differ; install the same on all nodes"
      )
  if facts["lacks"]:
    return (
      f"{facts['host']}: does not have {facts['lacks'][0]} of this machine: all nodes must have "
      "the same storage, under the same path"
    )
  return ""


def _size(path: str) -> int:
  try:
    return files.size(path)
  except OSError:
    return -1


class Watcher:
  """The actor of one worker: runs each task in a process, and reports how it ended."""

  def __init__(self, function: Callable[..., Any], timeout: float, shared: Mapping[str, int]):
    self._function, self._timeout, self._shared = function, timeout, shared

  def ready(self) -> dict[str, Any]:
    """What `describe` says."""
    return describe(self._shared)

  def work(self, task: Any) -> Iterator[tuple[str, Any]]:
    """Runs a task; yields what `ray_cluster.drive` expects."""

    def go(send: Callable[[str, Any], None]) -> None:
      # With a time limit, even an infinite one, it is a process of its own.
      results = workers.run(
        self._function,
        [task],
        workers=1,
        timeout=self._timeout or math.inf,
        on_report=lambda _, message: send("report", message),
        on_crash=lambda _, crash: send("crash", crash),
      )
      for _, result in results:
        send("result", result)

    yield from stream(go)


def stream(go: Callable[[Callable[[str, Any], None]], None]) -> Iterator[tuple[str, Any]]:
  """Calls `go(send)` in a thread; yields the pairs that it sends, and ("error", its exception)."""
  messages: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()

  def run_to_end() -> None:
    try:
      go(lambda kind, value: messages.put((kind, value)))
    except Exception as error:
      messages.put(("error", error))
    finally:
      messages.put(None)

  threading.Thread(target=run_to_end, daemon=True).start()
  while (message := messages.get()) is not None:
    yield message
