"""TensorFlow's own operations, composed as CVRL's published pipeline composes them."""

import functools

import numpy as np
import pytest

from vssl_jax.augment import draws


def _blur(tf, clip, kernel, sigma):
  """Two depthwise convolutions."""
  radius = kernel // 2
  x = tf.range(-radius, radius + 1, dtype=tf.float32)
  g = tf.exp(-(x**2) / (2.0 * sigma**2))
  g = g / tf.reduce_sum(g)
  rows = tf.tile(tf.reshape(g, (1, -1, 1, 1)), (1, 1, clip.shape[-1], 1))
  columns = tf.tile(tf.reshape(g, (-1, 1, 1, 1)), (1, 1, clip.shape[-1], 1))
  out = tf.nn.depthwise_conv2d(clip, rows, [1, 1, 1, 1], "SAME")
  return tf.nn.depthwise_conv2d(out, columns, [1, 1, 1, 1], "SAME")


def _jitter(tf, image, d):
  """One tall image, in the drawn order."""
  ops = (
    lambda x: x * float(d.brightness),
    lambda x: tf.image.adjust_contrast(x, float(d.contrast)),
    lambda x: tf.image.adjust_saturation(x, float(d.saturation)),
    lambda x: tf.image.adjust_hue(x, float(d.hue)),
  )
  for k in draws.ORDERS[int(d.order)]:
    image = tf.clip_by_value(ops[k](image), 0.0, 1.0)
  return image


def _clip(tf, clip, d, view):
  """A whole uint8 clip with our draw; normalization left out."""
  frames = tf.image.rot90(clip, int(d.turns))
  frames = tf.image.flip_left_right(frames) if d.flip else frames
  frames = tf.image.convert_image_dtype(frames, tf.float32)
  shape = frames.shape
  image = tf.reshape(frames, (-1, shape[2], 3))
  image = _jitter(tf, image, d) if d.jitter else image
  if d.gray:
    image = tf.tile(tf.image.rgb_to_grayscale(image), (1, 1, 3))
  frames = tf.reshape(image, shape)
  if d.blur:
    frames = _blur(tf, frames, view.taps, float(d.sigma))
  if d.solarize:
    frames = tf.where(frames < view.solarize_threshold, frames, 1.0 - frames)
  if d.invert:
    frames = 1.0 - frames
  return tf.clip_by_value(frames, 0.0, 1.0).numpy()


@pytest.fixture(scope="session")
def tf_blur(tf):
  return functools.partial(_blur, tf)


@pytest.fixture(scope="session")
def tf_jitter(tf):
  return functools.partial(_jitter, tf)


@pytest.fixture(scope="session")
def tf_clip(tf):
  return functools.partial(_clip, tf)


@pytest.fixture(scope="session")
def clips():
  """uint8 [8, 2, 3, 32, 32, 3], blocks of color with some noise."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 230, (8, 2, 3, 4, 4, 3)).repeat(8, 3).repeat(8, 4)
  return (coarse + rng.integers(0, 26, coarse.shape)).astype(np.uint8)
