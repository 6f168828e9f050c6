"""Optimizers against NumPy float64, the schedule against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vssl_jax import config as config_lib
from vssl_jax.errors import UserError
from vssl_jax.training import optim


def _settings(**values):
  c = config_lib.optim()
  c.update(values)
  return c


def _params():
  rng = np.random.default_rng(0)
  return {
    "conv": {"kernel": rng.normal(size=(3, 4, 5)), "bias": rng.normal(size=5)},
    "norm": {"scale": rng.normal(size=5)},
  }


def _run(tx, params, steps=5):
  """Parameters after each of `steps` updates with fixed pseudo-random gradients."""
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  state, out = tx.init(params), []
  for i in range(steps):
    grads = jax.tree.map(lambda x: jnp.asarray(_grad(x, i), jnp.float32), params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    out.append(jax.tree.map(np.asarray, params))
  return out


def _grad(x, i):
  return np.random.default_rng([i, *np.shape(x)]).normal(size=np.shape(x))


def _momentum_sgd(params, lr, gradient, nesterov, steps=5):
  """float64 oracle: buffer = 0.9·buffer + g; the rate is applied after the momentum."""
  params = jax.tree.map(np.array, params)
  flat, tree = jax.tree_util.tree_flatten_with_path(params)
  values, buffers = [v for _, v in flat], [np.zeros_like(v) for _, v in flat]
  names = [path[-1].key for path, _ in flat]
  for i in range(steps):
    for j, name in enumerate(names):
      g = gradient(name, _grad(values[j], i), values[j])
      buffers[j] = 0.9 * buffers[j] + g
      step = g + 0.9 * buffers[j] if nesterov else buffers[j]
      values[j] = values[j] - lr(i) * step
  return jax.tree_util.tree_unflatten(tree, values)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_decays_kernels_only(nesterov):
  rate = optim.schedule(0.5, 10, 2)
  tx = optim.build(_settings(name="sgd", weight_decay=0.1, nesterov=nesterov), rate)
  got = _run(tx, _params())[-1]
  want = _momentum_sgd(
    _params(), lambda i: float(rate(i)), lambda n, g, w: g + 0.1 * w * (n == "kernel"), nesterov
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_lars_scales_by_trust_inside_and_rate_after_momentum():
  rate = optim.schedule(3.0, 10, 2)
  tx = optim.build(_settings(name="lars", weight_decay=0.1), rate)

  def gradient(name, g, w):
    if name != "kernel":
      return g
    wn, gn = np.linalg.norm(w), np.linalg.norm(g)
    return (g + 0.1 * w) * 1e-3 * wn / (gn + 0.1 * wn + 1e-8)

  got = _run(tx, _params())[-1]
  want = _momentum_sgd(_params(), lambda i: float(rate(i)), gradient, False)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_lars_leaves_what_has_no_gradient_or_no_weight():
  """As PySlowFast: no decay where the gradient is 0, the plain gradient where the weight is."""
  tx = optim.scale_by_trust(0.1)
  params = {"still": jnp.ones((2, 2)), "empty": jnp.zeros((2, 2))}
  grads = {"still": jnp.zeros((2, 2)), "empty": jnp.full((2, 2), 3.0)}
  updates, _ = tx.update(grads, tx.init(params), params)
  jax.tree.map(np.testing.assert_array_equal, updates, grads)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_of_biases_leaves_batch_norm_alone(name):
  tx = optim.build(
    _settings(name=name, weight_decay=0.1, decay_bias=True, momentum=0.0), lambda i: 1.0
  )
  params = jax.tree.map(
    jnp.asarray, _params() | {"norm": {"scale": np.ones(5), "bias": np.ones(5)}}
  )
  still = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(still, tx.init(params), params)
  want = jax.tree.map(lambda w: -0.1 * w, params)
  want["norm"] = still["norm"]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, want)


def test_adamw_equals_optax():
  rate = optim.schedule(0.1, 10, 0)
  tx = optim.build(_settings(name="adamw", weight_decay=0.1), rate)
  reference = optax.adamw(rate, b1=0.9, weight_decay=0.1, mask=optim.kernels)
  for a, b in zip(_run(tx, _params()), _run(reference, _params()), strict=True):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_clip_norm_bounds_the_gradient():
  tx = optim.build(
    _settings(weight_decay=0.0, momentum=0.0, clip_norm=0.5), lambda i: jnp.float32(1.0)
  )
  start = jax.tree.map(np.asarray, _params())
  moved = jax.tree.map(lambda a, b: a - b, _run(tx, start, 1)[0], start)
  np.testing.assert_allclose(float(optax.tree_utils.tree_norm(moved)), 0.5, rtol=1e-5)


def test_schedule_closed_form():
  rate = optim.schedule(2.0, 100, 10, final=0.1)
  cosine = lambda t: 2.0 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * t / 100)))
  want = [cosine(10) * t / 10 if t < 10 else cosine(t) for t in range(101)]
  np.testing.assert_allclose([float(rate(t)) for t in range(101)], want, rtol=1e-6, atol=1e-7)
  assert float(rate(0)) == 0.0
  np.testing.assert_allclose(float(rate(1000)), 0.2, rtol=1e-6)


def test_warm_up_may_start_above_zero():
  """PySlowFast: 0.001 a shard of 64 videos, 35 of 200 epochs; eight shards."""
  c = _settings(lr=0.4, lr_batch=512, warmup_lr=0.008)
  rate = optim.learning_rate(c, 256, 2000, 350)
  top = 0.2 * 0.5 * (1 + np.cos(np.pi * 350 / 2000))
  want = [0.004 + (top - 0.004) * t / 350 for t in (0, 1, 100, 349)] + [top]
  np.testing.assert_allclose([float(rate(t)) for t in (0, 1, 100, 349, 350)], want, rtol=1e-5)
  np.testing.assert_allclose(
    float(optim.learning_rate(c, 512, 10, 0)(0)), 0.4, rtol=1e-6
  )  # no warm-up, no start


def test_description_says_the_effective_values():
  shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, _params()))
  c = _settings(
    name="lars", lr=4.8, lr_batch=512, warmup_lr=0.008, nesterov=True, weight_decay=1e-6
  )
  text = optim.describe(c, 256, 2000, 350, shapes)
  top = 2.4 * 0.5 * (1 + np.cos(np.pi * 350 / 2000))
  for part in (
    "lars: momentum 0.9 nesterov; 2,000 updates of 256 videos",
    "2.4 = 4.8 x 256 / 512",
    f"350 updates from 0.004 to {top:.4g}",
    "decay 1e-06 on 1 tensors (60 parameters), none on 2 tensors (10 parameters)",
  ):
    assert part in text
  assert "as long as the run" not in text
  assert "as long as the run" in optim.describe(c, 256, 350, 350)
  with pytest.raises(UserError, match=r"warm-up takes 50 updates and the run has only 50"):
    optim.learning_rate(_settings(warmup_lr=0.0), 256, 50, 50)
  plain = optim.describe(_settings(warmup_epochs=0.0, clip_norm=1.5), 1024, 10, 0)
  assert "warm-up" not in plain
  assert "tensors" not in plain
  assert "gradient norm up to 1.5" in plain


def test_published_cvrl_schedule():
  # K600: 71,488 steps, 1,787 of warm-up, peak 0.32 at batch 1,024 (papers' released yaml).
  rate = optim.schedule(optim.peak_lr(_settings(), 1024), 71_488, 1_787)
  np.testing.assert_allclose(
    float(rate(1_787)), 0.32 * 0.5 * (1 + np.cos(np.pi / 40.0055960)), rtol=1e-5
  )
  assert float(rate(71_488)) < 1e-8


@pytest.mark.parametrize(
  ("values", "field"),
  [
    ({"name": "sdg"}, "config.optim.name"),
    ({"weight_decay": -1.0}, "weight_decay"),
    ({"momentum": 1.5}, "momentum 1.5"),
    ({"final_lr": -2.0}, "final_lr -2"),
  ],
)
def test_bad_settings_name_the_field(values, field):
  with pytest.raises(UserError, match=field):
    optim.build(_settings(**values), lambda i: 0.0)


def test_a_rate_of_no_batch_is_refused():
  with pytest.raises(UserError, match=r"config\.optim\.lr_batch is 0"):
    optim.peak_lr(_settings(lr_batch=0), 8)


def _their_rate(epoch, base, steps, shares, warmup, start):
  """PySlowFast's `get_lr_at_epoch` with `steps_with_relative_lrs`, whose first step is epoch 0."""

  def constant(epoch):
    return base * [1.0, *shares][sum(epoch >= s for s in steps)]

  if epoch < warmup:
    return epoch * (constant(warmup) - start) / warmup + start
  return constant(epoch)


@pytest.mark.parametrize(
  ("steps", "shares", "warmup"),
  [
    ((14, 18), (0.1, 0.01), 0.19),  # their Something-Something V2
    ((16, 24, 28), (0.1, 0.01, 0.001), 5.3),  # their AVA
    ((6.0, 12.5), (0.5, 2.0), 0.0),
  ],
)
def test_steps_are_pyslowfast_s(steps, shares, warmup):
  epoch, epochs = 7, 32
  c = _settings(
    lr=0.12, lr_batch=64, schedule="steps", lr_steps=steps, lr_shares=shares, warmup_lr=1e-4
  )
  rate = optim.learning_rate(c, 64, epochs * epoch, warmup * epoch, epoch)
  ours = jax.vmap(rate)(jnp.arange(epochs * epoch))
  theirs = [
    _their_rate(k / epoch, 0.12, steps, shares, warmup, 1e-4) for k in range(epochs * epoch)
  ]
  np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_steps_fall_to_a_tenth_and_are_told():
  c = _settings(lr=0.025, lr_batch=64, schedule="steps", lr_steps=(60, 120, 180), warmup_epochs=0.0)
  rate = optim.learning_rate(c, 64, 2000, 0, 10)  # the study's UCF101, 200 epochs
  found = [float(rate(k)) for k in (0, 599, 600, 1199, 1200, 1799, 1800, 1999)]
  np.testing.assert_allclose(
    found, 0.025 * np.array([1, 1, 0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3]), rtol=1e-6
  )
  text = optim.describe(c, 64, 2000, 0, epoch=10)
  assert (
    "learning rate 0.025 = 0.025 x 64 / 64, steps at epochs 60, 120, 180, down to 2.5e-05" in text
  )


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"schedule": "linear"}, "schedule is 'linear': choose one of cosine, steps"),
    ({"lr_steps": ()}, "lr_steps is \\(\\): give the epochs"),
    ({"lr_steps": (5, 5)}, "increasing"),
    ({"lr_steps": (0, 5)}, "above 0"),
    ({"lr_steps": (5, 10)}, "the run ends before epoch 10"),
    ({"lr_shares": (0.1,)}, "one share of the peak"),
    ({"lr_shares": (0.1, -1.0)}, "0 or more"),
  ],
)
def test_impossible_steps_are_refused(fields, message):
  c = _settings(**{"schedule": "steps", "lr_steps": (3, 5)} | fields)
  with pytest.raises(UserError, match=message):
    optim.learning_rate(c, 64, 100, 0, 10)
