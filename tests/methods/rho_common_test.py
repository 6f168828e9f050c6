"""What all four ρ-methods promise: devices and modes that change nothing, clear refusals."""

import jax
import numpy as np
import pytest

from tests import tolerance
from tests.methods import rho
from vssl_jax import methods
from vssl_jax.errors import UserError
from vssl_jax.methods import multiclip
from vssl_jax.models.layers.norm import BatchNorm

pytestmark = pytest.mark.usefixtures("flat")
MOMENTUM = ("rho_moco", "rho_byol")


@pytest.mark.slow
@pytest.mark.parametrize("name", rho.METHODS)
def test_one_device_equals_eight(name):
  c = rho.config(name, **{"data.clips": 3})
  want, rounding = rho.gradients_and_rounding(c)
  # The state too: statistics, target, queue, with its contents, pointer and filling.
  tolerance.close(rho.gradients(c, devices=8), want, rounding)


@pytest.mark.slow
@pytest.mark.parametrize("name", rho.METHODS)
def test_passes_written_out_equal_a_loop_over_clips(name, monkeypatch):
  c = rho.config(name, **{"data.clips": 3})
  want, rounding = rho.gradients_and_rounding(c)
  monkeypatch.setattr(multiclip, "platform", lambda mesh: "tpu")
  tolerance.close(rho.gradients(c), want, rounding)


@pytest.mark.parametrize("unroll", [False, True])
def test_a_gradient_needs_no_loop_over_clips(unroll):
  spec = jax.ShapeDtypeStruct((3, 2, 4, 4, 3), np.float32)
  clips = multiclip.Clips(3, lambda key, x, r: x * (r + 1.0), "clip", spec, unroll)
  batch = {"clips": np.random.default_rng(0).normal(size=(2, *spec.shape)), "key": np.zeros(2)}

  def network(w, stats, x):
    y = np.float32(0.5) * w * x.sum((1, 2, 3))
    return {"z": y}, {"mean": stats["mean"] + y.mean(0)}

  def run(w, constant=False):
    out, stats = clips.forward(network, w, {"mean": np.ones(3)}, batch, constant=constant)
    return (out["z"] ** 2).sum(), (out["z"], stats["mean"])

  w = np.array([1.0, -2.0, 3.0])
  summed = batch["clips"].sum((2, 3, 4)) * np.array([1, 2, 3])[:, None]  # [N, ρ, 3]
  ((value, (z, mean)), gradient) = jax.value_and_grad(run, has_aux=True)(w)
  np.testing.assert_allclose(z, w * summed / 2, rtol=1e-5)
  np.testing.assert_allclose(mean, 1 + (w * summed / 2).mean((0, 1)), rtol=1e-5)
  np.testing.assert_allclose(value, (w**2 * summed**2 / 4).sum(), rtol=1e-5)
  np.testing.assert_allclose(gradient, (w * summed**2 / 2).sum((0, 1)), rtol=1e-5)
  assert ("scan" in str(jax.make_jaxpr(run)(w))) == (not unroll)
  assert "scan" in str(jax.make_jaxpr(lambda w: run(w, constant=True))(w))


def test_groups_of_joint_statistics_are_pyslowfast_s():
  """A GPU there has some videos, and `batch_clips` lays their first clips before their second."""
  rho_, gpus, videos = 3, 2, 4
  x = np.random.default_rng(0).normal(size=(gpus * videos, rho_, 1, 1, 1, 5))
  spec = jax.ShapeDtypeStruct(x.shape[1:], np.float32)
  clips = multiclip.Clips(rho_, lambda key, x: x, "joint", spec)
  norm = BatchNorm(groups=gpus)

  def network(params, stats, x):
    return norm.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])

  variables = norm.init(jax.random.key(0), x[:, 0], False)
  batch = {"clips": x.astype(np.float32), "key": np.zeros(len(x))}
  z, _ = clips.forward(network, variables["params"], variables["batch_stats"], batch)
  for gpu in range(gpus):
    own = x[gpu * videos : (gpu + 1) * videos]
    rows = np.concatenate([own[:, k] for k in range(rho_)])
    rows = (rows - rows.mean((0, 1, 2, 3))) / np.sqrt(rows.var((0, 1, 2, 3)) + 1e-5)
    for k in range(rho_):
      theirs = rows[k * videos : (k + 1) * videos]
      np.testing.assert_allclose(z[gpu * videos : (gpu + 1) * videos, k], theirs, atol=1e-5)


@pytest.mark.parametrize("name", MOMENTUM)
def test_a_shuffle_without_groups_is_told(name):
  c = rho.config(name)
  c[name].shuffle_bn = True
  (line,) = methods.notes(c)
  assert line.startswith(f"config.{name}.shuffle_bn has no effect: batch norm has one group")
  c.encoder.bn_groups = 2
  assert methods.notes(c) == ()
  c.encoder.bn_groups, c[name].shuffle_bn = 1, False
  assert methods.notes(c) == ()
  assert methods.notes(rho.config("rho_swav")) == ()


@pytest.mark.parametrize("name", MOMENTUM)
def test_sequential_equals_parallel_and_sum_is_rho_times_the_mean(name):
  c = rho.config(name, **{"data.clips": 3})
  want, rounding = rho.gradients_and_rounding(c)
  c[name].sequential, c[name].queries = True, "sum"
  got = rho.gradients(c)

  def thrice(result):
    (loss, rest), grads = result
    return (3 * loss, rest), jax.tree.map(lambda g: 3 * g, grads)

  tolerance.close(got, thrice(want), thrice(rounding))


@pytest.mark.slow
@pytest.mark.parametrize("name", rho.METHODS)
def test_accumulation_equals_one_pass_with_the_same_statistics(name):
  # Micro-batch i holds rows i, i + k, …; one pass with groups sees them as contiguous rows.
  k = 2
  order = np.arange(rho.N).reshape(rho.N // k, k).T.reshape(-1)
  values = {"rho_moco.shuffle_bn": False} if name == "rho_moco" else {}
  whole = rho.config(name, **{"encoder.bn_groups": k, "head.bn_groups": k, **values})
  (loss, _), grads = rho.gradients(rho.config(name, accumulate=k, **values))
  method, _, params, state = rho.start(whole)
  batch, rng = rho.keyed(whole)
  permuted = jax.tree.map(lambda x: x[order], batch)
  fn = rho.hasty(methods.base.value_and_grad(method, 1))

  def at_once(params, state):
    (loss, _), grads = fn(params, state, permuted, rng, 0)
    return loss, grads

  tolerance.close((loss, grads), *tolerance.value_and_rounding(at_once, params, state))


@pytest.mark.parametrize("name", ["rho_simclr", "rho_moco"])
@pytest.mark.parametrize("statistics", ["clip", "joint"])
def test_statistics_are_over_each_clip_or_over_all(name, statistics):
  c = rho.config(name, **{"data.clips": 3, f"{name}.statistics": statistics})
  c.augment.flip = 0.0
  method, _, params, state = rho.start(c)
  batch, rng = rho.keyed(c)
  fn = rho.hasty(methods.base.value_and_grad(method, 1))
  (_, (after, metrics)), _ = fn(params, state, batch, rng, 0)
  stem = jax.device_get(params["encoder"]["stem"])
  x = np.float64(batch["clips"]).reshape(rho.N, 3, -1) / 255 @ np.float64(stem["kernel"])
  x = x + stem["bias"]
  axes = 0 if statistics == "clip" else (0, 1)
  mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
  norm = after.stats["encoder"]["norm"]
  np.testing.assert_allclose(norm["mean"], 0.1 * mean.mean((0, 1)), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(norm["var"], 0.9 + 0.1 * var.mean((0, 1)), rtol=1e-4)
  if name == "rho_moco":  # whose head has no batch norm, so that the rest is quick by hand
    head = jax.device_get(params["head"])
    y = np.maximum((x - mean) / np.sqrt(var + 1e-5), 0)
    y = np.maximum(y @ head["dense_0"]["kernel"] + head["dense_0"]["bias"], 0)
    z = y @ head["out"]["kernel"] + head["out"]["bias"]
    np.testing.assert_allclose(metrics["embeddings"], z, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
  ("name", "values", "message"),
  [
    *((m, {"data.clips": 1}, "ρ = 1") for m in rho.METHODS),
    *((m, {f"{m}.statistics": "sync"}, "clip, joint") for m in rho.METHODS),
    *((m, {f"{m}.temperature": 0.0}, "positive") for m in rho.METHODS),
    *((m, {f"{m}.momentum": 1.5}, r"\[0, 1\]") for m in MOMENTUM),
    *((m, {f"{m}.queries": "all"}, "mean, sum") for m in MOMENTUM),
    *(
      (m, {f"{m}.sequential": True, f"{m}.statistics": "joint"}, "statistics=clip")
      for m in MOMENTUM
    ),
    *((m, {"encoder.bn_groups": 8}, "encoder.bn_groups is 8") for m in rho.METHODS),
    *((m, {"head.bn_groups": 3}, "at least 2 rows per group") for m in rho.METHODS),
    ("rho_simclr", {"rho_simclr.pairs": "none"}, "consecutive"),
    ("rho_simclr", {"rho_simclr.block_size": -1}, "block_size is -1"),
    ("rho_simclr", {"rho_simclr.block_size": 4, "rho_simclr.pairs": "joint"}, "has no tiles"),
    ("rho_simclr", {"rho_simclr.over_pairs": "max"}, "mean, sum"),
    ("rho_simclr", {"rho_simclr.over_pairs": "sum", "rho_simclr.pairs": "joint"}, "no pairs"),
    ("rho_byol", {"rho_byol.predictor": (0,)}, "predictor is"),
    ("rho_byol", {"rho_byol.target": False, "rho_byol.anneal": False}, "anneal has no effect"),
    ("rho_swav", {"rho_swav.codes_from": 3}, "a video has only 2 clips"),
    ("rho_swav", {"rho_swav.freeze_epochs": -1.0}, "freeze_epochs is -1"),
    ("rho_moco", {"rho_moco.positives": "both"}, "separate, sum"),
    ("rho_moco", {"rho_moco.queue": 0}, "queue is 0"),
    ("rho_swav", {"rho_swav.prototypes": 1}, "at least 2"),
    ("rho_swav", {"rho_swav.epsilon": 0.0}, "positive"),
  ],
)
def test_impossible_settings_name_the_field(name, values, message):
  with pytest.raises(UserError, match=message):
    methods.load(name).build(rho.config(name, **values))


@pytest.mark.parametrize("name", MOMENTUM)
def test_sequential_gradients_cannot_be_accumulated(name):
  c = rho.config(name, **{f"{name}.sequential": True})
  with pytest.raises(UserError, match="clip by clip"):
    methods.base.value_and_grad(methods.load(name).build(c), 2)


@pytest.mark.parametrize("name", ["rho_moco", "rho_byol", "rho_swav"])
def test_schedules_need_the_length_of_an_epoch(name):
  c = rho.config(name)
  c.steps = c.steps_per_epoch = 0
  method = methods.load(name).build(c)
  params, state = jax.eval_shape(method.init, jax.random.key(0), method.example(2))
  ask = method.after_update if name != "rho_swav" else lambda p, s, k: method.update_mask(s, k)
  with pytest.raises(UserError, match="steps_per_epoch is 0"):
    jax.eval_shape(ask, params, state, 1)


@pytest.mark.slow
def test_memory_of_the_sequential_mode_does_not_grow_with_clips():
  def temporary(clips, sequential):
    values = {"data.clips": clips, "data.size": 16, "rho_byol.sequential": sequential}
    method = methods.load("rho_byol").build(rho.config("rho_byol", **values))
    shapes = jax.eval_shape(method.init, jax.random.key(0), method.example(64))
    fn = methods.base.value_and_grad(method, 1)
    step = rho.hasty(lambda params, state, batch: fn(params, state, batch, None, 0))
    batch = jax.eval_shape(lambda: method.example(64))
    return step.lower(*shapes, batch).compile().memory_analysis().temp_size_in_bytes

  six = temporary(6, True)
  assert six < 1.15 * temporary(2, True)
  assert temporary(6, False) > 1.5 * six
