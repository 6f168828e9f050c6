"""Corruptions by hand: what they change, how much, where, and what stays."""

import numpy as np
import pytest

from vssl_jax.errors import UserError
from vssl_jax.uncertainty import corruptions

NAMES = tuple(corruptions.CORRUPTIONS)


def clips(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape or (2, 4, 16, 24, 3), np.uint8)


def run(function, x, strength, seed=0):
  return function(x, strength, np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
def test_strength_nothing_changes_nothing_and_more_changes_more(name):
  function, strengths = corruptions.CORRUPTIONS[name]
  x = clips()
  before = x.copy()
  changes = []
  for strength in (0.0, *strengths):
    y = run(function, x, strength)
    assert y.dtype == np.uint8
    assert y.shape == x.shape
    changes.append(np.abs(np.float64(y) - x).mean())
  assert changes[0] == 0
  assert (np.diff(changes) > 0).all(), changes
  np.testing.assert_array_equal(x, before)  # given clips stay as they are


def test_blur_of_a_point_is_a_gaussian_and_no_frame_sees_another():
  x = np.zeros((3, 33, 33, 1), np.uint8)
  x[1, 16, 16] = 255
  y = run(corruptions.blur, x, 2 / 33).astype(float)
  assert y[0].max() == y[2].max() == 0
  apart = np.arange(33) - 16
  kernel = np.exp(-(apart**2) / 8.0)
  kernel /= kernel.sum()
  np.testing.assert_allclose(y[1, ..., 0], 255 * np.outer(kernel, kernel), atol=0.51)


def test_blur_keeps_a_plain_frame_up_to_its_border():
  x = np.full((2, 8, 8, 3), 200, np.uint8)
  np.testing.assert_array_equal(run(corruptions.blur, x, 0.5), x)


def test_noise_has_its_deviation_and_is_each_frame_s_own():
  x = np.full((6, 64, 64, 3), 128, np.uint8)
  error = run(corruptions.noise, x, 0.1).astype(float) - 128
  assert abs(error.mean()) < 0.5
  np.testing.assert_allclose(error.std(), 25.5, rtol=0.02)
  assert abs(np.corrcoef(error[0].ravel(), error[1].ravel())[0, 1]) < 0.05
  # One pattern at every strength.
  np.testing.assert_allclose(
    run(corruptions.noise, x, 0.05).astype(float) - 128, error / 2, atol=0.8
  )


@pytest.mark.parametrize("strength", [0.1, 0.25, 0.6, 1.0])
def test_occlusion_is_one_grey_rectangle_of_its_area_in_all_frames(strength):
  x = clips(2, 4, 40, 60, 3) // 2  # never grey
  y = run(corruptions.occlude, x, strength)
  covered = (y != x).any(axis=-1)
  assert (covered == covered[0, 0]).all()
  rows, columns = covered[0, 0].any(axis=1), covered[0, 0].any(axis=0)
  assert covered[0, 0].sum() == rows.sum() * columns.sum()
  np.testing.assert_allclose(covered.mean(), strength, atol=0.03)
  assert (y[covered] == 128).all()


def test_a_larger_occlusion_covers_the_smaller_one():
  x = clips(1, 1, 40, 40, 3) // 2
  small, large = ((run(corruptions.occlude, x, s, seed=3) != x) for s in (0.2, 0.4))
  assert (large | ~small).all()


@pytest.mark.parametrize(("strength", "lost"), [(0.25, 1), (0.5, 2), (1.0, 4)])
def test_dropped_frames_repeat_the_last_one_kept(strength, lost):
  x = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None, None], (50, 5, 2, 2, 3))
  y = run(corruptions.drop_frames, x, strength)[..., 0, 0, 0]
  assert (y[:, 0] == 0).all()
  for clip in y:
    assert len(set(clip)) == 5 - lost
    for t, frame in enumerate(clip):
      assert frame == t or frame == clip[t - 1]
  if lost < 4:
    assert len({tuple(clip) for clip in y}) > 1  # each clip its own


def test_frames_once_lost_stay_lost():
  x = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None], (20, 9, 1, 1, 1))
  weak, strong = (run(corruptions.drop_frames, x, s, seed=5)[..., 0, 0, 0] for s in (0.25, 0.75))
  for a, b in zip(weak, strong, strict=True):
    assert set(b) <= set(a)


class Source:
  num_videos = 6

  def eval_batches(self, batch_size, **views):
    for i in range(0, 6, batch_size):
      yield {
        "clips": clips(6, 3, 4, 8, 8, 3)[i : i + batch_size],
        "label": np.zeros(batch_size),
        "video": np.arange(i, i + batch_size),
      }


@pytest.mark.parametrize("name", ["noise", "occlusion", "dropped frames"])
def test_a_source_s_draws_are_each_video_s_own_whatever_the_batch(name):
  read = lambda size, seed=0: np.concatenate(
    [b["clips"] for b in corruptions.Corrupted(Source(), name, 0.4, seed).eval_batches(size)]
  )
  one, three = read(1), read(3)
  np.testing.assert_array_equal(one, three)
  assert (read(3, seed=1) != three).any()
  assert corruptions.Corrupted(Source(), name, 0.4).num_videos == 6
  if name == "occlusion":  # one place a video, another in the next
    places = {(three[v] == 128).all(axis=(0, 1, 4)).tobytes() for v in range(6)}
    assert len(places) > 1
    assert all((three[v] == 128).all(axis=(0, 1, 4)).sum() >= 25 for v in range(6))


def test_unknown_names_and_strengths_are_refused():
  with pytest.raises(UserError, match="blur, noise, occlusion, dropped frames"):
    corruptions.Corrupted(Source(), "fog", 0.5)
  with pytest.raises(UserError, match=r"is 1\.5"):
    corruptions.Corrupted(Source(), "blur", 1.5)
