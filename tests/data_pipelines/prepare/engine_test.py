"""`prepare` on a Ray cluster writes the bytes of a local run, whatever happens to the nodes."""

import hashlib
import os
import sys
import threading
import time

import pytest

from data_pipelines.listing import video_list
from data_pipelines.prepare import engine, prepare, resume, shards
from data_pipelines.videos import decode, ray_cluster, ray_workers
from tests import small
from tests.data_pipelines import ray_nodes
from tests.data_pipelines.prepare.prepare_test import contents
from vssl_jax.errors import UserError

OPTIONS = {"shards": 6, "timeout": 60.0}
# What goes wrong in the middle of some videos, on whatever node reads them.
ILL = """
import os, pathlib, signal, time
from data_pipelines.prepare import shards
from data_pipelines.videos import decode

real = decode.decode

def ill(path, *args, **kwargs):
  folder = pathlib.Path(os.environ["ILL_FOLDER"])
  for part in real(path, *args, **kwargs):
    yield part
    name = pathlib.Path(path).stem
    if name == "crash":
      os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
      time.sleep(1e4)
    if name == "killed" and not (folder / "killed").exists():
      (folder / "killed").touch()
      os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("wait"):  # until the test has removed the nodes
      (folder / name).touch()
      while not (folder / "go").exists():
        time.sleep(0.1)

def write(shard, report):
  decode.decode = ill
  return shards_write(shard, report)

shards_write = shards.write
"""


def digests(folder):
  return {name: hashlib.sha256(data).hexdigest() for name, data in contents(folder).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Where the nodes find the module that makes videos ill, and what it leaves."""
  made = tmp_path_factory.mktemp("ill")
  (made / "ill_write.py").write_text(ILL)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("ILL_FOLDER", str(made))
    yield made


@pytest.fixture(scope="module")
def cluster(folder):
  with ray_nodes.cluster(3, folder) as made:
    yield made


@pytest.fixture
def ill(cluster, folder, monkeypatch):
  monkeypatch.delitem(sys.modules, "ill_write", raising=False)
  import ill_write

  monkeypatch.setattr(shards, "write", ill_write.write)
  return folder


@pytest.fixture
def classes(tmp_path, make_video):
  for label in ("walk", "run"):
    for i in range(5):
      make_video(tmp_path / "in" / label / f"{i}.mp4", frames=4 + i, fps=10, size=(48, 32))
  (tmp_path / "in" / "run" / "bad.mp4").write_bytes(b"no video")
  return tmp_path / "in"


def local(classes, out):
  prepare.prepare(classes, out, workers=2, **OPTIONS)
  return digests(out)


@pytest.mark.slow
def test_the_bytes_are_those_of_a_local_run(classes, cluster, tmp_path, monkeypatch, capsys):
  whole = local(classes, tmp_path / "whole")
  monkeypatch.chdir(tmp_path)  # relative paths, although workers are elsewhere
  args = ["in", "out", "--shards=6", "--engine=ray", f"--address={cluster.address}"]
  assert small.vssl("prepare", *args) == 3
  assert "unreadable: run/bad.mp4" in capsys.readouterr().out
  assert digests(tmp_path / "out") == whole
  assert not list((tmp_path / "out" / ".prepare").glob(".tmp-*"))
  # A second run has nothing to do, so it needs no cluster; parts go together as they do locally.
  assert small.vssl("prepare", "in", "out", "--shards=6", "--engine=ray", "--address=a:1") == 3
  for part in ("1/2", "2/2"):
    assert small.vssl("prepare", *args[:1], "parts", *args[2:], f"--part={part}") in (0, 3)
  prepare.prepare("in", "parts", **OPTIONS)
  assert digests(tmp_path / "parts") == whole


@pytest.mark.slow
def test_crashes_kills_and_hangs_are_told_as_locally(classes, ill, cluster, tmp_path, make_video):
  for name in ("crash", "hang", "killed"):
    make_video(classes / "run" / f"{name}.mp4", frames=8, fps=10, size=(48, 32))
  options = {**OPTIONS, "timeout": 3.0}
  found = []
  for out, engine_ in (("here", {"workers": 2}), ("there", {"engine": "ray"})):
    (ill / "killed").unlink(missing_ok=True)
    if "engine" in engine_:
      engine_["address"] = cluster.address
    found.append(prepare.prepare(classes, tmp_path / out, **options, **engine_))
    assert (ill / "killed").exists()
  assert found[0] == found[1]
  reasons = {f["path"]: f["reason"] for f in found[1]["splits"]["train"]["unreadable"]}
  assert reasons["run/crash.mp4"] == "the process was ended by SIGSEGV"
  assert reasons["run/hang.mp4"] == "decoding took longer than 3 s (--timeout)"
  assert set(reasons) == {"run/crash.mp4", "run/hang.mp4", "run/bad.mp4"}
  assert digests(tmp_path / "here") == digests(tmp_path / "there")


@pytest.mark.slow
def test_strict_stops_at_the_first_unreadable_video(classes, cluster, tmp_path, capsys):
  args = [classes, tmp_path / "out", "--shards=6", "--engine=ray", f"--address={cluster.address}"]
  assert small.vssl("prepare", *args, "--strict") == 2
  error = capsys.readouterr().err
  assert "error: run/bad.mp4: " in error
  assert "(--strict)" in error
  assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
def test_an_output_that_nodes_do_not_share_is_refused(classes, cluster, tmp_path, monkeypatch):
  real = ray_workers.run

  def elsewhere(*args, shared, **kwargs):
    for path in shared:
      if ".tmp-shared-" in path:
        os.unlink(path)  # as if the nodes had a folder of their own there
    yield from real(*args, shared=shared, **kwargs)

  monkeypatch.setattr(ray_workers, "run", elsewhere)
  with pytest.raises(UserError, match=r"does not have .*shared-.* all nodes must have the same"):
    prepare.prepare(classes, tmp_path / "out", engine="ray", address=cluster.address, **OPTIONS)
  assert not list((tmp_path / "out").glob("*.tfrecord"))


@pytest.mark.slow
def test_two_of_three_nodes_are_lost_in_the_middle(classes, ill, cluster, tmp_path, make_video):
  """Last, because the nodes are removed."""
  for i in range(3):
    make_video(classes / "walk" / f"wait{i}.mp4", frames=8, fps=10, size=(48, 32))
  options = {"shards": len(list(classes.rglob("*.mp4"))), "timeout": 120.0}
  (ill / "go").touch()
  whole = prepare.prepare(classes, tmp_path / "whole", workers=2, **options)
  for name in ("go", "wait0", "wait1", "wait2"):
    (ill / name).unlink()
  removed = []

  def remove():
    until = time.monotonic() + 100
    while len(list(ill.glob("wait*"))) < 3 and time.monotonic() < until:
      time.sleep(0.2)
    removed.extend(ill.glob("wait*"))
    ray_nodes.lose(cluster)
    (ill / "go").touch()

  thread = threading.Thread(target=remove)
  thread.start()
  out = tmp_path / "out"
  found = prepare.prepare(classes, out, engine="ray", address=cluster.address, **options)
  thread.join()
  assert len(removed) == 3  # each node was in the middle of one
  assert found == whole
  assert digests(out) == digests(tmp_path / "whole")
  assert not list((out / ".prepare").glob(".tmp-*"))
  assert not list(out.glob(".tmp-*"))


# Without a cluster.


def test_flags_that_do_not_belong_together(classes, tmp_path, capsys, monkeypatch):
  out = tmp_path / "out"
  with pytest.raises(UserError, match="engine is 'spark': give local or ray"):
    prepare.prepare(classes, out, engine="spark")
  assert small.vssl("prepare", classes, out, "--engine=spark") == 2
  assert "invalid choice: 'spark'" in capsys.readouterr().err
  assert small.vssl("prepare", classes, out, "--address=auto") == 2
  assert "error: address auto is of a Ray cluster: give --engine=ray as well\n" in (
    capsys.readouterr().err
  )
  monkeypatch.setitem(sys.modules, "ray", None)
  assert small.vssl("prepare", classes, out, "--engine=ray") == 2
  error = capsys.readouterr().err
  assert error.startswith("error: --engine=ray needs ray, which is not installed: pip install ")
  assert error.count("\n") == 1
  assert not out.exists()


def _tasks(classes, out, count=3):
  videos = video_list.from_folder(classes)
  (job,) = resume.plan(videos, decode.FrameSettings(0.0, 16, 85, 0.0), count)
  return resume.tasks(out, videos.root, resume.settle(out, job), videos.labels, False)


def test_what_the_nodes_are_asked_for(classes, tmp_path, monkeypatch):
  """A new file in OUTPUT and some videos, all with absolute paths; the file goes at the end."""
  monkeypatch.chdir(tmp_path)
  out = tmp_path / "out"
  (out / shards.STATE).mkdir(parents=True)
  os.truncate(classes / "run" / "bad.mp4", 0)
  given = {}

  def run(function, tasks, *, shared, **options):
    given.update(options, shared=shared)
    assert all(os.path.getsize(path) == size for path, size in shared.items())
    for task in tasks:
      assert os.path.isabs(task.path)
      assert os.path.isabs(task.root)
      yield task, function(task, lambda message: None)

  monkeypatch.setattr(ray_workers, "run", run)
  monkeypatch.setattr(ray_cluster, "check", lambda *_: None)
  relative = [
    shards.dataclasses.replace(t, path=os.path.relpath(t.path), root=os.path.relpath(t.root))
    for t in _tasks(classes, out)
  ]
  chosen = engine.choose("ray", "h:1", 5, out)
  results = list(chosen(shards.write, relative, timeout=1.0, on_report=None, on_crash=None))
  assert [result["name"] for _, result in results] == [t.name for t in relative]
  token, *videos = given["shared"]
  assert ".tmp-shared-" in token
  assert not os.path.exists(token)
  assert len(videos) == 3
  assert (given["count"], given["address"], given["timeout"]) == (5, "h:1", 1.0)


def test_a_shard_that_is_never_seen_is_named(classes, tmp_path):
  out = tmp_path / "out"
  (out / shards.STATE).mkdir(parents=True)
  first, second, _ = _tasks(classes, out)
  shards.write(first, lambda message: None)
  engine._await([first], patience=0.0)
  with pytest.raises(UserError, match=r"-00001-of-00003\.tfrecord: written by a node, but"):
    engine._await([first, second], patience=0.0)
  # It comes late, as on network storage.
  state = second.state.read_text() if second.state.exists() else None
  assert state is None
  thread = threading.Timer(0.7, shards.write, [second, lambda message: None])
  thread.start()
  engine._await([second], patience=60.0)
  thread.join()
