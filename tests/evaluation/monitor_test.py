"""The online monitor: what it scores, when the loop asks it, and what it refuses."""

import copy
import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small, toy
from vssl_jax import models, parallel
from vssl_jax.errors import UserError
from vssl_jax.evaluation import monitor, protocols, splits
from vssl_jax.jobs import pretrain
from vssl_jax.training import loop, metrics_log, run_config, sources

pytestmark = pytest.mark.usefixtures("one_device")


class Brightness(nn.Module):
  """Mean color of a clip, scaled by a weight."""

  @nn.compact
  def __call__(self, clips, train=False):
    return clips.mean((1, 2, 3)) * self.param("weight", nn.initializers.ones, (3,))


class Source:
  """Videos whose class is the channel that is bright."""

  label_names = ("red", "green", "blue")

  def __init__(self, videos, seed):
    rng = np.random.default_rng(seed)
    self.num_videos, self.label = videos, np.arange(videos, dtype=np.int32) % 3
    self.video_names = tuple(f"v_x_g{v // 3:02d}_c{v % 3:02d}" for v in range(videos))
    self.clips = rng.integers(0, 20, (videos, 1, 2, 4, 4, 3)).astype(np.uint8)
    self.clips[np.arange(videos), ..., self.label] += 200

  def only(self, videos):
    few = copy.copy(self)
    few.num_videos, few.label, few.clips = len(videos), self.label[videos], self.clips[videos]
    few.video_names = tuple(self.video_names[v] for v in videos)
    few.numbers = videos
    return few

  def eval_batches(self, batch_size, *, clips, crops, **views):
    assert crops == 1
    for i in range(0, self.num_videos, batch_size):
      rows = np.arange(i, min(i + batch_size, self.num_videos))
      yield {
        "clips": np.repeat(self.clips[rows], clips, axis=1),
        "label": self.label[rows],
        "video": rows.astype(np.int64),
        "offset": np.zeros((len(rows), clips), np.int32),
      }


def _config(**values):
  return small.shrink(small.load("cvrl.py", "demo"), **values)


def _mesh():
  return parallel.make_mesh(jax.devices()[:1])


def test_separable_videos_score_one_and_dead_features_chance(monkeypatch):
  monkeypatch.setattr(models, "build_encoder", lambda config, mesh=None: Brightness())
  c = _config(**{"knn.k": 5, "knn.clips": 2})
  watch = monitor.neighbors(c, Source(42, 0), mesh=_mesh())
  assert watch({"params": {"weight": jnp.ones(3)}}) == {"knn_top1": 1.0}
  assert watch({"params": {"weight": jnp.zeros(3)}})["knn_top1"] < 0.5


def test_held_out_recordings_are_whole_apart_and_chosen_by_seed():
  source = Source(60, 0)
  rest, held = splits.hold_out(source, 0.2, seed=3)
  assert sorted([*rest, *held]) == list(range(60))
  assert not {v // 3 for v in rest} & {v // 3 for v in held}
  assert 12 <= len(held) < 15
  again, other = (splits.hold_out(source, 0.2, seed=s)[1] for s in (3, 4))
  np.testing.assert_array_equal(held, again)
  assert set(held) != set(other)
  source.video_names = ()
  assert len(splits.hold_out(source, 0.2, seed=3)[1]) == 12
  with pytest.raises(UserError, match="one part would be empty"):
    splits.hold_out(Source(3, 0), 0.2, seed=0)  # one recording


def test_the_evaluation_split_is_never_opened(tmp_path, monkeypatch):
  """What a checkpoint is chosen by must not be what it is scored on."""
  opened, whole = [], sources.load_source

  def load(config, split, **kwargs):
    opened.append(split)
    return whole(config, split, **kwargs)

  monkeypatch.setattr(sources, "load_source", load)
  c = _config(**{"knn.every_epochs": 1.0, "probe.run": False})
  c.save.best, c.save.best_mode = "knn_top1", "max"
  outcome = pretrain.pretrain(c, tmp_path)
  assert "knn_top1" in outcome["final"]
  assert set(opened) == {"train"}


@pytest.mark.slow
def test_a_method_that_learns_labels_does_not_see_those_it_is_watched_by(tmp_path):
  values = {"knn.every_epochs": 1.0, "knn.held_out": 0.25, "probe.run": False}
  c = small.shrink(small.load("cvrl.py", "demo_supervised"), **values)
  outcome = pretrain.pretrain(c, tmp_path)
  assert outcome["train_videos"] == 18
  kept = run_config.load_config(tmp_path).data
  assert kept.fingerprint == sources.load_source(c, "train").fingerprint  # the split's own
  assert len(kept.held_out_sha256) == 64
  back = r"set config\.knn\.held_out=0\.25 and config\.knn\.every_epochs=1\.0, as then"
  for change in ({"knn.every_epochs": 0.0}, {"knn.held_out": 0.5}):
    c = small.shrink(small.load("cvrl.py", "demo_supervised"), **(values | change))
    with pytest.raises(UserError, match=back):
      pretrain.pretrain(c, tmp_path)
  assert kept.to_dict() == run_config.load_config(tmp_path).data.to_dict()
  c = small.shrink(small.load("cvrl.py", "demo_supervised"), **values)
  assert pretrain.pretrain(c, tmp_path)["steps"] == 4


@pytest.mark.slow
def test_a_run_of_before_anything_was_held_out_goes_on(tmp_path):
  """Its config has no field of what is held out; the monitor of now would hold out a part."""
  values = {"knn.every_epochs": 0.0, "probe.run": False}
  c = small.shrink(small.load("cvrl.py", "demo_supervised"), **values)
  pretrain.pretrain(c, tmp_path)
  file = tmp_path / run_config.CONFIG
  stored = json.loads(file.read_text())
  assert stored["data"].pop("held_out_sha256") == ""
  file.write_text(json.dumps(stored))
  c = small.shrink(small.load("cvrl.py", "demo_supervised"), **values | {"knn.every_epochs": 1.0})
  with pytest.raises(UserError, match=r"config\.knn\.held_out .* set config\.knn\.every_epochs=0"):
    pretrain.pretrain(c, tmp_path)
  c = small.shrink(small.load("cvrl.py", "demo_supervised"), **values)
  assert pretrain.pretrain(c, tmp_path)["train_videos"] == 24


@pytest.mark.parametrize("labelled", ["held out", "others"])
def test_a_part_without_any_label_is_told_before_training(monkeypatch, labelled):
  monkeypatch.setattr(models, "build_encoder", lambda config, mesh=None: Brightness())
  source = Source(42, 0)
  rest, held = splits.hold_out(source, 0.2, seed=0)
  source.label[held if labelled == "others" else rest] = -1
  with pytest.raises(UserError, match=r"config\.knn\.every_epochs .* none has a label"):
    monitor.neighbors(_config(), source, mesh=_mesh())
  source.label[:] = np.where(np.arange(42) % 2, source.label, -1)
  source.label[[rest[0], held[0]]] = 0
  assert "knn_top1" in monitor.neighbors(_config(), source, mesh=_mesh())(
    {"params": {"weight": jnp.ones(3)}}
  )


def test_a_monitor_that_changes_the_encoder_is_noticed(monkeypatch):
  """As at the end of training and in `evaluate`."""

  def run(task):
    task.variables["params"]["weight"] = jnp.zeros(3)
    return {"top1": 1.0}

  broken = dataclasses.replace(protocols.PROTOCOLS["knn"], run=run)
  monkeypatch.setitem(protocols.PROTOCOLS, "knn", broken)
  watch = monitor.neighbors(_config(), Source(42, 0), mesh=_mesh())
  with pytest.raises(RuntimeError, match="changed the variables"):
    watch({"params": {"weight": jnp.ones(3)}})


def test_unlabeled_data_and_bad_fields_are_told(monkeypatch):
  monkeypatch.setattr(models, "build_encoder", lambda config, mesh=None: Brightness())
  bare = Source(30, 0)
  bare.label_names = ()
  with pytest.raises(UserError, match="no labels"):
    monitor.neighbors(_config(), bare, mesh=_mesh())
  for field in ("k", "temperature", "clips", "held_out"):
    with pytest.raises(UserError, match=field):
      monitor.neighbors(_config(**{f"knn.{field}": 0}), Source(30, 0), mesh=_mesh())


def test_loop_asks_every_so_many_epochs_and_at_the_end(tmp_path):
  seen = []

  def watch(variables):
    seen.append(np.asarray(variables["params"]["kernel"]).copy())
    return {"knn_top1": 0.1 * len(seen)}

  config = toy.config(**{"knn.every_epochs": 1.25, "epochs": 3.0, "log_every": 100})
  mesh = parallel.make_mesh(jax.devices()[:1])
  result = loop.train(
    config, tmp_path, toy.Source(), toy.method(), mesh, tensorboard=False, monitor=watch
  )
  rows = {r["step"]: r["knn_top1"] for r in metrics_log.read(tmp_path) if "knn_top1" in r}
  assert rows == pytest.approx({5: 0.1, 10: 0.2, 12: 0.3})
  np.testing.assert_array_equal(seen[-1], result.state.params["kernel"])
  assert not np.array_equal(seen[0], seen[1])
  assert result.metrics["knn_top1"] == pytest.approx(0.3)
