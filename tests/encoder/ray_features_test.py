"""Snippet features of a Ray cluster are those of one machine, with nodes lost or files missing."""

import json
import threading
import time

import numpy as np
import pytest

from data_pipelines.videos import ray_cluster
from data_pipelines.videos.snippets import SnippetSettings
from data_pipelines.videos.workers import Crash
from tests import small
from tests.data_pipelines import ray_nodes
from tests.data_pipelines.conftest import _make_video
from tests.encoder.export_test import _config
from vssl_jax.encoder import exported, ray_features
from vssl_jax.encoder.snippet_encoder import Made

FLAGS = ("--frames=2", "--stride=3", "--fps=10", "--batch_size=4", "--timeout=60")


@pytest.fixture(scope="module")
def cluster():
  with ray_nodes.cluster(3) as made:
    yield made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  """An exported encoder that is small, and real."""
  folder, config = tmp_path_factory.mktemp("encoder"), _config()
  exported.save_encoder(folder, config, small.weights(config))
  return folder


@pytest.fixture
def videos(tmp_path):
  folder = tmp_path / "videos"
  for i in range(12):
    pattern = np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8)
    _make_video(folder / f"v{i}.mp4", frames=3 + 4 * i, fps=10, pattern=pattern)
  (folder / "bad.mp4").write_bytes(b"no video")
  return folder


def extract(checkpoint, folder, out, *flags):
  given = (f"--checkpoint={checkpoint}", f"--videos={folder}", f"--output={out}")
  return small.vssl("extract", *given, *FLAGS, *flags)


def features(out):
  return {p.name: np.load(p) for p in out.glob("*.npy")}


def same(one, two):
  """Bit for bit."""
  one, two = features(one), features(two)
  assert one.keys() == two.keys()
  for name, values in one.items():
    np.testing.assert_array_equal(values, two[name], err_msg=name)
  return len(one)


def manifest(out):
  return json.loads((out / "manifest.json").read_text())


@pytest.mark.slow
def test_files_and_manifest_are_those_of_one_machine(cluster, checkpoint, videos, tmp_path, capsys):
  ray = ("--engine=ray", f"--address={cluster.address}")
  assert extract(checkpoint, videos, tmp_path / "local", "--workers=1") == 3
  capsys.readouterr()
  assert extract(checkpoint, videos, tmp_path / "ray", *ray) == 3
  said = capsys.readouterr().out
  assert "bad.mp4: " in said
  assert "v11: " in said
  assert same(tmp_path / "local", tmp_path / "ray") == 12
  assert manifest(tmp_path / "local") == manifest(tmp_path / "ray")
  # Nothing is left but what could not be read; a local run goes on with the files of the cluster.
  before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "ray").glob("*.npy")}
  for flags in (ray, ("--workers=1",)):
    capsys.readouterr()
    assert extract(checkpoint, videos, tmp_path / "ray", *flags) == 3
    assert "13 videos, 12 of them done before" in capsys.readouterr().out
  assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "ray").glob("*.npy")}


@pytest.mark.slow
def test_what_cannot_be_loaded_is_told_by_the_node(cluster, videos, tmp_path, capsys):
  ray = ("--engine=ray", f"--address={cluster.address}")
  assert extract(tmp_path, videos, tmp_path / "out", *ray) == 2
  error = capsys.readouterr().err
  assert f"{tmp_path}: no config.json of a run" in error
  assert error.count("\n") == 1
  assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_videos_of_lost_nodes_are_done_by_others(cluster, checkpoint, videos, tmp_path, capsys):
  """Last, because nodes are removed."""
  out = tmp_path / "out"
  assert extract(checkpoint, videos, tmp_path / "local", "--workers=1") == 3

  def lose():
    until = time.monotonic() + 200
    while not list(out.glob("*.npy")) and time.monotonic() < until:
      time.sleep(0.01)
    ray_nodes.lose(cluster)

  thread = threading.Thread(target=lose)
  thread.start()
  assert extract(checkpoint, videos, out, "--engine=ray", f"--address={cluster.address}") == 3
  thread.join()
  assert not cluster.nodes
  assert same(tmp_path / "local", out) == 12
  assert manifest(tmp_path / "local") == manifest(out)


# Without a cluster.


@pytest.fixture
def encoded(videos):
  """An actor without Ray, whose encoder is the mean of the pixels."""
  actor = object.__new__(ray_features.NodeEncoder)
  actor._settings = SnippetSettings(frames=2, stride=3, fps=10, resize=16, size=12)
  actor._encode = lambda clips: clips.mean(axis=(2, 3, 4)).astype(np.float32)
  actor._how = {"batch_size": 4, "workers": 1, "timeout": 0.0}
  return actor


def test_an_encoder_sends_each_video_and_the_reasons_of_the_rest(encoded, videos):
  names = [str(videos / f"{name}.mp4") for name in ("v0", "bad", "v2")]
  *reports, (kind, unreadable) = encoded.work(tuple(names))
  assert {name for _, (name, _, _) in reports} == {names[0], names[2]}
  for _, (_, facts, found) in reports:
    assert found.shape == (facts["snippets"], 2)
  assert kind == "result"
  assert unreadable.keys() == {names[1]}


def test_a_checkpoint_that_is_none_is_an_answer(tmp_path):
  cut = dict.fromkeys(("frames", "step", "stride", "fps", "resize", "size"))
  actor = ray_features.NodeEncoder(str(tmp_path), "last", cut, 4, 1, 0.0, {}, "")
  assert "no config.json of a run" in actor.ready()["error"]
  actor = ray_features.NodeEncoder(str(tmp_path), "last", cut, 4, 1, 0.0, {}, "TPU")
  assert actor.ready()["error"].startswith("JAX finds no TPU, although Ray does")


def test_nodes_that_differ(capsys, tmp_path):
  facts = {
    "host": "a",
    "software": ray_features.ray_workers.software(),
    "lacks": [],
    "error": "",
    "made": Made(None, 2, {"encoder_sha256": "x"}),
    "device": "A100",
  }
  check = ray_features._Check(facts)
  assert check(facts) == ""
  other = {**facts, "host": "b", "made": Made(None, 2, {"encoder_sha256": "y"})}
  assert check(other).startswith("b: finds another encoder in the checkpoint's folder than a")
  assert check({**facts, "error": "why"}) == "a: why"
  assert "does not have /x" in check({**facts, "lacks": ["/x"]})
  assert not capsys.readouterr().err
  for _ in range(2):
    assert check({**facts, "host": "b", "device": "H100"}) == ""
  assert capsys.readouterr().err.count("note: b has H100, a has A100") == 1


def test_the_videos_of_a_lost_encoder_are_tried_one_by_one_and_a_lone_one_once_more(tmp_path):
  done = []
  paths = [tmp_path / name for name in "abc"]
  run = ray_features._Run(paths, lambda path, facts, found: done.append((path, facts, found)))
  a, b, c = names = tuple(map(str, paths))
  lost = Crash(ray_cluster.LOST, outside=True)
  run.on_report(names, (a, {}, 1))
  assert run.on_crash(names, lost) == [(b,), (c,)]
  assert run.on_crash((b,), lost) == [(b,)]
  assert run.unreadable == {}
  run.on_report((b,), (b, {}, 2))
  run.on_report((b,), (b, {}, 3))  # sent twice, kept once
  assert run.on_crash((b,), lost) == []  # lost after all was sent
  assert run.on_crash((c,), lost) == [(c,)]
  assert run.on_crash((c,), lost) == []
  assert run.unreadable == {paths[2]: ray_cluster.LOST}
  assert done == [(paths[0], {}, 1), (paths[1], {}, 2)]
