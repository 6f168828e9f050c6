"""Moments of mixtures, samples and divergences of diagonal Gaussians against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from vssl_jax.errors import UserError
from vssl_jax.ops import gaussian


def clips(n=5, r=4, d=6, seed=0):
  """Unit means and log σ² of r clips of n videos, float64."""
  rng = np.random.default_rng(seed)
  mean = rng.normal(size=(n, r, d))
  mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
  return mean, rng.normal(size=(n, r, d)) - 2


def test_mixture_is_the_law_of_total_variance():
  mean, log_variance = clips()
  got_mean, got_variance = gaussian.mixture(jnp.float32(mean), jnp.float32(log_variance))
  want = mean.mean(1)
  np.testing.assert_allclose(got_mean, want, rtol=1e-5, atol=1e-6)
  second = (np.exp(log_variance) + mean**2).mean(1)  # E[z²], as the paper writes it
  np.testing.assert_allclose(got_variance, second - want**2, rtol=1e-5)
  assert (got_variance >= np.exp(log_variance).mean(1) * (1 - 1e-6)).all()


def test_variance_of_unit_means_sums_to_what_their_mean_lacks():
  mean, _ = clips()
  center, variance = gaussian.mixture(jnp.float32(mean), jnp.full(mean.shape, -60.0))
  np.testing.assert_allclose(variance.sum(1), 1 - np.sum(np.square(center), axis=1), rtol=1e-5)


def test_equal_clips_add_no_variance_and_a_mixture_s_draws_have_these_moments():
  mean, log_variance = clips(n=1, d=2)
  _, variance = gaussian.mixture(
    jnp.float32(mean[:, :1].repeat(4, 1)), jnp.float32(log_variance[:, :1].repeat(4, 1))
  )
  np.testing.assert_allclose(variance[0], np.exp(log_variance[0, 0]), rtol=1e-5)
  rng = np.random.default_rng(1)
  which = rng.integers(0, 4, 400_000)
  z = mean[0, which] + np.exp(log_variance[0, which] / 2) * rng.normal(size=(400_000, 2))
  center, variance = gaussian.mixture(jnp.float32(mean), jnp.float32(log_variance))
  np.testing.assert_allclose(z.mean(0), center[0], atol=5e-3)
  np.testing.assert_allclose(z.var(0), variance[0], rtol=0.02)


def test_samples_have_the_moments_and_the_gradient_of_a_reparametrization():
  keys = jax.random.split(jax.random.key(0), 2)
  mean, variance = jnp.float32([[1, -2], [0, 3]]), jnp.float32([[0.5, 2], [1e-4, 1]])
  noise = gaussian.noise(keys, 20_000, 2)
  z = gaussian.sample(noise, mean, variance)
  np.testing.assert_allclose(z.mean(1), mean, atol=0.03)
  np.testing.assert_allclose(z.var(1), variance, rtol=0.05)
  np.testing.assert_array_equal(gaussian.noise(keys[1:], 20_000, 2)[0], noise[1])
  by_mean, by_variance = jax.grad(lambda m, v: jnp.sum(gaussian.sample(noise, m, v)[:, 3]), (0, 1))(
    mean, variance
  )
  np.testing.assert_array_equal(by_mean, 1)
  np.testing.assert_allclose(by_variance, noise[:, 3] / (2 * np.sqrt(variance)), rtol=1e-5)


def test_divergence_by_integration():
  mean, log_variance = clips(n=3, r=1, d=2)
  mean, log_variance = mean[:, 0], log_variance[:, 0]
  want = np.zeros(3)
  for i in range(3):
    for m, v in zip(mean[i], np.exp(log_variance[i]), strict=True):
      p = stats.norm(m, np.sqrt(v))
      want[i] += integrate.quad(
        lambda z: p.pdf(z) * (p.logpdf(z) - stats.norm.logpdf(z)), m - 8 * v**0.5, m + 8 * v**0.5
      )[0]
  got = gaussian.kl_to_standard(jnp.float32(mean), jnp.float32(log_variance))
  np.testing.assert_allclose(got, want, rtol=1e-4)
  near = gaussian.kl_to_standard(jnp.zeros((1, 3)), jnp.full((1, 3), 1e-3))
  np.testing.assert_allclose(near, 3 * (np.expm1(1e-3) - 1e-3) / 2, rtol=1e-3)
  assert gaussian.kl_to_standard(jnp.zeros((1, 3)), jnp.zeros((1, 3))) == 0


def test_variance_as_one_number():
  v = np.exp(clips()[1][:, 0])
  for kind, want in (
    ("trace", v.sum(1)),
    ("mean", v.mean(1)),
    ("geometric", np.prod(v, axis=1) ** (1 / 6)),
  ):
    np.testing.assert_allclose(
      gaussian.log_scalar(jnp.float32(v), kind), np.log(want), rtol=1e-4, atol=1e-5
    )
  with pytest.raises(UserError, match="trace, geometric, mean"):
    gaussian.log_scalar(jnp.float32(v), "max")
