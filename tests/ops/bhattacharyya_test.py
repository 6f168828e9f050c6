"""Distances of diagonal Gaussians: closed form, integral, and the double sum over samples."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import integrate, stats

from vssl_jax.errors import UserError
from vssl_jax.ops import bhattacharyya


def batch(n, d, seed=0, spread=1.0):
  """Means and variances, float64."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, d)), np.exp(spread * rng.normal(size=(n, d)))


def oracle(mean, variance, weight=0.25):
  """The definition for all pairs, in float64."""
  total = variance[:, None] + variance[None]
  apart = np.square(mean[:, None] - mean[None])
  ratio = variance[:, None] / variance[None]
  log = 0.25 * np.log((ratio + 1 / ratio + 2) / 4)  # as the paper has it, one dimension each
  return np.sum(weight * apart / total + log, axis=-1)


@functools.cache
def compiled(weight=0.25, form="diagonal", samples=False):
  def f(mean, variance, z):
    g = bhattacharyya.gaussians(mean, variance, z if samples else None)
    return bhattacharyya.distance(g, g, weight, form)

  return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def ours(mean, variance, z=None, **options):
  z = None if z is None else jnp.float32(z)
  f = compiled(samples=z is not None, **options)
  return np.asarray(f(jnp.float32(mean), jnp.float32(variance), z))


@pytest.mark.parametrize("d", [1, 5, 16, 37])
@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_moments_match_the_definition(d, weight):
  mean, variance = batch(7, d)
  np.testing.assert_allclose(
    ours(mean, variance, weight=weight), oracle(mean, variance, weight), rtol=2e-5, atol=1e-5
  )


def test_a_quarter_is_bhattacharyya_s_distance():
  """Closed form with determinants in five dimensions; the integral of √(pq) in one."""
  mean, variance = batch(2, 5, seed=1)
  average = variance.mean(0)
  delta = mean[0] - mean[1]
  want = delta @ np.diag(1 / average) @ delta / 8 + 0.5 * np.log(
    np.prod(average) / np.sqrt(np.prod(variance[0]) * np.prod(variance[1]))
  )
  np.testing.assert_allclose(ours(mean, variance)[0, 1], want, rtol=1e-5)
  mean, variance = batch(2, 1, seed=2)
  p, q = (stats.norm(m[0], v[0] ** 0.5) for m, v in zip(mean, variance, strict=True))
  overlap = integrate.quad(lambda z: np.sqrt(p.pdf(z) * q.pdf(z)), -40, 40, points=[0, *mean[:, 0]])
  np.testing.assert_allclose(ours(mean, variance)[0, 1], -np.log(overlap[0]), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_samples_equal_the_double_sum(k):
  mean, variance = batch(6, 9)
  z = mean[:, None] + np.sqrt(variance)[:, None] * np.random.default_rng(3).normal(size=(6, k, 9))
  want = np.zeros((6, 6))
  for i in range(6):
    for j in range(6):
      for a in range(k):
        for b in range(k):
          pair = np.stack([z[i, a], z[j, b]]), np.stack([variance[i], variance[j]])
          want[i, j] += oracle(*pair, weight=0.7)[0, 1] / k**2
  np.testing.assert_allclose(ours(mean, variance, z, weight=0.7), want, rtol=2e-5, atol=1e-6)


def test_samples_add_weight_times_dimensions_on_average():
  mean, variance = batch(2, 8)
  z = mean[:, None] + np.sqrt(variance)[:, None] * np.random.default_rng(0).normal(
    size=(2, 20_000, 8)
  )
  got = ours(mean, variance, z)[0, 1]
  np.testing.assert_allclose(got, oracle(mean, variance)[0, 1] + 0.25 * 8, rtol=0.01)


def test_far_scales_and_close_points_keep_their_digits():
  """log σ² from −10 to 4, as the heads' clamp allows, and a mean far from 0."""
  rng = np.random.default_rng(0)
  variance = np.exp(rng.uniform(-10, 4, (9, 64)))
  mean = rng.normal(size=(9, 64))
  mean[1] = mean[0] + 1e-3 * np.sqrt(variance[0])
  variance[1] = variance[0]
  mean = np.float32(mean).astype(np.float64)
  got, want = ours(mean, variance), oracle(mean, variance)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-3)
  tiny = variance * 1e-12
  got, want = ours(mean, tiny), oracle(mean, tiny)
  # A mean is rounded as it is taken in its unit: little of it, and much of a small difference.
  off = 2.0**-23 * np.abs(mean)
  off = (off[:, None] + off) * ~np.eye(9, dtype=bool)[..., None]
  apart = np.abs(mean[:, None] - mean)
  allowed = 0.25 * np.sum((2 * apart + off) * off / (tiny[:, None] + tiny), axis=-1)
  assert np.all(np.abs(got - want) <= allowed + 1e-5 * want + 1)
  assert np.all(allowed < 0.05 * want + 1)
  extreme = np.exp(np.where(rng.random((6, 32)) < 0.5, -19.0, 19.0))
  np.testing.assert_allclose(
    ours(0 * extreme, extreme), oracle(0 * extreme, extreme), rtol=1e-4, atol=1e-3
  )


@pytest.mark.parametrize("form", ["diagonal", "reviewed"])
def test_reviewed_form_is_the_same_in_one_dimension(form):
  mean, variance = batch(6, 1)
  z = mean[:, None] + np.random.default_rng(3).normal(size=(6, 4, 1))
  np.testing.assert_allclose(ours(mean, variance, form=form), oracle(mean, variance), atol=1e-5)
  np.testing.assert_allclose(
    ours(mean, variance, z, form=form), ours(mean, variance, z), rtol=1e-4, atol=1e-5
  )


def test_reviewed_form_in_more_dimensions_divides_by_the_trace():
  mean, variance = batch(4, 5)
  s = variance.sum(1)
  ratio = s[:, None] / s
  want = 0.25 * np.log((ratio + 1 / ratio + 2) / 4) + 0.25 * np.sum(
    (mean[:, None] - mean) ** 2, axis=-1
  ) / (s[:, None] + s)
  np.testing.assert_allclose(ours(mean, variance, form="reviewed"), want, rtol=1e-4, atol=1e-5)


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True, database=None)
@hypothesis.given(seed=st.integers(0, 1000), spread=st.floats(0, 3), step=st.floats(0.01, 5))
def test_properties(seed, spread, step):
  mean, variance = batch(5, 7, seed, spread)
  got = ours(mean, variance)
  assert (got >= 0).all()
  np.testing.assert_allclose(np.diag(got), 0, atol=1e-5)
  np.testing.assert_allclose(got, got.T, rtol=1e-5, atol=1e-5)
  # Along a line from one mean the distance grows.
  line = mean[:1] + np.arange(5)[:, None] * step * np.ones((1, 7))
  along = ours(line, variance[:1].repeat(5, 0))[0]
  assert (np.diff(along) > 0).all()
  # And it does not depend on the unit of length.
  np.testing.assert_allclose(ours(100 * mean, 1e4 * variance), got, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_computed_in_float32():
  mean, variance = (jnp.asarray(x, jnp.bfloat16) for x in batch(4, 5))
  g = bhattacharyya.gaussians(mean, variance)
  got = bhattacharyya.distance(g, g)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(
    got, oracle(np.float64(mean), np.float64(variance)), rtol=1e-4, atol=1e-5
  )


def test_bad_input_is_named():
  a, b = (bhattacharyya.gaussians(*map(jnp.float32, batch(3, d))) for d in (4, 5))
  with pytest.raises(UserError, match=r"\[N, D\] and \[M, D\]"):
    bhattacharyya.distance(a, b)
  with pytest.raises(UserError, match="diagonal, reviewed"):
    bhattacharyya.distance(a, a, form="full")
  with pytest.raises(UserError, match="either both"):
    bhattacharyya.distance(a, a._replace(spread=a.variance))
