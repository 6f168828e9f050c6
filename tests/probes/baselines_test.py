"""Baselines see what they say they see, and averaging areas is exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vssl_jax.errors import UserError
from vssl_jax.probes import baselines


def _clips(n=3, t=5, h=12, w=12, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, t, h, w, 3), np.uint8)


def test_shrinking_by_a_whole_factor_is_the_block_mean():
  x = _clips()
  blocks = x.reshape(3, 5, 4, 3, 4, 3, 3).mean((3, 5)) / 255.0
  np.testing.assert_allclose(baselines.shrink(x, 4), blocks, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_shrinking_keeps_the_mean(h, w, side):
  x = _clips(1, 1, h, w)
  small = baselines.shrink(x, side)
  assert small.shape == (1, 1, side, side, 3)
  np.testing.assert_allclose(small.mean((2, 3)), x.mean((2, 3)) / 255.0, rtol=1e-5)


def test_overlap_by_hand():
  # Three pixels into two cells: the middle one is shared.
  np.testing.assert_allclose(baselines._overlap(3, 2), np.array([[2, 1, 0], [0, 1, 2]]) / 3)


def test_what_each_baseline_sees():
  x = _clips(t=5, h=32, w=32)
  frame = baselines.middle_frame(x)
  np.testing.assert_allclose(frame, baselines.shrink(x[:, 2], 16).reshape(3, -1))
  assert baselines.small_clip(x).shape == (3, 4 * 8 * 8 * 3)
  still = np.repeat(x[:, :1], 5, axis=1)
  first = baselines.shrink(x[:, 0], 8).reshape(3, -1)
  np.testing.assert_allclose(baselines.small_clip(still), np.tile(first, (1, 4)))
  colors = baselines.color_means(x).reshape(3, 5, 3)
  np.testing.assert_allclose(colors, x.mean((2, 3)), rtol=1e-6)
  shuffled = x.reshape(3, 5, -1, 3)[:, :, np.random.default_rng(0).permutation(32 * 32)]
  np.testing.assert_allclose(
    baselines.color_means(shuffled.reshape(x.shape)), colors.reshape(3, -1)
  )


def test_small_frames_are_not_enlarged():
  x = _clips(2, 3, 6, 6)
  assert baselines.middle_frame(x).shape == (2, 6 * 6 * 3)
  assert baselines.small_clip(x).shape == (2, 3 * 6 * 6 * 3)


def test_collect_takes_one_view_of_each_valid_video_in_order():
  clips = _clips(8, 2, 4, 4).reshape(4, 2, 2, 4, 4, 3)
  batches = [
    {"clips": clips[[2, 3]], "label": np.array([1, 0]), "video": np.array([2, 3])},
    {
      "clips": clips[[0, 1, 1]],
      "label": np.array([5, 6, 6]),
      "video": np.array([0, 1, 1]),
      "valid": np.array([True, True, False]),
    },
  ]
  found = baselines.collect(batches, view=1)
  np.testing.assert_array_equal(found["video"], np.arange(4))
  np.testing.assert_array_equal(found["label"], [5, 6, 1, 0])
  for name, function in baselines.BASELINES.items():
    np.testing.assert_array_equal(found[name], function(clips[:, 1]))
  with pytest.raises(UserError, match="no video"):
    baselines.collect([])
