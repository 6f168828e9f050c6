"""The Gaussian head by hand: unit means, one variance for all at the start, a clamp."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax.models.gaussian_head import GaussianHead


def _variables(head, x, seed=0):
  """Random parameters in place of the initial ones."""
  rng = np.random.default_rng(seed)
  variables = head.init(jax.random.key(0), x)
  random = lambda a: jnp.float32(rng.normal(size=a.shape))
  return {**variables, "params": jax.tree.map(random, variables["params"])}


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_heads_by_hand(hidden):
  x = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
  head = GaussianHead(out=3, hidden=hidden, clamp=(-1.0, 2.0))
  variables = _variables(head, x)
  p = variables["params"]
  assert set(p) == {"mean", "mean_norm", "log_variance"} | (
    {"dense_0", "norm_0"} if hidden else set()
  )
  got, _ = head.apply(variables, x, train=True, mutable=["batch_stats"])
  y = np.float64(x)
  if hidden:
    y = y @ p["dense_0"]["kernel"] + p["dense_0"]["bias"]
    y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5) * p["norm_0"]["scale"] + p["norm_0"]["bias"]
    y = np.maximum(y, 0)
  mean = y @ p["mean"]["kernel"] + p["mean"]["bias"]
  mean = (mean - mean.mean(1, keepdims=True)) / np.sqrt(mean.var(1, keepdims=True) + 1e-6)
  mean = mean * p["mean_norm"]["scale"] + p["mean_norm"]["bias"]
  mean /= np.linalg.norm(mean, axis=1, keepdims=True)
  np.testing.assert_allclose(got["mean"], mean, rtol=1e-3, atol=1e-4)
  log_variance = np.clip(y @ p["log_variance"]["kernel"] + p["log_variance"]["bias"], -1, 2)
  np.testing.assert_allclose(got["log_variance"], log_variance, rtol=1e-4, atol=1e-4)
  assert ((log_variance == -1) | (log_variance == 2)).any()


@pytest.mark.parametrize("trace", [1.0, 0.25])
def test_every_clip_starts_with_the_same_trace(trace):
  x = 10 * np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
  head = GaussianHead(out=64, trace=trace)
  got = head.apply(head.init(jax.random.key(0), x), x)
  np.testing.assert_allclose(np.exp(got["log_variance"]).sum(1), trace, rtol=1e-4)
  np.testing.assert_allclose(np.linalg.norm(got["mean"], axis=1), 1, rtol=1e-5)
  assert np.std(got["mean"][:, 0]) > 0.01


def test_bfloat16_features_give_float32_moments():
  x = jnp.ones((2, 5), jnp.bfloat16)
  head = GaussianHead(out=4, dtype=jnp.bfloat16)
  got = head.apply(head.init(jax.random.key(0), x), x)
  assert got["mean"].dtype == got["log_variance"].dtype == jnp.float32


def test_gradient_is_finite_where_features_are_zero_and_stops_at_the_clamp():
  x = jnp.zeros((2, 5))
  head = GaussianHead(out=4, clamp=(-1.0, 2.0))
  variables = head.init(jax.random.key(0), x)

  def f(params, name):
    return jnp.sum(head.apply({"params": params}, x)[name] ** 2)

  for name in ("mean", "log_variance"):
    for g in jax.tree.leaves(jax.grad(f)(variables["params"], name)):
      assert np.isfinite(g).all()
  # −log 4 lies below −1.
  np.testing.assert_array_equal(
    jax.grad(f)(variables["params"], "log_variance")["log_variance"]["bias"], 0
  )


def test_variances_are_float32_whatever_the_products():
  head = GaussianHead(8, dtype=jnp.bfloat16)
  x = jnp.ones((2, 4))
  variables = head.init(jax.random.key(0), x)
  bias = variables["params"]["log_variance"]["bias"]
  before = head.apply(variables, x)["log_variance"]
  variables["params"]["log_variance"]["bias"] = bias + 1e-3
  np.testing.assert_allclose(head.apply(variables, x)["log_variance"] - before, 1e-3, rtol=1e-2)
