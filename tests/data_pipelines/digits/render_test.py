"""The digit videos: what stays, what changes, and what gives no class away."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from data_pipelines.digits import drawing, render
from data_pipelines.digits.render import DigitsConfig, video
from vssl_jax.errors import UserError

STILL = DigitsConfig(
  rotation=(0.0, 0.0), shear=(0.0, 0.0), centre=(0.5, 0.5), scale=(0.5, 0.5), contrast=(0.8, 0.8)
)


@pytest.fixture(scope="module")
def source():
  return load_digits()


def _lightness(frames):
  return frames.astype(np.float64).mean(-1)


def _ink(frames):
  """Distance from the corners' color, per frame: free of the paper's lightness."""
  light = _lightness(frames)
  return np.abs(light - np.median(light[:, [0, 0, -1, -1], [0, -1, 0, -1]], axis=1)[:, None, None])


def test_no_image_on_both_sides():
  train, test = render.images("train"), render.images("test")
  assert not set(train) & set(test)
  assert sorted([*train, *test]) == list(range(1797))
  assert (len(train), len(test)) == (1415, 382)


def test_the_split_falls_between_two_forms(source):
  head = source.target[:32]
  begins = [i for i in range(1797 - 32) if (source.target[i : i + 32] == head).all()]
  np.testing.assert_allclose(np.diff(begins)[:6], 128, atol=2)  # digits on a form
  assert render.images("test")[0] in begins


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_are_balanced(source, split):
  share = np.bincount(source.target[render.images(split)], minlength=10) / render.num_videos(split)
  assert share.min() > 0.08
  assert share.max() < 0.12


def test_shape_label_and_repeated_images(source):
  config = DigitsConfig(length=5, size=12, videos_per_image=2)
  assert render.num_videos("test", config) == 764
  first, again = video(3, "test", 0, config), video(385, "test", 0, config)
  assert first[0].shape == (5, 12, 12, 3)
  assert first[0].dtype == np.uint8
  assert first[1] == again[1] == source.target[1418]
  assert not np.array_equal(first[0], again[0])


def test_bytes_depend_on_the_arguments_alone():
  frames, _ = video(7, "train", 1)
  video(8, "train", 1)
  np.testing.assert_array_equal(video(7, "train", 1)[0], frames)
  for other in (video(8, "train", 1), video(7, "test", 1), video(7, "train", 2)):
    assert not np.array_equal(other[0], frames)


@pytest.mark.parametrize("i", [0, 12, 999])
def test_the_handwriting_stays_and_matches_scipys_upscaling(source, i):
  frames, label = video(i, "train", 0, STILL)
  assert label == source.target[i]
  zoom = {"order": 3, "grid_mode": True, "mode": "grid-constant"}
  expected = np.pad(scipy.ndimage.zoom(source.images[i], 2, **zoom), 8).ravel()
  match = np.array([np.corrcoef(ink.ravel(), expected)[0, 1] for ink in _ink(frames)])
  assert match.mean() > 0.95
  assert match.min() > 0.85


def test_a_look_lasts_for_a_shot():
  config = dataclasses.replace(STILL, length=64)
  light = _lightness(video(0, "train", 0, config)[0])
  leap = np.abs(np.diff(light, axis=0)).mean((1, 2))
  shot, _ = drawing.shots(_spy_rng(0, "train", 0), config.length, config.shot)
  cut = np.diff(shot) > 0
  assert 64 / 8 - 1 <= cut.sum() <= 64 / 4
  assert leap[cut].mean() > 4 * leap[~cut].mean()


def _spy_rng(seed, split, index):
  return np.random.default_rng([seed, {"train": 0, "test": 1}[split], index])


@pytest.mark.parametrize(("length", "shot"), [(32, (4, 8)), (5, (1, 1)), (1, (3, 9)), (40, (7, 7))])
def test_shots_tile_the_video(length, shot):
  first = set()
  for seed in range(50):
    number, phase = drawing.shots(np.random.default_rng(seed), length, shot)
    assert number.shape == phase.shape == (length,)
    assert number[0] == 0
    assert set(np.diff(number)) <= {0, 1}
    assert (phase >= 0).all()
    assert (phase < 1).all()
    lengths = np.bincount(number)
    assert lengths.max() <= shot[1]
    assert (lengths[1:-1] >= shot[0]).all()
    same = np.diff(number) == 0
    assert (np.diff(phase)[same] > 0).all()
    assert (phase[1:][~same] == 0).all()
    first.add(float(phase[0]))
  assert 0.0 in first
  assert len(first) >= shot[0]  # the first shot may have begun before


def test_drift_is_linear_between_a_shots_ends():
  ends = np.array([[[0.0], [10.0]], [[1.0], [30.0]]])  # [2, S, 1]
  shot, phase = np.array([0, 0, 1, 1]), np.array([0.5, 0.75, 0.0, 0.25], np.float32)
  np.testing.assert_allclose(render._drift(ends, shot, phase)[:, 0], [0.5, 0.75, 10.0, 15.0])


def test_upscaling_reproduces_straight_lines():
  up = drawing.upscale()
  cells = (np.arange(96) + 0.5) / 8 - 2.5
  inside = (cells > 1) & (cells < 6)
  np.testing.assert_allclose(up.sum(1)[inside], 1.0, atol=1e-6)
  np.testing.assert_allclose((up @ np.arange(8.0))[inside], cells[inside], atol=1e-5)
  blank = (cells < -2) | (cells > 9)
  assert not up[blank].any()


def _draw(ink, size=32, **pose):
  values = {"down": 0.5, "across": 0.5, "scale": 0.5, "angle": 0.0, "shear": 0.0} | pose
  return drawing.draw(drawing.template(ink), np.array([list(values.values())], np.float32), size)[0]


def test_pose_moves_turns_scales_and_slants(source):
  ink = (source.images[5] / 16).astype(np.float32)
  upright = _draw(ink)
  moved = _draw(ink, down=0.5 + 3 / 32, across=0.5 - 2 / 32)
  np.testing.assert_array_equal(moved, np.roll(upright, (3, -2), (0, 1)))
  turned = _draw(ink, angle=np.pi / 2)
  quarter = [np.corrcoef(turned.ravel(), np.rot90(upright, k).ravel())[0, 1] for k in (1, 3)]
  assert max(quarter) > 0.98
  area = [_draw(ink, scale=s).sum() for s in (0.4, 0.8)]
  np.testing.assert_allclose(area[1] / area[0], 4.0, rtol=0.05)
  slanted = _draw(ink, shear=0.25)
  np.testing.assert_allclose(slanted.sum(), upright.sum(), rtol=0.05)
  middle = (slanted * np.arange(32)).sum(1) / np.maximum(slanted.sum(1), 1e-6)
  before = (upright * np.arange(32)).sum(1) / np.maximum(upright.sum(1), 1e-6)
  rows = np.flatnonzero(upright.sum(1) > 1)
  slope = np.polyfit(rows, (middle - before)[rows], 1)[0]
  np.testing.assert_allclose(slope, -0.25, atol=0.05)


def test_paper_is_bilinear_over_its_grid():
  grid = np.random.default_rng(0).random((3, 3))
  expected = scipy.ndimage.zoom(grid, 9 / 3, order=1)
  np.testing.assert_allclose(
    (drawing.bilinear(9) @ grid.ravel()).reshape(9, 9), expected, atol=1e-6
  )


def test_ink_is_lighter_or_darker_with_equal_odds_and_within_contrast():
  paper, ink = drawing.colors(np.random.default_rng(0), (0.5, 0.6), 4000)
  assert paper.shape == (2, 4000, 3, 3, 3)
  assert ink.shape == (2, 4000, 3)
  difference = ink.mean((0, 2)) - paper.mean((0, 2, 3, 4))
  assert abs((difference > 0).mean() - 0.5) < 0.03
  np.testing.assert_allclose(np.abs(difference).mean(), 0.55, atol=0.01)


def test_colors_and_pixels_leave_a_linear_classifier_near_chance():
  config = DigitsConfig(length=1, size=12)
  data = {}
  for split in ("train", "test"):
    made = [video(i, split, 0, config) for i in range(render.num_videos(split, config))]
    data[split] = np.stack([f for f, _ in made]), np.array([label for _, label in made])

  def top1(features):
    (train, y), (test, z) = ((features(f).reshape(len(f), -1), y) for f, y in data.values())
    mean, scale = train.mean(0), train.std(0) + 1e-6
    model = LogisticRegression(C=1e-3, max_iter=100, tol=1e-3).fit((train - mean) / scale, y)
    return model.score((test - mean) / scale, z)

  # 382 test videos: chance is 0.10 with a standard deviation of 0.015.
  assert top1(lambda f: f[:, 0].mean((1, 2))) < 0.16
  assert top1(lambda f: _lightness(f[:, 0])) < 0.17
  # The class is there: undo the ink's sign, and a linear classifier finds some of it.
  assert top1(lambda f: _ink(f[:, 0])) > 0.3


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: render.images("valid"), "split 'valid'"),
    (lambda: video(382, "test"), "videos 0 to 381"),
    (lambda: video(-1, "train"), "video -1"),
    (lambda: DigitsConfig(length=0), "length is 0"),
    (lambda: DigitsConfig(shot=(5, 4)), r"shot is \(5, 4\)"),
    (lambda: DigitsConfig(contrast=(0.5, 1.5)), "contrast"),
  ],
)
def test_bad_input_is_told_in_one_line(make, message):
  with pytest.raises(UserError, match=message) as error:
    make()
  assert "\n" not in str(error.value)
