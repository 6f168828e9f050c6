"""Parts of a preparation, as the jobs of an array write them, give the records of one run."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from data_pipelines.prepare import parts, prepare
from tests import small
from tests.data_pipelines.prepare.prepare_test import ROOT, contents
from vssl_jax.errors import UserError

OPTIONS = {"shards": 5, "workers": 1, "timeout": 0.0}


@pytest.fixture
def classes(tmp_path, make_video):
  for label in ("walk", "run"):
    for i in range(4):
      make_video(tmp_path / "in" / label / f"{i}.mp4", frames=4 + i, fps=10, size=(48, 32))
  (tmp_path / "in" / "run" / "bad.mp4").write_bytes(b"no video")
  return tmp_path / "in"


@pytest.fixture
def whole(classes, tmp_path):
  prepare.prepare(classes, tmp_path / "whole", **OPTIONS)
  return contents(tmp_path / "whole")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_and_a_last_run_equal_one_run(classes, tmp_path, whole, order):
  out = tmp_path / "out"
  shards = []
  for number in order:
    found = prepare.prepare(classes, out, part=f"{number}/3", **OPTIONS)
    shards += [s["name"] for s in found["splits"]["train"]["shards"]]
    assert not (out / "manifest.json").exists()
  assert len(shards) == len(set(shards)) == 5
  before = {p.name: p.stat().st_mtime_ns for p in out.glob("train-*")}
  prepare.prepare(classes, out, **OPTIONS)
  assert contents(out) == whole
  assert {p.name: p.stat().st_mtime_ns for p in out.glob("train-*.tfrecord")} == before


def test_the_last_run_writes_what_a_part_did_not(classes, tmp_path, whole):
  prepare.prepare(classes, tmp_path / "out", part="2/3", **OPTIONS)
  prepare.prepare(classes, tmp_path / "out", **OPTIONS)
  assert contents(tmp_path / "out") == whole


def test_parts_at_the_same_time(classes, tmp_path, whole):
  out = tmp_path / "out"
  command = [sys.executable, "-m", "data_pipelines.prepare", classes, out, "--shards=5"]
  command += ["--workers=1", "--timeout=0"]
  running = [
    subprocess.Popen([*command, f"--part={i}/3"], cwd=ROOT, stderr=subprocess.DEVNULL)
    for i in (1, 2, 3)
  ]
  assert {p.wait() for p in running} <= {0, 3}  # one of them has the video that cannot be read
  prepare.prepare(classes, out, **OPTIONS)
  assert contents(out) == whole


def test_what_is_said(classes, tmp_path, capsys):
  args = ("--timeout=0", "--workers=1", "--shards=5")
  codes = {small.vssl("prepare", classes, tmp_path / "out", *args, f"--part={i}/2") for i in (1, 2)}
  assert codes == {0, 3}
  said = capsys.readouterr().out
  assert "part 1/2 is written; when all are, run the command without --part" in said
  assert "unreadable: run/bad.mp4" in said


@pytest.mark.parametrize("part", ["", "3", "0/4", "5/4", "-1/4", "a/b", "1/0", "1/2/3"])
def test_what_is_no_part_is_refused(classes, tmp_path, part):
  with pytest.raises(UserError, match="give the number of the part and of all parts, as in 3/16"):
    prepare.prepare(classes, tmp_path / "out", part=part, **OPTIONS)


def test_a_part_overwrites_nothing(classes, tmp_path):
  with pytest.raises(UserError, match="overwrite would remove what other parts write"):
    prepare.prepare(classes, tmp_path / "out", part="1/2", overwrite=True, **OPTIONS)


def test_who_may_work_at_the_same_time(tmp_path):
  one, two = parts.Part(1, 2), parts.Part(2, 2)
  with parts.claim(tmp_path, one), parts.claim(tmp_path, two):
    for other in (one, None):
      with (
        pytest.raises(UserError, match="another prepare is at work"),
        parts.claim(tmp_path, other),
      ):
        pass
  with (
    parts.claim(tmp_path),
    pytest.raises(UserError, match="another prepare"),
    parts.claim(tmp_path, one),
  ):
    pass


def test_a_lock_is_taken_on_a_file_open_for_reading_and_writing(tmp_path, monkeypatch):
  """As NFS needs it."""
  modes = []

  def lock(file, _):
    modes.append((file.readable(), file.writable()))

  monkeypatch.setattr(fcntl, "flock", lock)
  with parts.claim(tmp_path, parts.Part(1, 2)):
    pass
  assert modes == [(True, True)] * 2


@pytest.mark.parametrize("code", ["EBADF", "EIO", "ESTALE"])
def test_a_lock_that_fails_is_reported(tmp_path, monkeypatch, code):
  def fail(*_):
    raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

  monkeypatch.setattr(fcntl, "flock", fail)
  with (
    pytest.raises(UserError, match=r"lock: cannot be locked \(.*\); without the lock"),
    parts.claim(tmp_path),
  ):
    pass


@pytest.mark.parametrize("code", ["ENOTSUP", "EOPNOTSUPP", "ENOSYS", "ENOLCK"])
def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch, code):
  def fail(*_):
    raise OSError(getattr(errno, code), "no locks")

  monkeypatch.setattr(fcntl, "flock", fail)
  with parts.claim(tmp_path):
    pass


def test_a_part_leaves_the_files_of_others_alone(tmp_path):
  (tmp_path / ".tmp-host-1-train-00000-of-00002.tfrecord").touch()
  with parts.claim(tmp_path, parts.Part(1, 2)):
    pass
  assert list(tmp_path.glob(".tmp-*"))
  with parts.claim(tmp_path):
    assert not list(tmp_path.glob(".tmp-*"))
