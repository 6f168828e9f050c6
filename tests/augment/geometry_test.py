"""Flips and quarter turns against TensorFlow."""

import jax
import numpy as np
import pytest

from vssl_jax import augment


@pytest.fixture
def clip():
  return np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)


def test_flip(clip, tf):
  np.testing.assert_array_equal(augment.flip(clip), tf.image.flip_left_right(clip))


@pytest.mark.parametrize("turns", range(-1, 6))
def test_rotate(clip, tf, turns):
  expected = tf.image.rot90(clip, turns % 4)
  np.testing.assert_array_equal(augment.rotate(clip, turns), expected)
  np.testing.assert_array_equal(jax.jit(augment.rotate)(clip, turns), expected)


def test_four_turns_are_none(clip):
  out = clip
  for _ in range(4):
    out = augment.rotate(out, 1)
  np.testing.assert_array_equal(out, clip)
  assert out.dtype == np.uint8
