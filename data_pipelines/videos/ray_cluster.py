"""A connection to a Ray cluster, and the loop that gives tasks to its workers.

Ray starts the workers, brings messages, and says when a node is gone. What a worker does with a
task is its own affair: see `ray_workers` for processes that decode.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from data_pipelines import optional
from data_pipelines.videos.workers import Crash
from vssl_jax.errors import UserError, brief

ENGINES = ("local", "ray")
LOST = "its worker on the cluster was lost, perhaps with the node or for want of memory"
_REACHED_IN = 5.0  # seconds for a port to answer
_JOINED_IN = 30.0  # seconds for Ray to let this process join a cluster
_PATIENCE = 30.0  # seconds without any worker before a note says so
_PORT = re.compile(r"([^\s/]+):(\d+)")  # of Ray's address, such as 10.0.0.1:6379
_JOIN = """\
import sys, logging, ray
try:
  ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
except Exception as error:
  print(f"{type(error).__name__}: {error}")
else:
  print("joined")
"""


def check(engine: str, address: str) -> None:
  """Checks the flags `--engine` and `--address`, without joining a cluster.

  Raises:
    UserError: no such engine, an address without Ray, or Ray is not installed.
  """
  if engine not in ENGINES:
    raise UserError(f"engine is {engine!r}: give {' or '.join(ENGINES)}")
  if engine == "ray":
    load()
  elif address:
    raise UserError(f"address {address} is of a Ray cluster: give --engine=ray as well")


def load() -> Any:
  """The package `ray`, which sends no statistics to its makers unless the user wants it to.

  Raises:
    UserError: it is not installed.
  """
  os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
  os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray prints a tip
  try:
    return importlib.import_module("ray")
  except ModuleNotFoundError as e:
    if e.name != "ray":
      raise
    told = optional.install("ray")
    raise UserError(f"--engine=ray needs ray, which is not installed: {told}.") from None


@contextlib.contextmanager
def joined(address: str = "") -> Iterator[Any]:
  """Joins a cluster; leaves it at the end, unless this process was in it before.

  Args:
    address: `HOST:PORT` of the head node, "auto" for the cluster that this machine is part of, or
      "local" for a new one on this machine; "" for the environment's RAY_ADDRESS, else "local".

  Yields:
    The package `ray`.

  Raises:
    UserError: the address cannot be reached within about half a minute, or nothing there lets
      this process join.
  """
  ray = load()
  if ray.is_initialized():
    now = ray.get_runtime_context().gcs_address
    if address not in ("", "auto", now):
      raise UserError(f"address {address}: this process is in the Ray cluster {now}; leave it out.")
    yield ray
    return
  address = address or os.environ.get("RAY_ADDRESS", "") or "local"
  if address != "local":
    _require_reachable(address)
  options: dict[str, Any] = {} if address != "local" else {"include_dashboard": False}
  try:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
  except Exception as e:  # Ray has many
    raise UserError(f"address {address}: no Ray cluster can be joined ({brief(e)})") from e
  try:
    yield ray
  finally:
    ray.shutdown()


def _require_reachable(address: str) -> None:
  # Ray itself tries for minutes, and may end the process. So another process tries first.
  if "://" in address:
    raise UserError(
      f"address {address}: Ray Client is not supported: run this command on a node of the cluster, "
      "with --address=auto"
    )
  found = _PORT.fullmatch(address)
  if not found and address != "auto":
    raise UserError(f"address is {address!r}: give HOST:PORT of Ray's head node, auto or local")
  if found:
    try:
      socket.create_connection((found[1].strip("[]"), int(found[2])), _REACHED_IN).close()
    except (OSError, OverflowError) as e:
      raise UserError(
        f"address {address}: cannot be reached ({e}): is Ray's head node running there?"
      ) from None
  try:
    done = subprocess.run(
      [sys.executable, "-c", _JOIN, address],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
      timeout=_JOINED_IN,
      check=False,
    )
    said = done.stdout.strip() or f"status {done.returncode}"
  except subprocess.TimeoutExpired:
    said = f"no answer within {_JOINED_IN:g} s"
  if said != "joined":
    raise UserError(
      f"address {address}: no Ray cluster can be joined there ({brief(ValueError(said))}): this "
      "machine must be one of its nodes, with the same versions of Ray and Python"
    )


def cpus(ray: Any) -> int:
  """Number of CPUs that the cluster has now.

  Raises:
    UserError: none.
  """
  if count := int(ray.cluster_resources().get("CPU", 0)):
    return count
  raise UserError("the Ray cluster has no CPU now: give --workers to wait for nodes that will join")


@dataclasses.dataclass
class _Slot:
  """An actor of the cluster and its current task.

  Attributes:
    actor: Ray's handle.
    waiting: what Ray waits for: the answer of `ready`, or the stream of messages of `work`.
    task: the current task; meaningless while the actor starts.
    busy: whether it has one.
    began: whether a message about it has come.
    failed_starts: how often this task was lost before any message about it.
  """

  actor: Any
  waiting: Any
  task: Any = None
  busy: bool = False
  began: bool = False
  failed_starts: int = 0


def drive(
  ray: Any,
  start: Callable[[], Any],
  count: int,
  tasks: Sequence[Any],
  *,
  on_report: Callable[[Any, Any], None],
  on_crash: Callable[[Any, Crash], Sequence[Any]],
  on_ready: Callable[[Any], str] = lambda facts: "",
) -> Generator[tuple[Any, Any]]:
  """Gives tasks to actors and yields (task, result) as the tasks end.

  Args:
    ray: the package, which has joined a cluster.
    start: starts an actor and returns its handle. The actor has two methods: `ready()`, and
      `work(task)`, a generator of pairs: ("report", message) any number of times, and then
      ("result", result), ("crash", Crash) or ("error", exception).
    count: number of actors at most; one that is lost is replaced when the cluster has room.
    tasks: the tasks, in the order in which they start.
    on_report: called with (task, message).
    on_crash: called with (task, crash) if an actor sent a crash, or was lost during the task, which
      counts as a crash from outside; returns the tasks to run instead.
    on_ready: called with what `ready()` returned; returns why the actor cannot be used, "" if it
      can.

  Raises:
    UserError: actors cannot start.
    Exception: the first exception that an actor sent; the other actors are stopped.
  """
  queue = collections.deque((task, 0) for task in tasks)  # (task, number of failed starts)
  slots: dict[Any, _Slot] = {}  # by what they wait for
  idle: list[_Slot] = []
  failed, noted = 0, False

  def begin(slot: _Slot) -> None:
    slot.task, slot.failed_starts = queue.popleft()
    slot.busy, slot.began = True, False
    slot.waiting = slot.actor.work.options(num_returns="streaming").remote(slot.task)
    slots[slot.waiting] = slot

  try:
    while queue or any(slot.busy for slot in slots.values()):
      while queue and idle:
        begin(idle.pop())
      while idle:  # others may need its CPU while the last tasks run
        ray.kill(idle.pop().actor)
      starting = sum(not slot.busy for slot in slots.values())
      while starting < len(queue) and len(slots) < count:
        actor = start()
        slot = _Slot(actor, actor.ready.remote())
        slots[slot.waiting] = slot
        starting += 1
      ready, _ = ray.wait(list(slots), timeout=_PATIENCE)
      if not ready and not noted and not any(slot.busy for slot in slots.values()):
        _note_waiting()
        noted = True
      if ready:
        ready, _ = ray.wait(list(slots), num_returns=len(slots), timeout=0)
      for waiting in ready:
        slot = slots[waiting]
        try:
          found = ray.get(next(waiting) if slot.busy else waiting)
        except (ray.exceptions.RayError, StopIteration) as e:
          if slot.busy and isinstance(e, ray.exceptions.RayTaskError):
            raise  # a defect of `work` itself, not of the cluster
          del slots[waiting]
          ray.kill(slot.actor)
          if not slot.busy:
            failed += 1
            if failed > 2 * count:
              raise _cannot_start(e) from e
          elif slot.began or slot.failed_starts:
            again = on_crash(slot.task, Crash(LOST, outside=True))
            queue.extendleft((task, 0) for task in reversed(again))
          else:
            queue.appendleft((slot.task, 1))
          continue
        if not slot.busy:
          del slots[waiting]
          idle.append(slot)
          if problem := on_ready(found):
            raise UserError(problem)
          continue
        kind, value = found
        slot.began = True
        if kind == "report":
          on_report(slot.task, value)
          continue
        del slots[waiting]
        slot.busy = False
        idle.append(slot)
        if kind == "result":
          yield slot.task, value
        elif kind == "crash":
          queue.extendleft((task, 0) for task in reversed(on_crash(slot.task, value)))
        else:
          raise value
  finally:
    for slot in (*idle, *slots.values()):
      with contextlib.suppress(Exception):  # the cluster may be gone
        ray.kill(slot.actor)


def first(ray: Any, start: Callable[[], Any]) -> tuple[Any, Any]:
  """Starts an actor and waits until it is ready, for what must be known before the tasks are.

  Args:
    ray: the package, which has joined a cluster.
    start: see `drive`, to which the actor can be given later.

  Returns:
    The actor, and what its `ready()` returned.

  Raises:
    UserError: no actor can start.
  """
  for tries_left in (2, 1, 0):
    actor = start()
    answer = actor.ready.remote()
    try:
      if not ray.wait([answer], timeout=_PATIENCE)[0]:
        _note_waiting()
      return actor, ray.get(answer)
    except ray.exceptions.RayError as e:
      ray.kill(actor)
      if not tries_left:
        raise _cannot_start(e) from e
    except BaseException:
      ray.kill(actor)
      raise
  raise AssertionError  # the last try returns or raises


def _note_waiting() -> None:
  print("note: the cluster has no room for a worker yet; waiting for it", file=sys.stderr)


def _cannot_start(error: BaseException) -> UserError:
  return UserError(
    f"workers cannot start on the cluster ({_last_line(error)}): install this version of vssl_jax, "
    "and what it needs, on all nodes"
  )


def _last_line(error: BaseException) -> str:
  """The exception at the end of a traceback that Ray brings along as text."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
  return (raised or lines or [type(error).__name__])[-1]
