"""ProViCo's whole loss: float64 by hand, devices, and a toy that learns (or by design does not)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses.provico import LossSettings, provico
from vssl_jax.ops import embed_stats, gaussian
from vssl_jax.ops.mining import Rule

N, R, D, K = 16, 4, 6, 3
HASTY = {"xla_backend_optimization_level": 0}
SETTINGS = LossSettings(samples=K, rule=Rule("top_k", 2), block_size=5)
CHOICES = {
  "default": {"rule": Rule("quantile", 0.1)},
  "halves of moments": {
    "own": "halves",
    "distance_on": "moments",
    "average": "classes",
    "margin": 1.5,
    "rule": Rule("top_k", 2, "mutual"),
  },
  "softmax": {
    "match": "softmax",
    "own": "halves",
    "margin": 0.5,
    "rule": Rule("quantile", 0.2),
  },
  "soft": {"stochastic": False, "kl_on": "video", "beta": 0.5, "rule": Rule("none")},
  "geometric": {"scalar": "geometric", "rule": Rule("absolute", 0.25, form="reviewed")},
}


def batch(n=N, r=R, d=D, seed=0):
  rng = np.random.default_rng(seed)
  mean = rng.normal(size=(n, 1, d)) + 0.5 * rng.normal(size=(n, r, d))
  mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
  log_variance = 0.5 * rng.normal(size=(n, r, d)) - 2
  label = rng.integers(-1, 3, n).astype(np.int32)
  return np.float32(mean), np.float32(log_variance), label


def keys(n=N):
  return jax.random.split(jax.random.key(3), n)


def compiled(settings, mesh=None, hasty=True):
  def f(mean, log_variance, slope, offset, key, label):
    return provico(mean, log_variance, key, slope, offset, label, settings, mesh)

  options = HASTY if hasty else None
  return jax.jit(jax.value_and_grad(f, (0, 1, 2, 3), has_aux=True), compiler_options=options)


def ours(settings, mesh=None, seed=0):
  mean, log_variance, label = batch(seed=seed)
  arguments = mean, log_variance, np.float32(4), np.float32(3), keys(), label
  return jax.device_get(compiled(settings, mesh)(*arguments))


# --- The definition, in float64 -------------------------------------------------------------------


def mixture(mean, log_variance):
  center = mean.mean(1)
  return center, (np.exp(log_variance) + mean**2).mean(1) - center**2


def scalar(variance, kind):
  return np.exp(np.log(variance).mean(1)) if kind == "geometric" else variance.sum(1)


def distances(x, y):
  return np.sqrt(np.square(x[:, None] - y[None]).sum(-1) + 1e-6)


def nll(x, y, positive, slope, offset):
  p = np.mean(1 / (1 + np.exp(slope * distances(x, y) - offset)))
  return -np.log(p if positive else 1 - p)


def mined(s, center, variance, z):
  points = z if s.distance_on == "samples" else center[:, None]
  apart = np.full((N, N), np.inf)
  for i in range(N):
    for j in range(N):
      if i != j:
        v = (
          variance[[i, j]] if s.rule.form == "diagonal" else variance[[i, j]].sum(1, keepdims=True)
        )
        log = np.sum(0.25 * np.log((v[0] / v[1] + v[1] / v[0] + 2) / 4))
        squared = np.square(points[i][:, None] - points[j][None]).mean((0, 1))
        squared = squared if s.rule.form == "diagonal" else squared.sum(keepdims=True)
        apart[i, j] = log + 0.25 * np.sum(squared / v.sum(0))
  apart = np.minimum(apart, apart.T)  # equal but for rounding
  k = int(s.rule.value)
  match s.rule.kind:
    case "none":
      return np.zeros((N, N), bool)
    case "absolute":
      return apart < s.rule.value
    case "quantile":
      count = int(np.ceil(s.rule.value * N * (N - 1) / 2))
      return apart <= np.sort(apart[np.triu_indices(N, 1)])[count - 1]
    case "top_k":
      chosen = apart <= np.sort(apart, axis=1)[:, [k - 1]]
      return chosen | chosen.T if s.rule.combine == "union" else chosen & chosen.T


def oracle(s, mean, log_variance, label, slope=4.0, offset=3.0):
  mean, log_variance = np.float64(mean), np.float64(log_variance)
  noise = np.float64(gaussian.noise(keys(), 2 * K if s.own == "draws" else 3 * K, D))
  center, variance = mixture(mean, log_variance)
  z = center[:, None] + np.sqrt(variance)[:, None] * noise[:, :K]
  uncertain = scalar(variance, s.scalar)
  positive = mined(s, center, variance, z)
  if s.own == "draws":
    other = z, center[:, None] + np.sqrt(variance)[:, None] * noise[:, K:]
    own_scale = uncertain**2
  else:
    halves = [mixture(mean[:, h], log_variance[:, h]) for h in (slice(0, 2), slice(2, 4))]
    other = [
      m[:, None] + np.sqrt(v)[:, None] * e
      for (m, v), e in zip(halves, (noise[:, K : 2 * K], noise[:, 2 * K :]), strict=True)
    ]
    own_scale = np.prod([scalar(v, s.scalar) for _, v in halves], axis=0)
  eye = np.eye(N, dtype=bool)
  number = (positive | eye).sum()
  weight = {True: 1 / N**2, False: 1 / N**2}
  if s.average == "classes":
    weight = {True: 0.5 / number, False: 0.5 / (N * N - number)}
  sides = [
    [(other[0][i], other[1][i]) if i == j else (z[i], z[j]) for j in range(N)] for i in range(N)
  ]
  m = np.array([[np.mean(np.exp(-slope * distances(x, y))) for x, y in row] for row in sides])
  total, soft_total, right = 0.0, 0.0, {True: [], False: []}
  for i in range(N):
    chosen = positive[i] | eye[i]
    for j in range(N):
      yes = bool(chosen[j])
      scale = own_scale[i] if i == j else uncertain[i] * uncertain[j]
      if s.match == "softmax":
        if not yes:
          right[yes].append(m[i, j] < m[i, i])
          continue
        soft = -np.log(m[i, j] / (m[i, j] + np.exp(s.margin) * m[i, ~chosen].sum()))
        weight[yes] = 1 / (N * chosen.sum())
      else:
        soft = nll(*sides[i][j], yes, slope, offset + (0 if yes else s.margin))
      total += weight[yes] * (soft / scale + 0.5 * np.log(scale) if s.stochastic else soft)
      soft_total += weight[yes] * soft
      right[yes].append(np.exp(-soft) > 0.5)
  mu, v = (mean, np.exp(log_variance)) if s.kl_on == "clip" else (center, variance)
  kl = s.beta * np.mean(np.sum(v + mu**2 - 1 - np.log(v), axis=-1) / 2)
  known = ~eye & (label[:, None] >= 0) & (label >= 0)
  same = known & (label[:, None] == label)
  return total + kl, {
    "loss_match": soft_total,
    "loss_stochastic": total,
    "loss_kl": kl,
    "positives_per_anchor": positive.sum() / N,
    "match_positive": np.mean(right[True]),
    "match_negative": np.mean(right[False]),
    "mining_precision": (same & positive).sum() / max((known & positive).sum(), 1),
    "mining_recall": (same & positive).sum() / same.sum(),
    "uncertainty": variance.sum(1).mean(),
    "uncertainty_predicted": np.exp(log_variance).sum(-1).mean(),
    "uncertainty_spread": 1 - np.square(center).sum(-1).mean(),
  }


@pytest.mark.parametrize(
  "name",
  [pytest.param(x, marks=pytest.mark.slow if x in ("soft", "geometric") else ()) for x in CHOICES],
)
def test_value_and_metrics_match_float64(name):
  s = dataclasses.replace(SETTINGS, **CHOICES[name])
  (loss, metrics), _ = ours(s)
  want, want_metrics = oracle(s, *batch())
  np.testing.assert_allclose(loss, want, rtol=2e-5)
  assert set(metrics) == set(want_metrics)
  for k, x in want_metrics.items():
    np.testing.assert_allclose(metrics[k], x, rtol=2e-5, atol=1e-6, err_msg=k)


@pytest.mark.parametrize("name", ["default", "halves of moments", "softmax"])
def test_gradients_are_finite_differences_of_the_definition(name):
  """With the pairs held: the oracle chooses them anew, but for so small a step alike."""
  s = dataclasses.replace(SETTINGS, **CHOICES[name])
  _, grads = ours(s)
  mean, log_variance, label = batch()
  rng = np.random.default_rng(1)
  move, step = rng.normal(size=(2, *mean.shape)), 1e-6
  for i in range(4):
    towards = [0.0, 0.0, 0.0, 0.0]
    towards[i] = move[i] if i < 2 else 1.0
    ahead, behind = (
      oracle(
        s,
        mean + sign * step * towards[0],
        log_variance + sign * step * towards[1],
        label,
        4 + sign * step * towards[2],
        3 + sign * step * towards[3],
      )[0]
      for sign in (1, -1)
    )
    along = np.sum(np.float64(grads[i]) * towards[i])
    np.testing.assert_allclose(along, (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize(
  "name", ["default", "softmax", pytest.param("halves of moments", marks=pytest.mark.slow)]
)
def test_eight_devices_equal_one(name):
  s = dataclasses.replace(SETTINGS, **CHOICES[name])
  one, eight = ours(s), ours(s, parallel.make_mesh(jax.devices()[:8]))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(np.abs(a).max(), 1)),
    one,
    eight,
  )


@pytest.mark.parametrize("name", ["default", "softmax"])
def test_devices_exchange_samples_and_never_distances(name):
  mesh = parallel.make_mesh(jax.devices()[:8])
  s = dataclasses.replace(SETTINGS, **CHOICES[name])
  mean, log_variance, label = batch()
  text = str(
    jax.make_jaxpr(lambda *x: provico(*x, 4.0, 3.0, label, s, mesh)[0])(mean, log_variance, keys())
  )
  gathered = [line for line in text.splitlines() if "= all_gather" in line]
  assert gathered
  assert not any(f"[{N},{N}" in line for line in gathered)


def test_own_pair_is_not_capped_as_one_draw_used_twice_would_be():
  """Samples far apart: K zero distances would keep −log p below log K, without gradient."""
  mean = np.zeros((N, R, D), np.float32)
  mean[..., 0] = 1
  s = dataclasses.replace(SETTINGS, rule=Rule("none"), stochastic=False, beta=0.0)
  f = compiled(s)
  (loss, _), grads = f(mean, np.full_like(mean, 4.0), np.float32(30), np.float32(30), keys(), None)
  assert loss * N > 10 * np.log(K)
  assert np.abs(grads[1]).max() * N > 1


@pytest.mark.parametrize(
  ("scale", "name"), [(-30.0, "default"), (10.0, "default"), (-30.0, "softmax")]
)
def test_points_that_coincide_or_lie_far_apart_are_finite_from_bfloat16(scale, name):
  mean, log_variance, label = batch()
  mean = np.broadcast_to(mean[:1, :1], mean.shape)
  mean, log_variance = (jnp.asarray(x, jnp.bfloat16) for x in (mean, 0 * log_variance + scale))
  (loss, metrics), grads = compiled(dataclasses.replace(SETTINGS, **CHOICES[name]))(
    mean, log_variance, np.float32(30), np.float32(30), keys(), label
  )
  assert loss.dtype == jnp.float32
  assert grads[0].dtype == jnp.bfloat16
  assert all(np.isfinite(np.float32(x)).all() for x in jax.tree.leaves((loss, metrics, grads)))


def test_draws_match_by_variance_alone_and_halves_only_where_clips_do():
  """Two halves of the clips √2 apart; p = ½ at 1.2. Draws are √(2 Σσ²) apart, then 1."""
  d = 32
  mean = np.sign(np.random.default_rng(0).normal(size=(N, 1, d))) / d**0.5 * np.ones((1, R, 1))
  mean[:, R // 2 :, d // 2 :] *= -1  # so 1 − ‖μ(V)‖² = ½
  settings = [
    LossSettings(K, own=own, rule=Rule("none"), stochastic=False) for own in ("draws", "halves")
  ]

  @functools.partial(jax.jit, compiler_options=HASTY)
  def metrics(log_variance):
    return [
      provico(jnp.float32(mean), log_variance, keys(), 30.0, 36.0, settings=s)[1] for s in settings
    ]

  for trace, matched in ((1.0, (0, 0)), (1e-4, (1, 0))):
    got = metrics(np.full(mean.shape, np.log(trace / d), np.float32))
    np.testing.assert_allclose([m["match_positive"] for m in got], matched, atol=0.1)
    for m in got:
      np.testing.assert_allclose(m["uncertainty_spread"], 0.5, rtol=1e-5)
      np.testing.assert_allclose(m["uncertainty_predicted"], trace, rtol=1e-5)


def test_labels_are_read_and_never_used():
  mean, log_variance, label = batch()
  f = compiled(SETTINGS)
  a, b = (
    f(mean, log_variance, np.float32(4), np.float32(3), keys(), x) for x in (label, label[::-1])
  )
  assert a[0][0] == b[0][0]
  jax.tree.map(np.testing.assert_array_equal, a[1], b[1])


# --- A toy of 64 videos ---------------------------------------------------------------------------


@functools.cache
def toy(steps=200, offset=45.0, **values):
  """64 videos in 16 groups of four through two linear heads; each step draws noisy clips anew.

  96 of the 2,016 pairs belong together, and as many are mined. Returns metrics averaged over the
  last 50 steps, as the method logs them, and log σ².
  """
  n, r, dim, clamp = 64, 4, 32, (-16.0, 4.0)
  rng = np.random.default_rng(0)
  label = jnp.arange(n) % 16
  base = jnp.float32(rng.normal(size=(16, dim))[label] + 0.3 * rng.normal(size=(n, dim)))
  s = LossSettings(samples=4, rule=Rule("quantile", 96 / 2016), **values)
  params = {
    "mean": jnp.float32(rng.normal(size=(dim, dim)) / dim**0.5),
    "variance": jnp.zeros((dim, dim)),
    "bias": jnp.full(dim, -np.log(dim)),
    "slope": jnp.float32(30),
    "offset": jnp.float32(offset),
  }
  tx = optax.adam(0.01)

  def loss(p, key):
    k1, k2 = jax.random.split(key)
    x = base[:, None] + 0.3 * jax.random.normal(k1, (n, r, dim))
    mean = x @ p["mean"]
    mean -= jnp.mean(mean, axis=-1, keepdims=True)
    mean /= jnp.linalg.norm(mean, axis=-1, keepdims=True)
    log_variance = jnp.clip(x @ p["variance"] + p["bias"], *clamp)
    value, metrics = provico(
      mean,
      log_variance,
      jax.random.split(k2, n),
      jax.nn.softplus(p["slope"]),
      p["offset"],
      label,
      s,
    )
    low, high = (jnp.mean(log_variance == c, dtype=jnp.float32) for c in clamp)
    typical = jnp.mean(log_variance)
    return value, metrics | {
      "log_variance_at_low": low,
      "log_variance_at_high": high,
      "log_variance_mean": typical,
    }

  def step(carry, i):
    p, o = carry
    grads, metrics = jax.grad(loss, has_aux=True)(p, jax.random.fold_in(jax.random.key(1), i))
    updates, o = tx.update(grads, o)
    return (optax.apply_updates(p, updates), o), metrics

  run = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), jnp.arange(steps))[1])
  return {k: float(np.mean(v[-50:])) for k, v in run(params).items()}


@pytest.mark.slow
def test_default_learns_to_match_without_resting_on_the_clamp():
  row = toy()
  assert row["match_positive"] > 0.9
  assert row["match_negative"] > 0.9
  assert row["log_variance_at_low"] == row["log_variance_at_high"] == 0
  assert row["uncertainty"] < 0.5
  assert row["mining_precision"] > 0.9
  assert embed_stats.diagnose(row) is None


@pytest.mark.slow
def test_trace_learns_where_no_pair_matches_at_first():
  row = toy(offset=30.0)
  assert row["match_positive"] > 0.9
  assert row["match_negative"] > 0.9


@pytest.mark.slow
def test_geometric_mean_asks_for_noise_beyond_the_sphere_and_matches_nothing():
  """The optimum s = 2 L wants σ² = O(1) in each of D dimensions; the explosion is named."""
  row = toy(scalar="geometric", offset=30.0)
  assert row["match_positive"] < 0.1
  assert row["uncertainty"] > 10
  assert embed_stats.diagnose(row).startswith("exploded variance")


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"match": "best"}, "sigmoid, softmax"),
    ({"match": "softmax", "average": "classes"}, "leave it at 'pairs'"),
    ({"margin": -1.0}, "margin is -1"),
    ({"margin": float("inf")}, "margin is inf"),
    ({"own": "twice"}, "draws, halves"),
    ({"distance_on": "means"}, "samples, moments"),
    ({"scalar": "max"}, "trace"),
    ({"average": "sum"}, "pairs, classes"),
    ({"kl_on": "batch"}, "clip, video"),
    ({"samples": 0}, "samples is 0"),
    ({"block_size": 0}, "block_size is 0"),
    ({"beta": -1.0}, "beta is -1"),
  ],
)
def test_impossible_settings_are_named(values, message):
  with pytest.raises(UserError, match=message):
    LossSettings(**values)


def test_bad_shapes_are_named():
  mean, log_variance, _ = batch()
  with pytest.raises(UserError, match=r"\[N, R, D\] alike"):
    provico(mean[:, 0], log_variance[:, 0], keys(), 1.0, 0.0)
  with pytest.raises(UserError, match="2 clips"):
    provico(mean[:, :1], log_variance[:, :1], keys(), 1.0, 0.0, settings=LossSettings(own="halves"))
  with pytest.raises(UserError, match="evenly over 8"):
    provico(mean[:4], log_variance[:4], keys(4), 1.0, 0.0, mesh=parallel.make_mesh())
