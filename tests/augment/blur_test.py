"""Blur against TensorFlow's depthwise convolutions and a float64 double sum."""

import numpy as np
import pytest

from vssl_jax import augment
from vssl_jax.augment import blur


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0, 9.0])
@pytest.mark.parametrize("kernel", [3, 5, 23])
def test_against_tensorflow(tf_blur, kernel, sigma):
  clip = np.random.default_rng(1).random((3, 24, 13, 3), np.float32)
  ours = augment.gaussian_blur(clip, sigma, kernel)
  np.testing.assert_allclose(ours, tf_blur(clip, kernel, sigma), rtol=0, atol=1e-6)


def test_against_the_double_sum():
  rng = np.random.default_rng(2)
  clip = rng.random((1, 7, 8, 1), np.float32)
  ours = augment.gaussian_blur(clip, 1.3, 5)
  x = np.arange(-2, 3)
  g = np.exp(-(x**2) / (2 * 1.3**2))
  g /= g.sum()
  padded = np.pad(clip[0, :, :, 0].astype(np.float64), 2)
  theirs = [
    [(padded[i : i + 5, j : j + 5] * np.outer(g, g)).sum() for j in range(8)] for i in range(7)
  ]
  np.testing.assert_allclose(ours[0, :, :, 0], theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 23])
@pytest.mark.parametrize("sigma", [0.1, 0.1001, 1.0, 50.0])
def test_weights_sum_to_one(count, sigma):
  half = np.asarray(blur.weights(sigma, count), np.float64)
  assert half.shape == (count // 2 + 1,)
  assert np.isfinite(half).all()
  assert half[0] + 2 * half[1:].sum() == pytest.approx(1, abs=1e-6)
  assert (np.diff(half) <= 0).all()


def test_taps_follow_the_original():
  assert blur.taps(224) == 23  # asked for 22
  assert blur.taps(56) == 5
  assert blur.taps(32) == 3
  assert blur.taps(16) == 1
  assert blur.taps(224, kernel=9) == 9


def test_frames_do_not_mix():
  clip = np.zeros((3, 8, 8, 3), np.float32)
  clip[1] = 1.0
  out = np.asarray(augment.gaussian_blur(clip, 2.0, 5))
  assert (out[[0, 2]] == 0).all()
  assert out[1, 4, 4, 0] == pytest.approx(1, abs=1e-6)
