"""Workers on a Ray cluster keep the promises of those on one machine, and survive lost nodes."""

import os
import pathlib
import signal
import sys
import time

import pytest

from data_pipelines.videos import ray_cluster, ray_workers, workers
from tests.data_pipelines import ray_nodes
from tests.data_pipelines.videos.workers_test import TASKS, is_gone
from vssl_jax.errors import UserError

MORE = """
import ray

def where(task, report):
  report(os.getppid())
  time.sleep(0.5)
  return task

def wait(task, report):
  number, folder = task
  report("begun")
  while not os.path.exists(os.path.join(folder, "go")):
    time.sleep(0.1)
  return number
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tasks")
  (folder / "ray_tasks.py").write_text(TASKS + MORE)
  with ray_nodes.cluster(3, folder) as made:
    yield made


@pytest.fixture
def tasks(cluster):
  import ray_tasks

  return ray_tasks


@pytest.fixture
def run(cluster):
  def call(function, items, count=0, crashes=None, replace=None, timeout=0.0, **options):
    reports = []

    def on_crash(task, crash):
      crashes.append((task, crash))
      return replace

    results = ray_workers.run(
      function,
      items,
      count=count,
      timeout=timeout,
      on_report=lambda task, message: reports.append((task, message)),
      on_crash=on_crash,
      address=cluster.address,
      **options,
    )
    return dict(results), reports

  return call


@pytest.mark.slow
def test_every_task_once_on_every_node(run, tasks):
  results, reports = run(tasks.square, list(range(7)))
  assert {task: square for task, (square, _) in results.items()} == {i: i * i for i in range(7)}
  assert sorted(reports) == [(i, ("half", i)) for i in range(7)]
  assert os.getpid() not in {pid for _, pid in results.values()}
  _, reports = run(tasks.where, list(range(9)))
  assert len({watcher for _, watcher in reports}) == 3  # as many as the cluster has CPUs


@pytest.mark.slow
def test_a_death_replaces_the_task_and_spares_the_others(run, tasks):
  crashes = []
  results, reports = run(tasks.die_on_negative, [1, -2, 3, 4], 2, crashes, replace=20)
  assert results == {1: 1, 3: 3, 4: 4, 20: 20}
  assert crashes == [(-2, workers.Crash("the process was ended by SIGSEGV", outside=False))]
  assert (-2, -2) in reports


@pytest.mark.slow
def test_a_killed_process_can_be_tried_again(run, tasks, tmp_path):
  crashes, task = [], (str(tmp_path / "marker"), signal.SIGKILL)
  results, reports = run(tasks.killed_once, [task], 2, crashes, replace=task)
  assert results == {task: "done"}
  assert reports == [(task, "begun")] * 2
  assert crashes == [(task, workers.Crash("the process was ended by SIGKILL", outside=True))]


@pytest.mark.slow
def test_a_hang_is_ended_with_the_words_of_one_machine(run, tasks):
  crashes = []
  results, reports = run(tasks.hang_on_negative, [1, -2, 3, 4], 2, crashes, 20, timeout=2.0)
  assert results == {1: 1, 3: 3, 4: 4, 20: 20}
  late = workers.Crash("decoding took longer than 2 s (--timeout)", outside=False)
  assert crashes == [(-2, late)]
  assert is_gone(dict(reports)[-2])


@pytest.mark.slow
def test_errors_are_raised_here_and_end_the_others(run, tasks):
  with pytest.raises(ValueError, match=r"^task 3$") as error:
    run(tasks.fail, [3, 3, 3], 2)
  assert type(error.value) is ValueError
  with pytest.raises(RuntimeError, match="ValueError: odd"):
    run(tasks.fail_unpicklably, [1, 2], 2)


@pytest.mark.slow
def test_stopping_early_ends_the_processes(cluster, tasks):
  pids = {}
  results = ray_workers.run(
    tasks.sleep,
    [0.0, 1e4],
    count=2,
    on_report=pids.__setitem__,
    on_crash=None,
    address=cluster.address,
  )
  next(results)
  results.close()
  _wait_until(lambda: all(is_gone(pid) for pid in pids.values()))


def _wait_until(true):
  until = time.monotonic() + 30
  while not true():
    assert time.monotonic() < until
    time.sleep(0.1)


@pytest.mark.slow
def test_a_worker_that_is_killed_with_its_watcher(run, tasks, cluster):
  """As Ray does when a node is short of memory."""
  crashes, killed = [], []

  def on_report(task, watcher):
    if task == 1 and not killed:
      killed.append(watcher)
      os.kill(watcher, signal.SIGKILL)

  def on_crash(task, crash):
    crashes.append((task, crash))
    return task

  results = ray_workers.run(
    tasks.where,
    [1, 2],
    count=2,
    on_report=on_report,
    on_crash=on_crash,
    address=cluster.address,
  )
  assert dict(results) == {1: 1, 2: 2}
  assert crashes == [(1, workers.Crash(ray_cluster.LOST, outside=True))]


@pytest.mark.slow
def test_a_node_without_the_files_is_named(run, tasks, tmp_path):
  file = tmp_path / "x"
  file.write_text("123")
  run(tasks.square, [1], shared={str(file): 3})
  with pytest.raises(UserError, match=rf"does not have {file} of this machine: all nodes must"):
    run(tasks.square, [1], shared={str(file): 4})


@pytest.mark.slow
def test_code_that_nodes_do_not_have_is_named(run, tmp_path, monkeypatch):
  (tmp_path / "only_here.py").write_text("def same(task, report):\n  return task\n")
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, "only_here", raising=False)
  import only_here

  with pytest.raises(UserError, match=r"cannot start on the cluster \(.*only_here.*\): install"):
    run(only_here.same, [1], 1)


@pytest.mark.slow
def test_the_tasks_of_a_lost_node_are_done_by_others(cluster, tasks, tmp_path):
  """Last, because a node is removed."""
  crashes, begun = [], set()
  items = [(i, str(tmp_path)) for i in range(4)]

  def on_report(task, message):
    begun.add(task)
    if len(begun) == 3 and cluster.nodes:
      ray_nodes.lose(cluster)
      pathlib.Path(tmp_path, "go").touch()

  def on_crash(task, crash):
    crashes.append((task, crash))
    return task

  results = ray_workers.run(
    tasks.wait,
    items,
    count=3,
    on_report=on_report,
    on_crash=on_crash,
    address=cluster.address,
  )
  assert dict(results) == {item: item[0] for item in items}
  assert [crash for _, crash in crashes] == [workers.Crash(ray_cluster.LOST, outside=True)] * 2


def test_no_tasks_need_no_cluster():
  run = ray_workers.run([].append, [], count=1, on_report=None, on_crash=None, address="x")
  assert list(run) == []


def test_nodes_with_other_software_or_files_are_refused(tmp_path):
  file = tmp_path / "x"
  file.write_text("123")
  here = ray_workers.describe({str(file): 3})
  assert ray_workers.problem(here) == ""
  other = {**here, "host": "n7", "software": {**here["software"], "PyAV": "1.2"}}
  assert ray_workers.problem(other).startswith("n7: has PyAV 1.2, this machine ")
  for wrong in ({str(file): 2}, {str(tmp_path / "none"): 3}):
    (path,) = wrong
    assert f"does not have {path}" in ray_workers.problem(ray_workers.describe(wrong))


def test_what_a_thread_sends_is_yielded_in_order():
  def go(send):
    send("report", 1)
    send("result", 2)

  def fails(send):
    send("report", 1)
    raise ValueError("odd")

  assert list(ray_workers.stream(go)) == [("report", 1), ("result", 2)]
  first, (kind, error) = ray_workers.stream(fails)
  assert (first, kind, str(error)) == (("report", 1), "error", "odd")


def test_a_watcher_without_a_cluster(tmp_path, monkeypatch):
  """Runs a task in a process even without a time limit, and tells a crash from a result."""
  (tmp_path / "watched_tasks.py").write_text(TASKS)
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, "watched_tasks", raising=False)
  import watched_tasks

  watcher = ray_workers.Watcher(watched_tasks.die_on_negative, 0.0, {})
  assert ray_workers.problem(watcher.ready()) == ""
  assert list(watcher.work(3)) == [("report", 3), ("result", 3)]
  crash = workers.Crash("the process was ended by SIGSEGV", outside=False)
  assert list(watcher.work(-3)) == [("report", -3), ("crash", crash)]
