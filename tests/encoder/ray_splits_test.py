"""Features of splits on a Ray cluster are those of one machine, bit for bit."""

import jax
import numpy as np
import pytest

from data_pipelines import source as source_lib
from data_pipelines.videos import ray_cluster
from tests import small
from tests.data_pipelines import ray_nodes, tiny
from tests.encoder.export_test import _config
from vssl_jax.encoder import exported, features_file, ray_splits
from vssl_jax.errors import UserError
from vssl_jax.probes import features


def encoder(**values):
  config = _config().copy_and_resolve_references()
  with config.unlocked():
    config.data.synthetic.videos = 37
    config.data.synthetic.eval_videos = 5
    config.update_from_flattened_dict(values)
  return config.lock(), small.weights(config)


@pytest.fixture(scope="module")
def cluster():
  with ray_nodes.cluster(3) as made:
    yield made


@pytest.fixture
def checkpoint(tmp_path):
  exported.save_encoder(tmp_path / "encoder", *encoder())
  return tmp_path / "encoder"


def export(checkpoint, out, *flags):
  return small.vssl("export", f"--checkpoint={checkpoint}", f"--output={out}", *flags)


def same(one, two):
  for split in ("train", "test"):
    a, b = (features.load(f / f"features_{split}.npz") for f in (one, two))
    for name in ("features", "label", "video", "offset"):
      np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert (a.names, a.label_names, a.info) == (b.names, b.label_names, b.info)
  return len(a.features)


@pytest.fixture
def one_device(monkeypatch):
  """As many as each node has, so that batches are the same."""
  monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])


@pytest.mark.slow
def test_the_files_of_a_cluster_are_those_of_one_machine(cluster, checkpoint, tmp_path, one_device):
  ray = ("--features", "--engine=ray", f"--address={cluster.address}")
  assert export(checkpoint, tmp_path / "local", "--features") == 0
  assert export(checkpoint, tmp_path / "ray", *ray) == 0
  assert same(tmp_path / "local", tmp_path / "ray") == 5
  assert len(features.load(tmp_path / "ray" / "features_train.npz").features) == 37


@pytest.mark.slow
def test_records_by_a_relative_path(cluster, checkpoint, tmp_path, one_device, monkeypatch, tf):
  for split in ("train", "test"):
    tiny.write(tmp_path / "records", [tiny.video(v, length=6) for v in range(5)], split=split)
  monkeypatch.chdir(tmp_path)
  flags = ("--features", "--data=records")
  assert export(checkpoint, tmp_path / "local", *flags) == 0
  ray = ("--engine=ray", f"--address={cluster.address}")
  assert export(checkpoint, tmp_path / "ray", *flags, *ray) == 0
  assert same(tmp_path / "local", tmp_path / "ray") == 5


@pytest.mark.slow
def test_the_parts_of_lost_nodes_are_done_by_others(cluster, checkpoint, tmp_path, one_device):
  """Last, because nodes are removed."""
  assert export(checkpoint, tmp_path / "local", "--features") == 0
  done = []
  real = ray_cluster.drive

  def drive(*args, **kwargs):
    for part, rows in real(*args, **kwargs):
      done.append(part)
      if len(done) == 1:
        ray_nodes.lose(cluster)
      yield part, rows

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(ray_cluster, "drive", drive)
    ray = ("--features", "--engine=ray", f"--address={cluster.address}")
    assert export(checkpoint, tmp_path / "ray", *ray) == 0
  assert not cluster.nodes
  assert len(done) > 4
  assert same(tmp_path / "local", tmp_path / "ray") == 5


# Without a cluster.


@pytest.mark.parametrize(
  ("videos", "batch_size", "encoders", "parts"), [(37, 2, 3, 19), (8, 4, 1, 2), (5, 8, 2, 1)]
)
def test_parts_are_whole_batches(videos, batch_size, encoders, parts):
  found = ray_splits.divide("s", videos, batch_size, encoders)
  assert len(found) == parts
  assert [v for part in found for v in range(part.begin, part.end)] == list(range(videos))
  assert all(part.begin % batch_size == 0 for part in found)
  assert all((part.end - part.begin) % batch_size == 0 for part in found[:-1])


def test_a_part_is_not_too_long():
  parts = ray_splits.divide("s", 10**6, 8, 2)
  assert max(part.end - part.begin for part in parts) == 8 * ray_splits._BATCHES


def test_parts_together_are_the_split(one_device):
  config, variables = encoder()
  source = source_lib.load(config.data, split="train", batch_size=1, seed=config.seed)
  whole = features.collect(features_file.outputs(config, variables, source))
  actor = ray_splits.SplitEncoder(config, variables, ["train"], "")
  assert actor.ready()["prints"] == {"train": source.fingerprint}
  assert actor.ready()["error"] == ""
  rows = []
  for part in reversed(ray_splits.divide("train", 37, config.data.eval.batch_size, 2)):
    ((kind, found),) = actor.work(part)
    assert kind == "result"
    rows += found
  again = features.collect(rows)
  for name in ("features", "label", "video", "offset"):
    np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_what_an_actor_cannot_do_is_an_answer(tmp_path):
  config, variables = encoder(**{"data.source": "features", "data.path": str(tmp_path / "none")})
  actor = ray_splits.SplitEncoder(config, variables, ["train"], "")
  assert str(tmp_path / "none") in actor.ready()["error"]
  config, variables = encoder()
  assert "JAX finds no GPU" in ray_splits.SplitEncoder(config, {}, [], "GPU").ready()["error"]
  actor = ray_splits.SplitEncoder(config, {}, ["train"], "")
  ((kind, error),) = actor.work(ray_splits.Part("train", 0, 2))
  assert kind == "error"
  assert isinstance(error, Exception)


def test_flags(checkpoint, tmp_path, capsys):
  out = tmp_path / "out"
  assert export(checkpoint, out, "--engine=ray", "--address=nonsense") == 2
  assert export(checkpoint, out, "--features", "--address=auto") == 2
  first, second = capsys.readouterr().err.splitlines()
  assert "of the features that are written with --features; give both" in first or "ray" in first
  assert "address auto is of a Ray cluster: give --engine=ray as well" in second
  assert not out.exists()


def test_nothing_is_written_if_the_cluster_cannot_be_reached(checkpoint, tmp_path, monkeypatch):
  monkeypatch.setattr(ray_cluster, "check", lambda *_: None)
  monkeypatch.setattr(ray_cluster, "load", lambda: _NotJoined)
  out = tmp_path / "out"
  assert export(checkpoint, out, "--features", "--engine=ray", "--address=127.0.0.1:1") == 2
  assert not out.exists()


class _NotJoined:
  def is_initialized():
    return False


def _run(monkeypatch, results, facts):
  """`outputs` with a loop that asks once about the facts, then does what `results` does."""
  config, variables = encoder()
  source = source_lib.load(config.data, split="train", batch_size=1, seed=0)

  def drive(ray, start, count, parts, *, on_report, on_crash, on_ready):
    if problem := on_ready({"prints": {"train": source.fingerprint}, **facts}):
      raise UserError(problem)
    yield from results(parts, on_crash)

  ray = type("Ray", (), {})
  ray.remote = lambda cls: type(
    "Actor", (), {"options": lambda **_: type("A", (), {"remote": print})}
  )
  ray.put = lambda x: x
  ray.nodes = lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}]
  monkeypatch.setattr(ray_cluster, "joined", lambda address: _Context(ray))
  monkeypatch.setattr(ray_cluster, "drive", drive)
  return ray_splits.outputs("", config, variables, {"train": source})


class _Context:
  def __init__(self, value):
    self._value = value

  def __enter__(self):
    return self._value

  def __exit__(self, *_):
    pass


def test_a_node_with_other_videos_and_a_part_that_is_lost_twice(monkeypatch):
  from data_pipelines.videos import ray_workers

  facts = {**ray_workers.describe({}), "error": "", "device": "cpu"}

  def lost_twice(parts, on_crash):
    crash = ray_splits.Crash(ray_cluster.LOST, outside=True)
    assert on_crash(parts[0], crash) == [parts[0]]
    assert on_crash(parts[1], crash) == [parts[1]]
    yield parts[0], ["rows"]
    on_crash(parts[1], crash)

  with pytest.raises(UserError, match=r"videos 8 to 15 of split 'train': .* twice: run the same"):
    _run(monkeypatch, lost_twice, facts)
  done = lambda parts, on_crash: ((part, [part.begin]) for part in parts)
  assert _run(monkeypatch, done, facts)["train"][:2] == [0, 8]
  with pytest.raises(UserError, match="has other videos in split 'train' than this machine"):
    _run(monkeypatch, done, {**facts, "prints": {"train": "x"}})
  with pytest.raises(UserError, match="n1: why"):
    _run(monkeypatch, done, {**facts, "host": "n1", "error": "why"})
