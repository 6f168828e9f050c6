"""The protocols on synthetic videos with a small network: numbers, frozenness, no leak."""

import hashlib
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import source
from vssl_jax import methods, models, parallel, results
from vssl_jax.errors import UserError
from vssl_jax.evaluation import end_of_run
from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.probes import (
  baselines,
  calibrate,
  classifier,
  features,
  knn,
  logistic,
  metrics,
  retrieval,
  views,
)


class Net(nn.Module):
  """Two features from the drift's direction would need more; this is for plumbing."""

  @nn.compact
  def __call__(self, clips, train=False):
    x = clips[:, :, ::4, ::4].reshape(len(clips), -1)
    return nn.relu(BatchNorm()(nn.Dense(6)(x), train))


def _config():
  c = methods.base_config("cvrl")
  c.data.source, c.data.frames, c.data.stride, c.data.size = "synthetic", 2, 2, 8
  c.data.synthetic.videos, c.data.synthetic.eval_videos, c.data.synthetic.classes = 12, 6, 3
  c.data.synthetic.length = 8
  e = c.data.eval
  e.clips, e.crops, e.frames, e.stride, e.resize, e.size, e.batch_size = 2, 2, 2, 2, 10, 8, 4
  c.probe.calibrate = 2
  return c


@pytest.fixture(autouse=True)
def small_net(monkeypatch):
  monkeypatch.setattr(models, "build_encoder", lambda config, mesh=None: Net())


def _quick(config, variables, train, test, **more):
  mesh = parallel.make_mesh(jax.devices()[:1])
  return end_of_run.scores(end_of_run.QUICK, config, variables, train, test, mesh=mesh, **more)


@pytest.fixture(scope="module")
def setup():
  config, net = _config(), Net()
  train, test = (source.load(config.data, split=s, batch_size=4, seed=0) for s in ("train", "test"))
  variables = calibrate.random_variables(config, net, train)
  return config, net, variables, views.Cached(train), views.Cached(test)


def _features(config, net, variables, split):
  return features.extract(
    views.feature_fn(net, config), variables, views.eval_batches(split, config)
  )


def test_quick_is_the_parts_put_together(setup, tmp_path):
  config, net, variables, train, test = setup
  before = results.tree_hash(variables)
  result = _quick(config, variables, train, test, folder=tmp_path)
  a, b = (_features(config, net, variables, s) for s in (train, test))
  assert a.features.shape == (12, 4, 6)
  fitted = logistic.evaluate(a.mean(), a.label, b.mean(), b.label, num_classes=3)
  expected = retrieval.evaluate(a.mean(), a.label, b.mean(), b.label)
  assert result["logistic"]["top1"] == fitted.accuracy.top1
  assert result["logistic"]["C"] == fitted.strength
  assert {k: result["retrieval"][k] for k in expected} == expected
  votes = knn.weighted_knn(a.mean(), a.label, b.mean(), classes=3, k=4, temperature=0.07)
  assert result["knn"]["top1"] == metrics.accuracy(votes, b.label).top1
  described = {k: result["knn"][k] for k in ("k", "k_used", "k_why", "temperature")}
  why = "the smallest class has 4 training videos"
  assert described == {"k": 200, "k_used": 4, "k_why": why, "temperature": 0.07}
  assert result["encoder_sha256"] == before == results.tree_hash(variables)
  assert "inference" in result["bn_mode"]
  assert (tmp_path / "logistic.png").stat().st_size > 0
  assert "direction_0" in (tmp_path / "logistic.md").read_text()
  json.loads(results.result_line(result).removeprefix("RESULT "))


def test_repeating_gives_the_same_numbers(setup):
  config, _, variables, train, test = setup
  times = ("seconds", "clips_per_second")
  first, second = (
    {k: v for k, v in _quick(config, variables, train, test).items() if k not in times}
    for _ in range(2)
  )
  assert first == second


def test_features_are_those_of_inference_mode(setup):
  config, net, variables, train, _ = setup
  found = _features(config, net, variables, train)
  batch = next(iter(views.eval_batches(train, config)))
  clips = jnp.asarray(batch["clips"][1], jnp.float32) / 255.0
  np.testing.assert_allclose(
    found.features[1], net.apply(variables, clips, train=False), rtol=1e-4, atol=1e-5
  )


def test_a_changed_network_is_noticed(setup, monkeypatch):
  config, _, variables, train, test = setup
  variables = jax.tree.map(np.array, variables)

  def recordings(_):  # called between the two hashes
    variables["batch_stats"]["BatchNorm_0"]["mean"][0] += 1e-6

  monkeypatch.setattr(logistic, "recordings", recordings)
  with pytest.raises(RuntimeError, match="changed the variables"):
    _quick(config, variables, train, test)


def test_random_variables(setup):
  config, net, variables, train, _ = setup
  again = calibrate.random_variables(config, net, train)
  assert results.tree_hash(again) == results.tree_hash(variables)
  stats = variables["batch_stats"]["BatchNorm_0"]
  assert not np.allclose(stats["var"], 1.0)
  with config.unlocked():
    config.seed = 1
    other = calibrate.random_variables(config, net, train)
    given = calibrate.random_variables(config, net, train, variables)
    config.seed = 0
  assert results.tree_hash(other["params"]) != results.tree_hash(variables["params"])
  assert results.tree_hash(given) == results.tree_hash(variables)


def test_random_variables_need_a_batch(setup):
  config, net, _, train, _ = setup
  config = config.copy_and_resolve_references()
  config.probe.calibrate = 0
  with pytest.raises(UserError, match=r"probe\.calibrate is 0"):
    calibrate.random_variables(config, net, train)


def test_recordings_stay_in_one_fold(setup):
  config, net, variables, train, test = setup

  class Named(views.Cached):
    video_names = tuple(f"v_Kind_g{v // 2:02d}_c{v % 2:02d}.avi" for v in range(12))

  named = Named(train)
  groups = [name[: name.index("_c")] for name in Named.video_names]
  found = _quick(config, variables, named, test)["logistic"]
  a, b = (_features(config, net, variables, s) for s in (train, test))
  given = (a.mean(), a.label, b.mean(), b.label)
  assert found["C"] == logistic.evaluate(*given, num_classes=3, groups=groups).strength
  assert "group" in found["C_chosen_by"]
  assert "group" in baselines.evaluate(config, named, test)["pixels"]["C_chosen_by"]


def test_baselines(setup):
  config, _, _, train, test = setup
  found = baselines.evaluate(config, train, test)
  assert set(found) == {"pixels", "pixels_clip", "color_means"}
  assert found["pixels"]["numbers"] == 8 * 8 * 3
  assert found["color_means"]["numbers"] == 2 * 3
  # By hand: view 2·clip + crop with the middle ones of 2 × 2 is 3.
  rows = {}
  for name, split in (("train", train), ("test", test)):
    batches = list(views.eval_batches(split, config))
    keep = np.concatenate([b["valid"] for b in batches])
    clips = np.concatenate([b["clips"] for b in batches])[keep, 3]
    rows[name] = (
      clips.mean((2, 3)).reshape(len(clips), -1),
      np.concatenate([b["label"] for b in batches])[keep],
    )
  fitted = logistic.evaluate(*rows["train"], *rows["test"], num_classes=3)
  assert found["color_means"]["top1"] == fitted.accuracy.top1
  assert found["color_means"]["C"] == fitted.strength


def test_classifier_averages_softmax_over_views(setup, tmp_path):
  config, net, variables, _, test = setup
  kernel = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)) * 5, jnp.float32)
  tree = (variables, kernel)

  def logits(tree, clips):
    return net.apply(tree[0], clips, train=False) @ tree[1]

  result = classifier.evaluate_classifier(
    config, logits, tree, test, picture=tmp_path / "c.png", progress=""
  )
  found = _features(config, net, variables, test)
  scores = found.features.astype(np.float64) @ np.asarray(kernel, np.float64)
  scores = np.exp(scores - scores.max(-1, keepdims=True))
  scores = (scores / scores.sum(-1, keepdims=True)).mean(1)
  expected = metrics.accuracy(scores, found.label)
  assert result["top1"] == expected.top1
  assert list(result["per_class"].values()) == pytest.approx(expected.per_class.tolist())
  assert list(result["per_class"]) == ["direction_0", "direction_1", "direction_2"]
  assert result["views"] == "softmax averaged over 2 clips x 2 crops"
  assert (tmp_path / "c.md").exists()


def test_cache_gives_the_same_batches_again(setup):
  config, _, _, train, _ = setup
  calls = []

  class Counting:
    num_videos, label_names = train.num_videos, train.label_names

    def eval_batches(self, *args, **kwargs):
      calls.append(kwargs)
      return train.eval_batches(*args, **kwargs)

  for limit, expected in ((1 << 20, 1), (2000, 2)):
    calls.clear()
    cached = views.Cached(Counting(), limit)
    passes = [list(views.eval_batches(cached, config)) for _ in range(2)]
    assert len(calls) == expected
    jax.tree.map(np.testing.assert_array_equal, *passes)
    list(cached.eval_batches(4, clips=1, crops=1, frames=2, stride=2, resize=10, size=8))
    assert len(calls) == expected + 1
  assert cached.num_videos == 12


def test_an_unfinished_pass_is_not_kept(setup):
  config, _, _, train, _ = setup
  cached = views.Cached(train)
  next(iter(views.eval_batches(cached, config)))
  assert len(list(views.eval_batches(cached, config))) == 3


def test_protocol_says_it_all(setup):
  config, _, _, train, test = setup
  found = views.protocol(config, train, test)
  assert found["data"]["train"] == {"name": "train", "videos": 12}
  assert found["data"]["eval"] == {"name": "test", "videos": 6}
  assert found["views"] == {
    "clips": 2,
    "crops": 2,
    "frames": 2,
    "stride": 2,
    "resize": 10,
    "size": 8,
  }
  assert found["config_sha256"] == results.config_hash(config)
  assert found["data"]["manifest_sha256"] is None


def test_protocol_names_the_data(setup, tmp_path):
  config, _, _, train, test = setup
  config = config.copy_and_resolve_references()
  config.data.path = str(tmp_path / "ucf")
  (tmp_path / "ucf").mkdir()
  (tmp_path / "ucf" / "manifest.json").write_text("{}")
  data = views.protocol(config, train, test)["data"]
  assert data["name"] == "ucf"
  assert data["manifest_sha256"] == hashlib.sha256(b"{}").hexdigest()
