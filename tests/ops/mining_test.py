"""Pair mining: thresholds against sorted distances, on one device and eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.ops import bhattacharyya, mining

N, D = 40, 6
HASTY = {"xla_backend_optimization_level": 0}


@functools.cache
def videos(seed=0, outlier=False):
  rng = np.random.default_rng(seed)
  mean = rng.normal(size=(N, D))
  if outlier:
    mean[0] *= 1e5
  g = bhattacharyya.gaussians(jnp.float32(mean), jnp.float32(np.exp(rng.normal(size=(N, D)))))
  apart = np.array(bhattacharyya.distance(g, g))
  np.fill_diagonal(apart, np.inf)
  return g, apart


def mine(g, rule, block_size=7, devices=1):
  """Thresholds, and how many ordered pairs are positive under them."""

  def f(g, axis_name=None):
    options = {"block_size": block_size, "axis_name": axis_name}
    t = mining.thresholds(g, rule, **options)
    return t, mining.count(g, t, rule, **options)

  if devices > 1:
    mesh, rows = parallel.make_mesh(jax.devices()[:devices]), PartitionSpec("data")
    f = jax.shard_map(
      functools.partial(f, axis_name="data"),
      mesh=mesh,
      in_specs=(rows,),
      out_specs=(rows, PartitionSpec()),
    )
  return jax.device_get(jax.jit(f, compiler_options=HASTY)(g))


def positives(rule, apart, t):
  got = np.array(rule.positive(jnp.asarray(apart), *2 * [jnp.asarray(t)]))
  np.testing.assert_array_equal(got, got.T)
  return got


@pytest.mark.parametrize("outlier", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_quantile_holds_its_share_of_the_pairs(share, outlier):
  g, apart = videos(outlier=outlier)
  t, count = mine(g, mining.Rule("quantile", share))
  assert (t == t[0]).all()
  wanted = int(np.ceil(share * N * (N - 1) / 2))
  pairs = np.sort(apart[np.triu_indices(N, 1)])
  assert wanted <= np.sum(pairs < t[0]) <= wanted + 1
  assert count == 2 * np.sum(pairs < t[0])


def test_equal_distances_are_positive_together():
  g = bhattacharyya.gaussians(jnp.eye(6, dtype=jnp.float32), jnp.ones((6, 6)))
  t, count = mine(g, mining.Rule("quantile", 0.1))
  assert count == 30
  assert np.isfinite(t).all()
  same = bhattacharyya.gaussians(jnp.ones((6, 6)), jnp.ones((6, 6)))
  assert mine(same, mining.Rule("quantile", 0.1))[1] == 30


@pytest.mark.parametrize("combine", ["union", "mutual"])
@pytest.mark.parametrize("k", [1, 5, N - 2, N - 1, 99])
def test_top_k_is_each_video_s_own_choice(k, combine):
  g, apart = videos()
  rule = mining.Rule("top_k", k, combine)
  t, count = mine(g, rule)
  chosen = apart <= np.sort(apart, axis=1)[:, [min(k, N - 1) - 1]]
  chosen[np.diag_indices(N)] = False
  want = (chosen | chosen.T) if combine == "union" else (chosen & chosen.T)
  np.testing.assert_array_equal(positives(rule, apart, t) & ~np.eye(N, dtype=bool), want)
  assert count == want.sum()


def test_absolute_and_none():
  g, apart = videos()
  for rule, want in (
    (mining.Rule("absolute", 2.0), apart < 2.0),
    (mining.Rule("none"), np.zeros((N, N), bool)),
  ):
    t, count = mine(g, rule)
    np.testing.assert_array_equal(positives(rule, apart, t), want)
    assert count == want.sum()


@pytest.mark.parametrize(
  "rule",
  [mining.Rule("quantile", 0.1), mining.Rule("top_k", 3, "mutual"), mining.Rule("absolute", 2.0)],
  ids=lambda r: r.kind,
)
def test_eight_devices_equal_one(rule):
  g, apart = videos()
  (t, count), (t8, count8) = mine(g, rule), mine(g, rule, devices=8, block_size=3)
  np.testing.assert_array_equal(positives(rule, apart, t), positives(rule, apart, t8))
  assert count == count8


def test_weight_and_form_reach_the_distance():
  g, _ = videos()
  rule = mining.Rule("top_k", 1, weight=0.0)
  log_only = np.array(bhattacharyya.distance(g, g, 0.0)) + np.diag(np.full(N, np.inf))
  want = np.sort(log_only, axis=1)[:, :2].mean(axis=1)
  np.testing.assert_allclose(mine(g, rule)[0], want, rtol=1e-5)
  rule = mining.Rule("top_k", 1, form="reviewed")
  other = np.array(bhattacharyya.distance(g, g, 0.25, "reviewed")) + np.diag(np.full(N, np.inf))
  np.testing.assert_allclose(
    mine(g, rule)[0], np.sort(other, axis=1)[:, :2].mean(axis=1), rtol=1e-4
  )


def test_no_gradient_passes():
  g, _ = videos()

  def f(mean):
    v = g._replace(mean=mean)
    t = mining.thresholds(v, mining.Rule("top_k", 2), block_size=N)
    return jnp.sum(t) + jnp.sum(mining.Rule().distance(v, v))

  np.testing.assert_array_equal(jax.jit(jax.grad(f), compiler_options=HASTY)(g.mean), 0)


def test_one_video_has_no_other():
  g = jax.tree.map(lambda x: x[:1], videos()[0])
  for rule in (mining.Rule(), mining.Rule("top_k", 3)):
    assert mining.thresholds(g, rule)[0] == -np.inf


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"kind": "best"}, "mining is 'best'"),
    ({"combine": "all"}, "union, mutual"),
    ({"form": "full"}, "diagonal, reviewed"),
    ({"value": 0.0}, r"\(0, 1\]"),
    ({"value": 5.0}, r"\(0, 1\]"),
    ({"kind": "top_k", "value": 1.5}, "a number of neighbors"),
    ({"kind": "top_k", "value": 0}, "1 or more"),
    ({"weight": -1.0}, "must not be negative"),
    ({"kind": "absolute", "value": 0.0}, "above 0"),
  ],
)
def test_impossible_rules_are_named(values, message):
  with pytest.raises(UserError, match=message):
    mining.Rule(**values)


def test_of_equal_neighbors_at_the_last_place_all_are_taken():
  x = jnp.float32([[0, 0], [0, 0], [0, 0], [3, 0], [9, 9]])
  g = bhattacharyya.gaussians(x, jnp.ones_like(x))
  for k, wanted in ((1, {0: 2, 3: 3}), (2, {0: 2, 3: 3}), (3, {0: 3, 3: 3})):
    rule = mining.Rule("top_k", k)
    t = mining.thresholds(g, rule)
    chosen = np.array(rule.distance(g, g) < t[:, None])
    np.fill_diagonal(chosen, False)
    assert {v: chosen[v].sum() for v in wanted} == wanted, k
