"""Color operations against the TensorFlow functions they stand for."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vssl_jax import augment
from vssl_jax.augment import color

# Saturated, grey, black and white pixels beside random ones: where HSV has its corners.
_CORNERS = np.array(
  [[r, g, b] for r in (0, 0.5, 1) for g in (0, 0.5, 1) for b in (0, 0.5, 1)], np.float32
)


@pytest.fixture(scope="module")
def clip():
  rng = np.random.default_rng(0)
  values = rng.random((4, 6, 9, 3), np.float32)
  values[1] = rng.integers(0, 256, (6, 9, 3)) / np.float32(255)  # many ties
  values[2].reshape(-1, 3)[:27] = _CORNERS
  return values


@pytest.fixture(scope="module")
def tall(clip, tf):
  """The clip's frames as one tall image of TensorFlow's."""
  return tf.reshape(tf.constant(clip), (-1, *clip.shape[2:]))


def close(ours, theirs, tolerance=2e-6):
  np.testing.assert_allclose(ours, np.reshape(theirs, ours.shape), rtol=0, atol=tolerance)


@pytest.mark.parametrize("factor", [0.0, 0.2, 1.0, 1.8])
def test_brightness(clip, tf, factor):
  close(augment.adjust_brightness(clip, factor), tf.clip_by_value(clip * factor, 0.0, 1.0))


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.9, 1.0, 1.8])
def test_contrast_about_the_clip_mean(clip, tall, tf, factor):
  theirs = tf.clip_by_value(tf.image.adjust_contrast(tall, factor), 0.0, 1.0)
  close(augment.adjust_contrast(clip, factor), theirs)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.5])
def test_contrast_about_the_grey_mean(clip, factor):
  grey = (clip.astype(np.float64) @ np.array([0.2989, 0.587, 0.114])).mean()
  close(
    augment.adjust_contrast(clip, factor, mean="grey"),
    np.clip(factor * clip + (1 - factor) * grey, 0, 1),
  )


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.7, 1.0, 1.8, 30.0])
def test_saturation(clip, tall, tf, factor):
  close(augment.adjust_saturation(clip, factor), tf.image.adjust_saturation(tall, factor))


@pytest.mark.parametrize("delta", [-1.0, -0.7, -0.5, -0.2, -0.01, 0.0, 0.15, 0.2, 0.5, 0.9])
def test_hue(clip, tall, tf, delta):
  close(augment.adjust_hue(clip, delta), tf.image.adjust_hue(tall, delta))


def test_hue_against_the_standard_library(clip):
  def one(pixel):
    h, s, v = colorsys.rgb_to_hsv(*pixel.astype(np.float64))
    return colorsys.hsv_to_rgb((h + 0.13) % 1.0, s, v)

  close(augment.adjust_hue(clip, 0.13), np.array([one(p) for p in clip.reshape(-1, 3)]))


def test_hue_and_saturation_at_once_is_one_after_the_other(clip, tall, tf):
  both = color.merge(color.hue_saturation(color.split(clip), 0.17, 1.6))
  close(both, tf.image.adjust_hue(tf.image.adjust_saturation(tall, 1.6), 0.17))
  close(both, tf.image.adjust_saturation(tf.image.adjust_hue(tall, 0.17), 1.6))


def test_grayscale(clip, tall, tf):
  theirs = tf.tile(tf.image.rgb_to_grayscale(tall), [1, 1, 3])
  close(augment.to_grayscale(clip), theirs)


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 1.0])
def test_solarize(clip, threshold):
  theirs = np.where(clip < np.float32(threshold), clip, np.float32(1) - clip)
  np.testing.assert_array_equal(augment.solarize(clip, threshold), theirs)


@pytest.mark.parametrize(
  "op",
  [
    lambda x: augment.adjust_brightness(x, 1.0),
    lambda x: augment.adjust_contrast(x, 1.0),
    lambda x: augment.adjust_contrast(x, 1.0, mean="grey"),
  ],
)
def test_rest_position_is_exact(clip, op):
  np.testing.assert_array_equal(op(clip), clip)


_unit = st.floats(0, 1, width=32)


@settings(max_examples=200, deadline=None)
@given(
  st.lists(st.tuples(_unit, _unit, _unit), min_size=1, max_size=8),
  st.floats(-0.5, 0.5),
  st.floats(0, 100),
)
def test_hue_saturation_stays_in_range(pixels, hue, saturation):
  pixels = (pixels * 8)[:8]  # one shape: compiled once
  planes = color.split(jnp.asarray(pixels, jnp.float32))
  out = np.asarray(jax.jit(color.hue_saturation)(planes, hue, saturation))
  assert np.isfinite(out).all()
  assert out.min() >= -1e-6
  assert out.max() <= 1 + 1e-6
  np.testing.assert_allclose(out.max(0), np.max(pixels, axis=1), atol=1e-6)  # V stays
