"""Worker processes: results, reports, errors, hangs, and deaths at any moment."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pebble
import pytest

from data_pipelines.videos import workers

ROOT = pathlib.Path(__file__).parents[2]
TASKS = """
import ctypes, os, pathlib, signal, struct, time
from data_pipelines.videos.workers import Piece

def sleep(task, report):
  report(os.getpid())
  time.sleep(task)

def square(task, report):
  report(("half", task))
  return task * task, os.getpid()

def die_on_negative(task, report):
  report(task)
  if task < 0:
    os.kill(os.getpid(), signal.SIGSEGV)
  return task

def blocks_ctrl_c(task, report):
  return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

def fail(task, report):
  raise ValueError(f"task {task}")

def fail_unpicklably(task, report):
  error = ValueError("odd")
  error.hook = lambda: 0
  raise error

def hang_on_negative(task, report):
  report(os.getpid())
  if task < 0:
    ctypes.CDLL(None).pause()  # in C, where no Python code can answer a signal
  return task

def report_slowly(task, report):
  for i in range(8):
    time.sleep(0.5)
    report(i)
  return task

def report_pieces(task, report):
  every, count = task
  for i in range(count):
    time.sleep(0.25)
    report(i if every and i % every == 0 else Piece(i))
  return task

def slow_pieces(task, report):
  for i in range(5):
    report(Piece(i))
    time.sleep(task)
  return task

def burst(task, report):
  for i in range(2):
    report(i)
  return task

def killed_once(task, report):
  report("begun")
  marker, number = task
  if not os.path.exists(marker):
    pathlib.Path(marker).touch()
    os.kill(os.getpid(), number)
  return "done"

def killed_in_a_message(task, report):
  report("whole")
  if task < 0:
    os.write(report.__self__.fileno(), struct.pack("!i", 1000) + b"not all of it")
    os.kill(os.getpid(), signal.SIGKILL)
  return task
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
  """A module that spawned processes can import as well."""
  (tmp_path / "worker_tasks.py").write_text(textwrap.dedent(TASKS))
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, "worker_tasks", raising=False)
  import worker_tasks

  return worker_tasks


def run(function, items, count, crashes=None, replace=None, timeout=0.0):
  reports = []

  def on_crash(task, crash):
    crashes.append((task, crash))
    return replace

  results = workers.run(
    function,
    items,
    workers=count,
    timeout=timeout,
    on_report=lambda task, message: reports.append((task, message)),
    on_crash=on_crash,
  )
  return dict(results), reports


@pytest.mark.parametrize("count", [1, 2])
def test_every_task_once(tasks, count):
  results, reports = run(tasks.square, list(range(7)), count)
  assert {task: square for task, (square, _) in results.items()} == {i: i * i for i in range(7)}
  assert sorted(reports) == [(i, ("half", i)) for i in range(7)]
  assert (os.getpid() in {pid for _, pid in results.values()}) == (count == 1)


def test_no_tasks(tasks):
  assert run(tasks.square, [], 4) == ({}, [])


def test_a_death_replaces_the_task_and_spares_the_others(tasks):
  crashes = []
  results, reports = run(tasks.die_on_negative, [1, -2, 3, 4], 2, crashes, replace=20)
  assert results == {1: 1, 3: 3, 4: 4, 20: 20}
  assert crashes == [(-2, workers.Crash("the process was ended by SIGSEGV", outside=False))]
  assert (-2, -2) in reports


def test_a_death_may_drop_the_task(tasks):
  crashes = []
  results, _ = run(tasks.die_on_negative, [-1, 5], 2, crashes, replace=None)
  assert results == {5: 5}
  assert len(crashes) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_errors_are_raised_here(tasks, count):
  with pytest.raises(ValueError, match="task 3"):
    run(tasks.fail, [3, 3], count)


def test_errors_that_do_not_pickle_keep_their_text(tasks):
  with pytest.raises(RuntimeError, match="ValueError: odd"):
    run(tasks.fail_unpicklably, [1, 2], 2)


def test_stopping_early_ends_the_processes(tasks):
  pids = {}
  results = workers.run(
    tasks.sleep, [0.0, 1e4], workers=2, on_report=pids.__setitem__, on_crash=None
  )
  next(results)
  results.close()  # returns although one task is asleep
  for pid in pids.values():
    assert is_gone(pid)


def is_gone(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  stat = pathlib.Path(f"/proc/{pid}/stat")  # dead, but nobody has asked how it ended
  return stat.exists() and ") Z " in stat.read_text()


@pytest.mark.parametrize("count", [1, 2])
def test_a_hang_is_ended_and_spares_the_others(tasks, count):
  crashes = []
  results, reports = run(tasks.hang_on_negative, [1, -2, 3, 4], count, crashes, 20, timeout=2.0)
  assert results == {1: 1, 3: 3, 4: 4, 20: 20}
  late = workers.Crash("decoding took longer than 2 s (--timeout)", outside=False)
  assert crashes == [(-2, late)]
  pids = dict(reports)
  assert os.getpid() not in pids.values()  # one worker is a process, too: it must be ended
  assert is_gone(pids[-2])


def test_only_silence_is_a_hang(tasks):
  crashes = []
  results, reports = run(tasks.report_slowly, [0], 1, crashes, timeout=3.0)
  assert (results, crashes, len(reports)) == ({0: 0}, [], 8)


def test_pieces_do_not_restart_the_time_limit(tasks):
  crashes = []
  endless, part = (0, 40), (4, 12)  # the second one reports more than pieces every second
  results, reports = run(tasks.report_pieces, [part, endless], 2, crashes, timeout=2.0)
  assert results == {part: part}
  assert crashes == [
    (endless, workers.Crash("decoding took longer than 2 s (--timeout)", outside=False))
  ]
  assert [message for task, message in reports if task == part] == list(range(12))


@pytest.mark.parametrize(("timeout", "there", "here"), [(0.0, 0.0, 0.0), (2.0, 0.65, 0.45)])
def test_time_that_pieces_take_here_does_not_count(tasks, timeout, there, here):
  seen = []

  def slow(task, message):
    seen.append((task, message))
    time.sleep(here)

  results = workers.run(
    tasks.slow_pieces, [there], workers=1, timeout=timeout, on_report=slow, on_crash=None
  )
  assert dict(results) == {there: there}
  assert seen == [(there, i) for i in range(5)]


def test_time_that_the_reports_take_here_does_not_count(tasks):
  seen = []

  def slow(task, message):
    seen.append((task, message))
    time.sleep(0.8)

  results = workers.run(tasks.burst, [1, 2], workers=2, timeout=0.7, on_report=slow, on_crash=None)
  assert dict(results) == {1: 1, 2: 2}
  assert sorted(seen) == [(task, i) for task in (1, 2) for i in range(2)]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_task_whose_process_was_killed_can_be_tried_again(tasks, tmp_path, name):
  crashes, task = [], (str(tmp_path / "marker"), signal.Signals[name])
  results, reports = run(tasks.killed_once, [task], 2, crashes, replace=task)
  assert results == {task: "done"}
  assert reports == [(task, "begun")] * 2
  assert crashes == [(task, workers.Crash(f"the process was ended by {name}", outside=True))]


def test_a_kill_in_the_middle_of_a_report(tasks):
  crashes = []
  results, reports = run(tasks.killed_in_a_message, [-1, 2, 3], 1, crashes, 4, timeout=60.0)
  assert results == {4: 4, 2: 2, 3: 3}
  assert reports == [(i, "whole") for i in (-1, 4, 2, 3)]
  assert [crash.outside for _, crash in crashes] == [True]


def test_a_kill_between_two_tasks_costs_nothing(tasks):
  results = workers.run(
    tasks.square, [1, 2, 3], workers=1, timeout=60.0, on_report=lambda *_: None, on_crash=None
  )
  found = {}
  for task, (square, pid) in results:
    found[task] = square
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5 * (task == 1))  # once long enough to be noticed before the next task, once not
  assert found == {1: 1, 2: 4, 3: 9}


def test_a_task_that_a_broken_pool_forgets_is_given_to_another(tasks, monkeypatch):
  """A process that dies just as it is given a task: nothing ever comes of the future."""
  real, calls = pebble.ProcessPool.schedule, []

  def schedule(pool, *args, **kwargs):
    calls.append(pool)
    if len(calls) > 1:
      return real(pool, *args, **kwargs)
    pool.stop()
    return concurrent.futures.Future()

  monkeypatch.setattr(pebble.ProcessPool, "schedule", schedule)
  results, _ = run(tasks.square, [3], 1, timeout=60.0)
  assert results[3][0] == 9
  assert len(calls) == 2


@pytest.mark.parametrize("kills", [1, 2])
def test_a_kill_before_the_task_begins(tmp_path, monkeypatch, kills):
  """The first import of the function's module kills the process, or every one does."""
  (tmp_path / "dying_import.py").write_text(
    "import multiprocessing, os, pathlib, signal\n"
    f"marker = pathlib.Path({str(tmp_path / 'marker')!r})\n"
    f"if multiprocessing.parent_process() and ({kills} == 2 or not marker.exists()):\n"
    "  marker.touch()\n"
    "  os.kill(os.getpid(), signal.SIGKILL)\n"
    "def same(task, report):\n"
    "  return task\n"
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, "dying_import", raising=False)
  import dying_import

  if kills == 1:
    assert run(dying_import.same, [5], 2) == ({5: 5}, [])
  else:
    with pytest.raises(RuntimeError, match=r"cannot start: .*__main__"):
      run(dying_import.same, [5], 2)


def test_ctrl_c_while_a_process_starts_leaves_none(tasks, monkeypatch):
  real, pools = pebble.ProcessPool.schedule, []

  def schedule(pool, *args, **kwargs):
    pools.append(pool)
    future = real(pool, *args, **kwargs)
    signal.raise_signal(signal.SIGINT)
    return future

  monkeypatch.setattr(pebble.ProcessPool, "schedule", schedule)
  before = signal.getsignal(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt):
    run(tasks.sleep, [60, 60], 2)
  assert len(pools) == 1
  assert not pools[0].active
  assert not multiprocessing.active_children()
  assert signal.getsignal(signal.SIGINT) is before
  assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_of_the_terminal_does_not_reach_the_processes(tasks):
  """Not even while they start, when they would say so at length."""
  assert run(tasks.blocks_ctrl_c, [1], 2)[0] == {1: True}


def test_no_process_outlives_this_one(tasks, tmp_path):
  script = tmp_path / "job.py"
  script.write_text(
    "import sys, worker_tasks\n"
    "from data_pipelines.videos import workers\n"
    "if __name__ == '__main__':\n"
    "  show = lambda task, pid: print(pid, flush=True)\n"
    "  list(workers.run(worker_tasks.hang_on_negative, [-1, -2, -3], workers=2, timeout=600,\n"
    "                   on_report=show, on_crash=None))\n"
  )
  path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
  job = subprocess.Popen(
    [sys.executable, script], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE
  )
  try:
    pids = [int(job.stdout.readline()) for _ in range(2)]
    assert not any(is_gone(pid) for pid in pids)
  finally:
    job.kill()
    job.wait()
  try:
    deadline = time.monotonic() + 30
    while not all(is_gone(pid) for pid in pids):
      assert time.monotonic() < deadline
      time.sleep(0.05)
  finally:
    for pid in pids:
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
