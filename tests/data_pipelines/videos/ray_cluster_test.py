"""Joining a cluster or saying why not, and the loop that gives tasks to actors (of a false Ray)."""

import socket
import sys
import time
import types

import pytest

from data_pipelines.videos import ray_cluster
from data_pipelines.videos.workers import Crash
from tests.data_pipelines import ray_nodes
from vssl_jax.errors import UserError

LOST = Crash(ray_cluster.LOST, outside=True)


class _Error(Exception):
  """Of Ray."""


class _TaskError(_Error):
  """An exception of the actor's own code."""


class _Ray(types.ModuleType):
  """What `drive` uses of Ray; everything that is waited for is ready at once."""

  def __init__(self):
    super().__init__("ray")
    self.exceptions = types.SimpleNamespace(RayError=_Error, RayTaskError=_TaskError)
    self.killed = []

  def wait(self, waiting, num_returns=1, timeout=None):
    return waiting[:num_returns], waiting[num_returns:]

  def get(self, found):
    if isinstance(found, Exception):
      raise found
    return found() if callable(found) else found

  def kill(self, actor):
    self.killed.append(actor)


class _Actor:
  """`script[task]` is a list of streams, one per try: pairs, and an error where it is lost."""

  def __init__(self, script, ready="facts"):
    self.ready = types.SimpleNamespace(remote=lambda: lambda: _raise_or_return(ready))
    stream = types.SimpleNamespace(remote=lambda task: iter(script[task].pop(0)))
    self.work = types.SimpleNamespace(options=lambda **options: stream)


def _raise_or_return(found):
  if isinstance(found, BaseException):
    raise found
  return found


def drive(script, count=2, ready=None, retry=lambda task: [task], **options):
  """Runs the tasks of a script; returns results, reports, crashes, and the actors started."""
  ray, reports, crashes, actors = _Ray(), [], [], []
  ready = iter(ready or [])

  def start():
    actors.append(_Actor(script, next(ready, "facts")))
    return actors[-1]

  def on_crash(task, crash):
    crashes.append((task, crash))
    return retry(task)

  try:
    results = dict(
      ray_cluster.drive(
        ray,
        start,
        count,
        list(script),
        on_report=lambda *report: reports.append(report),
        on_crash=on_crash,
        **options,
      )
    )
  finally:
    assert set(ray.killed) == set(actors)  # none is left
  return results, reports, crashes, len(actors)


def done(task):
  return [("report", task), ("result", task * 10)]


def test_every_task_once_with_as_few_actors_as_tasks():
  results, reports, crashes, actors = drive({i: [done(i)] for i in range(5)}, count=3)
  assert results == {i: i * 10 for i in range(5)}
  assert sorted(reports) == [(i, i) for i in range(5)]
  assert (crashes, actors) == ([], 3)
  assert drive({1: [done(1)]}, count=3)[3] == 1


def test_a_crash_that_an_actor_sends_is_as_it_is():
  crash = Crash("why", outside=False)
  script = {1: [[("report", 1), ("crash", crash)], done(1)], 2: [done(2)]}
  results, _, crashes, actors = drive(script)
  assert (results, crashes, actors) == ({1: 10, 2: 20}, [(1, crash)], 2)
  script = {1: [[("crash", crash)]], 2: [done(2)]}
  assert drive(script, retry=lambda task: [])[0] == {2: 20}


@pytest.mark.parametrize("end", [[_Error("node")], []], ids=["error", "silence"])
def test_an_actor_that_is_lost_is_replaced_and_its_task_tried_again(end):
  script = {1: [[("report", 1), *end], done(1)], 2: [done(2)]}
  results, reports, crashes, actors = drive(script, count=1)
  assert (results, crashes, actors) == ({1: 10, 2: 20}, [(1, LOST)], 2)
  assert reports.count((1, 1)) == 2


def test_a_task_that_has_not_begun_is_tried_once_more_without_a_word():
  assert drive({1: [[_Error("node")], done(1)]})[:3] == ({1: 10}, [(1, 1)], [])
  lost_twice = {1: [[_Error("node")], [_Error("node")], done(1)]}
  assert drive(lost_twice)[2] == [(1, LOST)]


def test_the_first_error_ends_everything():
  script = {1: [[("report", 1), ("error", KeyError("x"))]], 2: [done(2)]}
  with pytest.raises(KeyError, match="x"):
    drive(script, count=1)


def test_a_defect_of_an_actor_is_not_taken_for_a_loss():
  with pytest.raises(_TaskError):
    drive({1: [[("report", 1), _TaskError("defect")]]}, count=1)


def test_a_first_actor_for_what_must_be_known_before():
  ray, lost = _Ray(), _Error("x\nOSError: gone")
  ready = iter([lost, "facts"])
  actor, facts = ray_cluster.first(ray, lambda: _Actor({}, next(ready)))
  assert (facts, len(ray.killed)) == ("facts", 1)
  assert actor not in ray.killed
  with pytest.raises(UserError, match=r"cannot start on the cluster \(OSError: gone\)"):
    ray_cluster.first(ray, lambda: _Actor({}, lost))
  assert len(ray.killed) == 4
  with pytest.raises(KeyboardInterrupt):
    ray_cluster.first(ray, lambda: _Actor({}, KeyboardInterrupt()))
  assert len(ray.killed) == 5


def test_actors_that_cannot_start():
  text = "The actor died\n  File x\nModuleNotFoundError: No module named 'gone'\n"
  lost = _Error(text)
  assert drive({1: [done(1)]}, count=1, ready=[lost, lost])[0] == {1: 10}
  told = r"cannot start on the cluster \(ModuleNotFoundError: No module named 'gone'\): install"
  with pytest.raises(UserError, match=told):
    drive({1: [done(1)]}, count=1, ready=[lost] * 3)
  with pytest.raises(UserError, match="of no use"):
    drive({1: [done(1)]}, ready=["bad"], on_ready={"bad": "of no use"}.get)


def test_waiting_for_room_is_said_once(capsys, monkeypatch):
  ray, calls = _Ray(), []

  def wait(waiting, num_returns=1, timeout=None):
    calls.append(timeout)
    return ([], waiting) if len(calls) < 4 else (waiting, [])

  ray.wait = wait
  results = ray_cluster.drive(
    ray, lambda: _Actor({1: [done(1)]}), 1, [1], on_report=lambda *_: None, on_crash=None
  )
  assert dict(results) == {1: 10}
  assert capsys.readouterr().err.count("no room for a worker yet") == 1


def test_flags():
  ray_cluster.check("local", "")
  with pytest.raises(UserError, match="engine is 'x': give local or ray"):
    ray_cluster.check("x", "")
  with pytest.raises(UserError, match="address h:1 is of a Ray cluster: give --engine=ray as well"):
    ray_cluster.check("local", "h:1")


def test_without_ray(monkeypatch):
  monkeypatch.setitem(sys.modules, "ray", None)
  told = r"--engine=ray needs ray, which is not installed: pip install "
  with pytest.raises(UserError, match=told):
    ray_cluster.check("ray", "")


@pytest.fixture
def false_ray(monkeypatch):
  ray = _Ray()
  ray.is_initialized = lambda: False
  ray.shutdown = lambda: None
  monkeypatch.setitem(sys.modules, "ray", ray)
  return ray


@pytest.fixture
def closed_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


@pytest.mark.parametrize(
  ("address", "told"),
  [
    ("ray://h:10001", "Ray Client is not supported: run this command on a node"),
    ("nonsense", "address is 'nonsense': give HOST:PORT of Ray's head node, auto or local"),
    ("127.0.0.1:PORT", r"address 127.0.0.1:\d+: cannot be reached \(.*refused\): is Ray's head"),
    ("127.0.0.1:99999", "cannot be reached"),
    ("no-such-host.invalid:1", "cannot be reached"),
  ],
)
def test_an_address_that_leads_nowhere(false_ray, closed_port, address, told):
  with (
    pytest.raises(UserError, match=told) as error,
    ray_cluster.joined(address.replace("PORT", str(closed_port))),
  ):
    pass
  assert "\n" not in str(error.value)


def test_the_environment_s_address(false_ray, monkeypatch):
  monkeypatch.setenv("RAY_ADDRESS", "nonsense")
  with pytest.raises(UserError, match="address is 'nonsense'"), ray_cluster.joined():
    pass
  asked = []
  false_ray.init = lambda address, **options: asked.append((address, options["log_to_driver"]))
  monkeypatch.delenv("RAY_ADDRESS")
  with ray_cluster.joined() as ray:
    assert ray is false_ray
  assert asked == [("local", False)]


def test_a_process_that_is_in_a_cluster_stays_in_it(false_ray):
  false_ray.is_initialized = lambda: True
  false_ray.get_runtime_context = lambda: types.SimpleNamespace(gcs_address="h:1")
  false_ray.shutdown = lambda: pytest.fail("left the caller's cluster")
  for address in ("", "auto", "h:1"):
    with ray_cluster.joined(address) as ray:
      assert ray is false_ray
  with (
    pytest.raises(UserError, match="address h:2: this process is in the Ray cluster h:1"),
    ray_cluster.joined("h:2"),
  ):
    pass


def test_a_cluster_without_a_processor(false_ray):
  false_ray.cluster_resources = lambda: {"CPU": 3.0}
  assert ray_cluster.cpus(false_ray) == 3
  false_ray.cluster_resources = dict
  with pytest.raises(UserError, match="has no CPU now: give --workers"):
    ray_cluster.cpus(false_ray)


@pytest.mark.slow
def test_what_answers_but_is_no_ray_is_refused_in_time(monkeypatch):
  pytest.importorskip("ray", reason="needs Ray, of the extra 'ray'")
  monkeypatch.setattr(ray_cluster, "_JOINED_IN", 8.0)
  with socket.create_server(("127.0.0.1", 0)) as server:
    address = f"127.0.0.1:{server.getsockname()[1]}"
    with (
      pytest.raises(UserError, match=r"no Ray cluster can be joined there \(no answer within 8 s"),
      ray_cluster.joined(address),
    ):
      pass


@pytest.mark.slow
def test_no_cluster_here_and_a_new_one(monkeypatch):
  ray = pytest.importorskip("ray", reason="needs Ray, of the extra 'ray'")
  monkeypatch.delenv("RAY_ADDRESS", raising=False)
  with ray_nodes.alone():
    with (
      pytest.raises(UserError, match=r"address auto: no Ray cluster can be joined there .*Conn"),
      ray_cluster.joined("auto"),
    ):
      pass
    with ray_cluster.joined():
      assert ray_cluster.cpus(ray) >= 1
  assert not ray.is_initialized()


@pytest.mark.slow
def test_a_cluster_s_address_by_the_environment(monkeypatch):
  with ray_nodes.cluster(2) as made:
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    began = time.monotonic()
    with ray_cluster.joined() as ray:
      assert ray_cluster.cpus(ray) == 2
      with ray_cluster.joined(made.address) as again:
        assert again is ray
      assert ray.is_initialized()
    assert time.monotonic() >= began
