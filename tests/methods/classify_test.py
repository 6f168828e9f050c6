"""Classification: a frozen encoder stays bit-identical, the loss and accuracy by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from vssl_jax import augment, models, parallel
from vssl_jax.errors import UserError
from vssl_jax.methods import classify
from vssl_jax.training import optim
from vssl_jax.training import step as step_lib

pytestmark = pytest.mark.usefixtures("tiny")


def _config(**values):
  config = small.shrink(small.load("cvrl.py", "ucf6_supervised"))
  config.update_from_flattened_dict({"data.clips": 2, "classify.classes": 3, **values})
  augment.presets.none(config.augment)
  return config


def _batch(n=8):
  rng = np.random.default_rng(0)
  return {
    "clips": rng.integers(0, 256, (n, 2, 4, 16, 16, 3), np.uint8),
    "label": rng.integers(0, 3, n).astype(np.int32),
    "video": np.arange(n),
  }


def _steps(config, steps=2, devices=1):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  method = classify.build(config, mesh)
  tx = optim.build(config.optim, optim.schedule(0.1, 10, 0))
  advance = step_lib.make_step(
    method, tx, lambda i: jnp.float32(0.1), seed=0, accumulate=1, mesh=mesh
  )
  first = state = step_lib.init(method, tx, 0, mesh, 8)
  for _ in range(steps):
    state, metrics = advance(state, parallel.put_batch(mesh, _batch()))
  return method, jax.device_get(first), jax.device_get(state), jax.device_get(metrics)


def test_frozen_encoder_is_bit_identical_and_the_classifier_learns():
  config = _config(**{"classify.frozen": True, "classify.normalize": True})
  method, first, last, _ = _steps(config)
  a, b = method.encoder(first.params, first.method), method.encoder(last.params, last.method)
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert set(b) == {"params", "batch_stats"}
  assert set(last.params) == {"classifier"}
  assert np.abs(last.params["classifier"]["out"]["kernel"]).max() > 0
  assert not np.array_equal(
    first.params["classifier"]["out"]["kernel"], last.params["classifier"]["out"]["kernel"]
  )


def test_unfrozen_encoder_and_its_statistics_move():
  _, first, last, _ = _steps(_config())
  moved = jax.tree.map(lambda x, y: not np.array_equal(x, y), first.params, last.params)
  assert all(jax.tree.leaves(moved["encoder"]["stem"]))
  stats = jax.tree.map(lambda x, y: not np.array_equal(x, y), first.method, last.method)
  assert all(jax.tree.leaves(stats))


def test_loss_and_accuracy_by_hand():
  config = _config(**{"classify.frozen": True, "classify.label_smoothing": 0.3})
  method = classify.build(config)
  params, state = small.init(method)
  batch = {**_batch(), "key": jax.random.split(jax.random.key(0), 8)}
  logits, _ = jax.jit(method.embed)(params, state, batch)
  loss, (_, metrics) = method.objective(params, state, logits, batch, None, None)
  flat = np.float64(logits).reshape(16, 3)
  flat -= np.log(np.exp(flat).sum(1, keepdims=True))
  label = np.repeat(batch["label"], 2)
  target = 0.7 * np.eye(3)[label] + 0.1
  np.testing.assert_allclose(loss, -np.mean((target * flat).sum(1)), rtol=1e-5)
  np.testing.assert_allclose(metrics["accuracy"], np.mean(np.argmax(flat, 1) == label))
  clips = augment.eval_preprocess(config.augment)(batch["clips"][:, 0])
  plain = classify.logits_fn(config)(params, state, clips)
  np.testing.assert_allclose(plain, logits[:, 0], rtol=1e-4, atol=1e-5)


def test_videos_without_label_are_left_out_of_the_mean():
  config = _config(**{"classify.frozen": True, "classify.label_smoothing": 0.3})
  method = classify.build(config)
  params, state = small.init(method)
  label = _batch()["label"]
  logits = jnp.asarray(np.random.default_rng(1).normal(size=(8, 2, 3)), jnp.float32)

  def of(rows, label):
    return method.objective(params, state, logits[rows], {"label": label}, None, None)

  some = np.where(np.arange(8) < 5, label, -1)
  loss, (_, metrics) = of(slice(8), some)
  alone, (_, expected) = of(slice(5), label[:5])
  np.testing.assert_allclose(loss, alone, rtol=1e-6)
  np.testing.assert_allclose(metrics["accuracy"], expected["accuracy"], rtol=1e-6)
  assert of(slice(8), np.full(8, -1))[0] == 0


def test_one_device_equals_eight():
  one, eight = _steps(_config()), _steps(_config(), devices=8)
  np.testing.assert_allclose(one[3]["loss"], eight[3]["loss"], rtol=1e-3)


def test_dropout_keeps_the_mean_and_its_rate():
  x = jnp.ones((64, 2, 256))
  keys = jax.random.split(jax.random.key(0), 64)
  y = np.asarray(classify._dropout(x, keys, 0.25))
  np.testing.assert_allclose(np.mean(y == 0), 0.25, atol=0.01)
  np.testing.assert_allclose(y.mean(), 1.0, atol=0.02)
  np.testing.assert_array_equal(y[:8], classify._dropout(x[:8], keys[:8], 0.25))


def test_classes_come_from_the_data():
  class Labeled:
    label_names = ("a", "b", "c", "d")

  config = _config(**{"classify.classes": 0})
  assert classify.resolve(config, Labeled()).classify.classes == 4
  assert config.classify.classes == 0
  assert classify.resolve(config, None).classify.classes == 2
  Labeled.label_names = ()
  with pytest.raises(UserError, match=r"config\.classify\.classes is 0"):
    classify.resolve(config, Labeled())


@pytest.mark.parametrize(
  ("values", "message"),
  [({"classify.classes": 1}, "at least 2"), ({"classify.dropout": 1.0}, r"\[0, 1\)")],
)
def test_impossible_settings_name_the_field(values, message):
  with pytest.raises(UserError, match=message):
    classify.build(_config(**values))


class _Plain(nn.Module):
  """An encoder without batch norm, as a ViT is."""

  features_dim: int = 4

  @nn.compact
  def __call__(self, clips, train=False):
    return nn.Dense(self.features_dim)(clips.mean((1, 2, 3)))


def test_an_encoder_without_running_statistics(monkeypatch):
  monkeypatch.setattr(models, "build_encoder", lambda config, mesh=None: _Plain())
  _, first, last, metrics = _steps(_config())
  assert last.method.encoder == {}
  assert np.isfinite(metrics["loss"])
  change = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.params, last.params)
  assert min(jax.tree.leaves(change)) > 0
