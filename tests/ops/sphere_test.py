import jax
import jax.numpy as jnp
import numpy as np

from vssl_jax.ops import sphere


def test_unit_vectors_in_float32():
  x = np.random.default_rng(0).standard_normal((3, 4, 5)) * np.logspace(-4, 9, 4)[:, None]
  got = sphere.l2_normalize(jnp.asarray(x, jnp.bfloat16))
  exact = np.float64(jnp.asarray(x, jnp.bfloat16))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, exact / np.linalg.norm(exact, axis=-1, keepdims=True), rtol=1e-6)


def test_no_direction_is_zero_with_zero_gradient():
  x = jnp.asarray([[0.0, 0.0], [1e-8, 0.0], [3.0, 4.0]])
  np.testing.assert_allclose(sphere.l2_normalize(x), [[0, 0], [0, 0], [0.6, 0.8]], rtol=1e-6)
  grad = jax.grad(lambda x: jnp.sum(sphere.l2_normalize(x) * jnp.asarray([1.0, 2.0])))(x)
  # (g − z (z · g)) / ‖x‖ with z = (0.6, 0.8), g = (1, 2).
  np.testing.assert_allclose(grad, [[0, 0], [0, 0], [-0.064, 0.048]], rtol=1e-5)


def test_not_finite_stays_so():
  assert np.isnan(sphere.l2_normalize(jnp.asarray([np.nan, 1.0]))).all()
  assert np.isnan(sphere.l2_normalize(jnp.asarray([np.inf, 1.0]))).any()
