"""A lock has one holder; that of a bucket outlives neither its process nor its renewals."""

import json
import multiprocessing
import os
import signal

import pytest

from vssl_jax import files
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


def test_a_lost_lease_is_told_and_left_to_its_holder(bucket, monkeypatch, caplog):
  monkeypatch.setattr(lock, "RENEWS", 0.05)
  with lock.hold(bucket / ".lock"):
    files.write_atomic(bucket / ".lock", b'{"token": "another"}')
    for _ in range(200):
      if "another process took the lock over" in caplog.text:
        break
      signal.sigtimedwait([], 0.05)
  assert "another process took the lock over" in caplog.text
  assert json.loads((bucket / ".lock").read_bytes()) == {"token": "another"}
