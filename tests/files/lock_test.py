"""A lock has one holder; that of a bucket outlives neither its process nor its renewals."""

import errno
import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.files import lock


@pytest.fixture(params=["file system", "bucket"])
def path(request, tmp_path, bucket, monkeypatch):
  monkeypatch.setattr(lock, "EXPIRES", 0.5)
  monkeypatch.setattr(lock, "RENEWS", 0.1)
  return (bucket if request.param == "bucket" else tmp_path) / ".lock"


def test_one_holder_at_a_time(path):
  for _ in range(2):
    with lock.hold(path):
      for shared in (False, True):
        with pytest.raises(lock.Held), lock.hold(path, shared=shared):
          pass


def test_several_share(path):
  shared = lock.hold(path, shared=True), lock.hold(path, shared=True)
  with shared[0], shared[1], pytest.raises(lock.Held), lock.hold(path):
    pass
  with lock.hold(path):
    pass


def test_an_error_releases(path):
  with pytest.raises(InterruptedError), lock.hold(path):
    raise InterruptedError
  with lock.hold(path):
    pass


def test_nothing_stays_in_a_bucket(bucket, monkeypatch):
  monkeypatch.setattr(lock, "RENEWS", 0.1)
  with lock.hold(bucket / ".lock"), lock.hold(bucket / "other", shared=True):
    assert len(files.tree(bucket)) == 2
  assert files.tree(bucket) == {}


def test_a_lease_that_is_not_renewed_is_taken_over(bucket, monkeypatch):
  monkeypatch.setattr(lock, "EXPIRES", 0.3)
  stale = {"token": "x", "count": 3, "host": "another", "pid": 1, "started": "5"}
  for name in (".lock", ".lock.shared-x"):
    files.write_atomic(bucket / name, json.dumps(stale).encode())
    with lock.hold(bucket / ".lock"):
      assert [*files.tree(bucket)] == [".lock"]


def test_a_lease_that_is_renewed_is_not(bucket, monkeypatch):
  monkeypatch.setattr(lock, "EXPIRES", 3.0)
  stale = {"token": "x", "count": 0, "host": "another", "pid": 1, "started": "5"}
  files.write_atomic(bucket / ".lock", json.dumps(stale).encode())
  read, reads = lock._read, []

  def renewed(path):
    reads.append(path)
    return read(path) | {"count": len(reads)}

  monkeypatch.setattr(lock, "_read", renewed)
  with pytest.raises(lock.Held), lock.hold(bucket / ".lock"):
    pass


def test_a_dead_process_of_this_machine_has_nothing(bucket, monkeypatch):
  monkeypatch.setattr(lock, "EXPIRES", 1e9)
  process = multiprocessing.get_context("spawn").Process(target=os.getpid)
  process.start()
  gone = {"host": lock._host(), "pid": process.pid, "started": lock._started(process.pid)}
  process.join()
  files.write_atomic(bucket / ".lock", json.dumps({"token": "x", "count": 0, **gone}).encode())
  with lock.hold(bucket / ".lock"):
    pass


def _hold_and(bucket, event):
  with lock.hold(bucket / ".lock"):
    event()
    try:
      time.sleep(20)
    finally:
      assert lock.is_lost()


@pytest.mark.parametrize(
  "lease", [[1], "x", {"token": "x"}, {"token": "x", "host": "HERE", "pid": "../proc/1"}]
)
def test_what_is_no_lease_is_taken_over(bucket, monkeypatch, lease):
  monkeypatch.setattr(lock, "EXPIRES", 0.1)
  if "host" in lease:
    lease["host"] = lock._host()
  files.write_atomic(bucket / ".lock", json.dumps(lease).encode())
  with lock.hold(bucket / ".lock"):
    pass


def test_the_holder_of_a_lost_lease_is_interrupted(bucket, monkeypatch, caplog):
  monkeypatch.setattr(lock, "RENEWS", 0.05)
  with pytest.raises(KeyboardInterrupt):
    _hold_and(bucket, lambda: files.write_atomic(bucket / ".lock", b'{"token": "another"}'))
  assert "the lock is lost, another process took it over" in caplog.text
  assert not lock.is_lost()  # what this process does next has nothing to do with it
  assert json.loads((bucket / ".lock").read_bytes()) == {"token": "another"}


def test_the_holder_of_a_lost_lease_is_ended_where_ctrl_c_is_ignored(bucket, monkeypatch):
  """As in the background of a shell."""
  monkeypatch.setattr(lock, "RENEWS", 0.05)
  asked = []
  former = signal.signal(signal.SIGINT, signal.SIG_IGN)
  ended = signal.signal(signal.SIGTERM, lambda *args: asked.append(lock.is_lost()))
  try:
    with lock.hold(bucket / ".lock"):
      files.write_atomic(bucket / ".lock", b'{"token": "another"}')
      end = time.monotonic() + 20
      while not asked and time.monotonic() < end:
        time.sleep(0.05)
  finally:
    signal.signal(signal.SIGINT, former)
    signal.signal(signal.SIGTERM, ended)
  assert asked == [True]


def test_a_lease_that_cannot_be_renewed_is_given_up(bucket, monkeypatch, caplog):
  monkeypatch.setattr(lock, "RENEWS", 0.05)
  monkeypatch.setattr(lock, "LOST", 0.3)

  def unreachable(*args, **kwargs):
    raise OSError("no network")

  with pytest.raises(KeyboardInterrupt):
    _hold_and(bucket, lambda: monkeypatch.setattr(lock, "_put", unreachable))
  assert "could not be renewed (no network)" in caplog.text
  assert "the lock is lost, it could not be renewed for 0.3 s" in caplog.text


def test_a_file_system_that_fails_to_lock(tmp_path, monkeypatch):
  def fails(*args):
    raise OSError(errno.EIO, "Input/output error")

  monkeypatch.setattr(lock.fcntl, "flock", fails)
  with pytest.raises(UserError, match="cannot be locked"), lock.hold(tmp_path / ".lock"):
    pass
  with lock.hold(tmp_path / ".lock", required=False):
    pass


def test_where_an_object_cannot_be_created_alone_the_last_one_has_it(bucket, monkeypatch):
  monkeypatch.setattr(lock, "_EXCLUSIVE", ())
  monkeypatch.setattr(lock, "_SETTLES", 0.3)
  rival = threading.Timer(0.1, files.write_atomic, (bucket / ".lock", b'{"token": "another"}'))
  rival.start()
  with pytest.raises(lock.Held), lock.hold(bucket / ".lock"):
    pass
  rival.join()
