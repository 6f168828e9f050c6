"""Worker processes: results, reports, errors, and deaths in the middle of a task."""

import os
import sys
import textwrap

import pytest

from data_pipelines.videos import workers

TASKS = """
import os, signal, time

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

def fail(task, report):
  raise ValueError(f"task {task}")

def fail_unpicklably(task, report):
  error = ValueError("odd")
  error.hook = lambda: 0
  raise error
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
  """A module that spawned processes can import as well."""
  (tmp_path / "worker_tasks.py").write_text(textwrap.dedent(TASKS))
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, "worker_tasks", raising=False)
  import worker_tasks

  return worker_tasks


def run(function, items, count, crashes=None, replace=None):
  reports = []

  def on_crash(task, reason):
    crashes.append((task, reason))
    return replace

  results = workers.run(
    function,
    items,
    workers=count,
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
  assert crashes == [(-2, "the process was ended by SIGSEGV")]
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
    with pytest.raises(ProcessLookupError):
      os.kill(pid, 0)
