"""The online monitor: what it scores, when the loop asks it, and what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small, toy
from vssl_jax import models, parallel
from vssl_jax.errors import UserError
from vssl_jax.evaluation import monitor
from vssl_jax.training import loop, metrics_log


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
    self.clips = rng.integers(0, 20, (videos, 1, 2, 4, 4, 3)).astype(np.uint8)
    self.clips[np.arange(videos), ..., self.label] += 200

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


def test_separable_videos_score_one_and_dead_features_chance(monkeypatch):
  monkeypatch.setattr(models, "build_encoder", lambda config: Brightness())
  c = _config(**{"knn.k": 5, "knn.clips": 2})
  watch = monitor.neighbours(c, Source(30, 0), Source(12, 1))
  assert watch({"params": {"weight": jnp.ones(3)}}) == {"knn_top1": 1.0}
  assert watch({"params": {"weight": jnp.zeros(3)}})["knn_top1"] < 0.5


def test_unlabelled_data_and_bad_fields_are_told(monkeypatch):
  monkeypatch.setattr(models, "build_encoder", lambda config: Brightness())
  bare = Source(3, 0)
  bare.label_names = ()
  with pytest.raises(UserError, match="no labels"):
    monitor.neighbours(_config(), bare, Source(3, 0))
  for field in ("k", "temperature", "clips"):
    with pytest.raises(UserError, match=field):
      monitor.neighbours(_config(**{f"knn.{field}": 0}), Source(3, 0), Source(3, 0))


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
