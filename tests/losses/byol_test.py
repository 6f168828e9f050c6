"""BYOL's loss: NumPy in float64 and the squared distance it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import negative_cosine


def pair(n=8, d=5, seed=0):
  rng = np.random.default_rng(seed)
  return tuple(jnp.asarray(rng.standard_normal((n, d)), jnp.float32) for _ in range(2))


def oracle(p, k, t):
  p, k = np.asarray(p, np.float64), np.asarray(k, np.float64)
  length = np.linalg.norm(p, axis=1, keepdims=True)
  u, v = p / length, k / np.linalg.norm(k, axis=1, keepdims=True)
  cosine = np.sum(u * v, axis=1, keepdims=True)
  return -cosine.mean() / t, -(v - u * cosine) / length / t / len(p)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 0.1])
def test_value_and_gradient_match_float64(temperature):
  p, k = pair()
  value, grad = jax.value_and_grad(negative_cosine)(p, k, temperature)
  want, wanted = oracle(p, k, temperature)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  np.testing.assert_allclose(grad, wanted, rtol=1e-4, atol=1e-6)


def test_default_is_the_squared_distance_of_unit_vectors():
  """BYOL, eq. 2: ‖p̄ − k̄‖² = 2 + the loss."""
  p, k = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in pair())
  squared = jnp.mean(jnp.sum((p - k) ** 2, axis=1))
  np.testing.assert_allclose(2 + negative_cosine(p, k), squared, rtol=1e-5)


def test_extremes():
  p, _ = pair()
  np.testing.assert_allclose(negative_cosine(p, 3 * p, 0.5), -2, rtol=1e-6)
  np.testing.assert_allclose(negative_cosine(p, -p, 0.5), 2, rtol=1e-6)


def test_gradient_is_finite_at_zero_and_coincident_points_and_none_goes_to_the_target():
  p, k = pair()
  p = p.at[0].set(0).at[1].set(k[1]).at[2].set(1e-30)
  k = k.at[3].set(0)
  dp, dk = jax.grad(negative_cosine, (0, 1))(p, k)
  assert np.isfinite(dp).all()
  assert not np.any(dp[np.array([0, 2, 3])])
  np.testing.assert_allclose(dp[1], 0, atol=1e-6)
  assert not np.any(dk)


def test_half_precision_inputs_are_computed_in_float32():
  p, k = (x.astype(jnp.bfloat16) for x in pair(64))
  value = negative_cosine(p, k)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, oracle(p, k, 0.5)[0], rtol=1e-5)


def test_eight_devices_equal_one():
  mesh = parallel.make_mesh(jax.devices()[:8])
  p, k = pair(16)
  split = jax.device_put((p, k), NamedSharding(mesh, PartitionSpec("data")))
  f = jax.jit(jax.value_and_grad(negative_cosine))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), f(*split), f(p, k))


def test_bad_input_is_named():
  p, k = pair()
  with pytest.raises(UserError, match=r"\[N, D\] alike"):
    negative_cosine(p, k[:3])
  with pytest.raises(UserError, match="temperature"):
    negative_cosine(p, k, 0.0)
