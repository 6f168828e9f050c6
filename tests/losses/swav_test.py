"""Code prediction against NumPy in float64; prototype statistics against counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import code_cross_entropy, prototype_statistics


def tensors(n=8, k=5, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  codes = rng.gamma(0.3, size=(n, k)) + 1e-6
  codes /= codes.sum(axis=1, keepdims=True)
  scores = scale * rng.uniform(-1, 1, (n, k))
  return jnp.asarray(scores, jnp.float32), jnp.asarray(codes, jnp.float32)


def oracle(scores, codes, t):
  scores, codes = np.asarray(scores, np.float64) / t, np.asarray(codes, np.float64)
  shifted = scores - scores.max(axis=1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
  grad = (np.exp(log_p) * codes.sum(axis=1, keepdims=True) - codes) / t / len(codes)
  return -np.mean(np.sum(codes * log_p, axis=1)), grad


@pytest.mark.parametrize(("temperature", "scale"), [(0.1, 1.0), (1.0, 1.0), (0.1, 1e4)])
def test_value_and_gradient_match_float64(temperature, scale):
  scores, codes = tensors(scale=scale)
  value, grad = jax.value_and_grad(code_cross_entropy)(scores, codes, temperature)
  want, wanted = oracle(scores, codes, np.float64(np.float32(temperature)))
  np.testing.assert_allclose(value, want, rtol=1e-5)
  np.testing.assert_allclose(grad, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_least_where_the_prediction_is_the_code():
  """Gibbs: cross-entropy of a distribution with itself is its entropy; the gradient vanishes."""
  _, codes = tensors()
  value, grad = jax.value_and_grad(code_cross_entropy)(0.1 * jnp.log(codes), codes, 0.1)
  entropy = -np.mean(np.sum(np.asarray(codes) * np.log(codes), axis=1))
  np.testing.assert_allclose(value, entropy, rtol=1e-5)
  np.testing.assert_allclose(grad, 0, atol=1e-5)


def test_equal_scores_give_log_k_and_codes_get_no_gradient():
  _, codes = tensors()
  value, grads = jax.value_and_grad(code_cross_entropy, (0, 1))(jnp.zeros((8, 5)), codes, 0.1)
  np.testing.assert_allclose(value, np.log(5), rtol=1e-6)
  assert np.isfinite(grads[0]).all()
  assert np.any(grads[0])
  assert not np.any(grads[1])


def test_half_precision_scores_are_computed_in_float32():
  scores, codes = tensors(64)
  low = scores.astype(jnp.bfloat16)
  value = code_cross_entropy(low, codes, 0.1)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, oracle(low, codes, 0.1)[0], rtol=1e-5)


def test_eight_devices_equal_one():
  mesh = parallel.make_mesh(jax.devices()[:8])
  scores, codes = tensors(16)

  @jax.jit
  def both(scores, codes):
    loss = jax.value_and_grad(code_cross_entropy)(scores, codes, 0.1)
    return loss, prototype_statistics(scores)

  split = jax.device_put((scores, codes), NamedSharding(mesh, PartitionSpec("data")))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7),
    both(*split),
    both(scores, codes),
  )


@pytest.mark.parametrize("shape", [(40, 6), (4, 30)])
def test_prototype_statistics_count_nearest_prototypes(shape):
  scores, _ = tensors(*shape, seed=2)
  share = np.bincount(np.argmax(scores, axis=1), minlength=shape[1]) / shape[0]
  got = jax.jit(prototype_statistics)(scores)
  entropy = -np.sum(share[share > 0] * np.log(share[share > 0]))
  np.testing.assert_allclose(got["prototype_entropy"], entropy, rtol=1e-5)
  np.testing.assert_allclose(got["prototype_usage"], np.sum(share > 0) / min(shape), rtol=1e-6)


def test_prototype_statistics_at_the_ends():
  even = prototype_statistics(jnp.tile(jnp.eye(4), (3, 1)))
  np.testing.assert_allclose(even["prototype_entropy"], np.log(4), rtol=1e-6)
  assert even["prototype_usage"] == 1
  rounding = 1e-7 * jax.random.normal(jax.random.key(0), (12, 4))
  assert prototype_statistics(0.5 + rounding)["prototype_entropy"] == 0
  one = prototype_statistics(jnp.zeros((12, 4)).at[:, 2].set(0.1))
  assert one["prototype_entropy"] == 0
  assert one["prototype_usage"] == 0.25


def test_bad_input_is_named():
  scores, codes = tensors()
  with pytest.raises(UserError, match=r"\[N, K\] alike"):
    code_cross_entropy(scores, codes[:, :3], 0.1)
  with pytest.raises(UserError, match="temperature"):
    code_cross_entropy(scores, codes, -1.0)
