"""Soft contrast of sample pairs in tiles against the definition in float64."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from vssl_jax.losses import match
from vssl_jax.ops import bhattacharyya, mining

N, K, D = 12, 3, 5
RULE = mining.Rule("absolute", 3.0)
HASTY = {"xla_backend_optimization_level": 0}


def log_mean_exp(x):
  most = x.max(axis=(-2, -1), keepdims=True)
  return (most + np.log(np.mean(np.exp(x - most), axis=(-2, -1), keepdims=True)))[..., 0, 0]


def oracle(z, log_scale, slope, offset, positive, weight):
  """Σ over ordered pairs i ≠ j, and L_soft of all pairs, in float64."""
  apart = np.sqrt(np.square(z[:, None, :, None] - z[None, :, None]).sum(-1) + 1e-6)
  x = offset - slope * apart
  x = np.where(positive[..., None, None], x, -x)
  soft = -log_mean_exp(-np.logaddexp(0, -x))
  s = log_scale[:, None] + log_scale
  w = np.where(positive, *weight) * ~np.eye(len(z), dtype=bool)
  return np.sum(w * (soft / np.exp(s) + 0.5 * s)), soft


def case(seed=0, n=N):
  rng = np.random.default_rng(seed)
  z, log_scale = rng.normal(size=(n, K, D)), rng.normal(size=n)
  mean, variance = rng.normal(size=(n, D)), np.exp(rng.normal(size=(n, D)))
  g = bhattacharyya.gaussians(jnp.float32(mean), jnp.float32(variance))
  apart = np.array(bhattacharyya.distance(g, g))
  fixed = match.Fixed(
    g, jnp.full(n, 3.0), jnp.asarray(rng.integers(-1, 3, n), jnp.int32), jnp.float32([0.7, 0.2])
  )
  return (z, log_scale, 2.0, 3.0), fixed, apart < 3.0


@functools.cache
def compiled(block_size):
  def f(learned, fixed):
    return match.pair_sum(learned, fixed, RULE, block_size=block_size)

  return jax.jit(jax.value_and_grad(f, has_aux=True), compiler_options=HASTY)


def learned(arguments):
  return match.Learned(*map(jnp.float32, arguments))


@pytest.mark.parametrize("block_size", [5, N])
def test_sum_and_counts_match_float64(block_size):
  arguments, fixed, positive = case()
  (total, stats), _ = compiled(block_size)(learned(arguments), fixed)
  want, soft = oracle(*arguments, positive, (0.7, 0.2))
  np.testing.assert_allclose(total, want, rtol=1e-5)
  other = ~np.eye(N, dtype=bool)
  label = np.asarray(fixed.label)
  known = other & (label[:, None] >= 0) & (label >= 0)
  same = known & (label[:, None] == label)
  right = np.exp(-soft) > 0.5
  for name, pairs in {
    "positives": other & positive,
    "negatives": other & ~positive,
    "right_positives": other & positive & right,
    "right_negatives": other & ~positive & right,
    "labelled_positives": known & positive,
    "same_positives": same & positive,
    "same": same,
  }.items():
    assert stats[name] == pairs.sum(), name
  np.testing.assert_allclose(
    stats["soft"], np.sum(np.where(positive, 0.7, 0.2) * soft * other), rtol=1e-5
  )
  assert set(stats) == set(match.STATS)


def test_gradients_are_finite_differences_of_the_definition():
  arguments, fixed, positive = case()
  _, grads = compiled(5)(learned(arguments), fixed)
  rng = np.random.default_rng(1)
  for i, x in enumerate(arguments):
    towards, step = rng.normal(size=np.shape(x)), 1e-6
    ahead, behind = (
      oracle(
        *(a + (sign * step * towards if i == j else 0) for j, a in enumerate(arguments)),
        positive,
        (0.7, 0.2),
      )[0]
      for sign in (1, -1)
    )
    along = np.sum(np.asarray(grads[i]) * towards)
    np.testing.assert_allclose(along, (ahead - behind) / (2 * step), rtol=2e-4)


def test_it_is_part_of_an_objective():
  arguments, fixed, _ = case()
  once = compiled(N)(learned(arguments), fixed)[1]
  f = lambda v: 3.0 * match.pair_sum(v, fixed, RULE, block_size=N)[0] + jnp.sum(v.samples)
  grads = jax.jit(jax.grad(f), compiler_options=HASTY)(learned(arguments))
  np.testing.assert_allclose(grads.samples, 3 * once.samples + 1, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(grads.slope, 3 * once.slope, rtol=1e-5)


def test_stats_and_pairs_chosen_have_no_gradient():
  arguments, fixed, _ = case()

  def f(mean, threshold):
    some = fixed._replace(gaussians=fixed.gaussians._replace(mean=mean), threshold=threshold)
    total, stats = match.pair_sum(learned(arguments), some, RULE, block_size=N)
    return total + sum(stats.values())

  grads = jax.jit(jax.grad(f, (0, 1)), compiler_options=HASTY)(
    fixed.gaussians.mean, fixed.threshold
  )
  for g in grads:
    np.testing.assert_array_equal(g, 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("where", ["coincident", "far"])
def test_coincident_and_far_points_are_finite(dtype, where):
  (z, *rest), fixed, _ = case()
  z = np.ones_like(z) if where == "coincident" else 1e3 * z
  v = learned((z, *rest))._replace(samples=jnp.asarray(z, dtype).astype(jnp.float32))
  (total, _), grads = compiled(N)(v, fixed)
  assert np.isfinite(total)
  assert all(np.isfinite(g).all() for g in grads)


def test_limits_of_the_match_probability():
  apart = jnp.float32([0.0, 1.0, 50.0])[:, None, None] * jnp.ones((3, 2, 2))
  yes, no = (
    match.nll(apart, jnp.full(3, p), jnp.float32(30), jnp.float32(30)) for p in (True, False)
  )
  np.testing.assert_allclose(yes, [np.log1p(np.exp(-30)), np.log(2), 1470], rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(no, [30, np.log(2), 0], rtol=1e-6, atol=1e-7)
  # One near pair of K² is worth log K², whatever the others.
  one = jnp.float32([[0.0, 90.0], [90.0, 90.0]])
  np.testing.assert_allclose(match.nll(one, jnp.bool_(True), 30.0, 30.0), np.log(4), rtol=1e-6)


def test_best_scale_is_twice_the_loss():
  log_scale = jnp.linspace(-8, 4, 2401)
  for soft in (0.01, 0.3, 2.0):
    best = log_scale[jnp.argmin(match.stochastic(jnp.float32(soft), log_scale))]
    np.testing.assert_allclose(best, np.log(2 * soft), atol=0.006)


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
@hypothesis.given(
  seed=st.integers(0, 1000),
  scale=st.floats(0.01, 100),
  slope=st.floats(0.1, 40),
  offset=st.floats(-40, 40),
)
def test_any_batch_matches_float64(seed, scale, slope, offset):
  (z, log_scale, _, _), fixed, positive = case(seed)
  arguments = np.float32(scale * z).astype(np.float64), log_scale, slope, offset
  (total, _), grads = compiled(5)(learned(arguments), fixed)
  want, soft = oracle(*arguments, positive, (0.7, 0.2))
  size = np.abs(soft / np.exp(log_scale[:, None] + log_scale)).sum() + np.abs(log_scale).sum()
  np.testing.assert_allclose(total, want, rtol=1e-4, atol=1e-5 * size)
  assert all(np.isfinite(g).all() for g in grads)
  assert (soft >= -1e-12).all()


def test_memory_is_a_few_tiles_and_the_gradient():
  """4,096 videos of 8 samples: all distances would be 4.3 GB."""
  s = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  n, d = 4096, 16
  v = match.Learned(s(n, 8, d), s(n), s(), s())
  g = bhattacharyya.Gaussians(s(n, d), s(n, d))
  fixed = match.Fixed(g, s(n), jax.ShapeDtypeStruct((n,), jnp.int32), s(2))
  f = jax.jit(
    jax.value_and_grad(lambda v, f: match.pair_sum(v, f, RULE, block_size=64), has_aux=True),
    compiler_options=HASTY,
  )
  memory = f.lower(v, fixed).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 40e6
