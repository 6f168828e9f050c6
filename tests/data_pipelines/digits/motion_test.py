"""The videos whose movement is the class: one frame tells nothing, the movement everything."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import threadpoolctl
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipelines.digits import drawing, motion
from data_pipelines.digits.motion import CLASSES, MotionConfig
from vssl_jax.errors import UserError

LABEL = {name: i for i, name in enumerate(CLASSES)}
# No cuts, so that the whole path is one movement.
WHOLE = MotionConfig(length=40, shot=(10**6, 10**6), tilt=(0.0, 0.0))


def _plan(name, seed=0, config=WHOLE):
  images = drawing.images("train")
  return motion.draw_plan(np.random.default_rng(seed), LABEL[name], images, config)


def _steps(plan):
  """Movement from each frame to the next `[L - 1, 2]`, and whether no cut is between them."""
  move = (np.diff(plan.position.astype(np.float64), axis=0) + 0.5) % 1 - 0.5
  return move, np.diff(plan.shot) == 0


@pytest.fixture(scope="module")
def plans():
  """What the videos show, by split; the test split with three seeds."""
  seeds = {"train": (0,), "test": (0, 1, 2)}
  return {
    split: [motion.plan(i, split, s) for s in seeds[split] for i in range(n)]
    for split, n in motion.VIDEOS.items()
  }


def _label(shown):
  return np.array([p.label for p in shown])


def test_classes_are_balanced_and_images_of_the_splits_disjoint(plans):
  used = {}
  for split, shown in plans.items():
    assert len(set(np.bincount(_label(shown)))) == 1
    used[split] = np.unique(np.concatenate([p.image for p in shown]))
    assert set(used[split]) <= set(drawing.images(split))
  assert not set(used["train"]) & set(used["test"])
  assert len(used["train"]) > 1300  # of 1,415: all forms are used


def test_bytes_depend_on_the_arguments_alone():
  config = MotionConfig(length=12, size=16)
  frames, label = motion.video(7, "train", 1, config)
  motion.video(8, "train", 1, config)
  again, _ = motion.video(7, "train", 1, config)
  np.testing.assert_array_equal(again, frames)
  assert (frames.shape, frames.dtype, label) == ((12, 16, 16, 3), np.uint8, 7)
  for other in ((19, "train", 1), (7, "test", 1), (7, "train", 2)):
    assert not np.array_equal(motion.video(*other, config)[0], frames)


@pytest.mark.parametrize("pair", motion.PAIRS)
def test_a_pairs_second_class_is_its_first_with_reversed_frames(pair):
  config = MotionConfig(length=30, size=12)
  first, second = (motion.draw(_plan(name, 3, config), 12, range(30)) for name in pair)
  np.testing.assert_array_equal(second, first[::-1])
  assert not np.array_equal(second, first)


def test_movements_are_those_of_their_classes():
  for seed in range(20):
    speed, move = {}, {}
    for name in CLASSES:
      move[name], _ = _steps(_plan(name, seed))
      speed[name] = np.linalg.norm(move[name], axis=1)
    tolerance = 1e-6  # positions are float32 below 1
    for name, low, high in (("slow", 0.02, 0.03), ("fast", 0.07, 0.1)):
      for sign, side in ((1, "right"), (-1, "left")):
        across = sign * move[f"{side}_{name}"]
        assert np.abs(across[:, 0]).max() < tolerance
        assert (across[:, 1] > low - tolerance).all()
        assert (across[:, 1] < high + tolerance).all()
    assert (move["down"][:, 0] > 0.019).all()
    assert (move["up"][:, 0] < -0.019).all()
    for sign, name in ((1, "clockwise"), (-1, "counterclockwise")):
      a, b = move[name][:-1], move[name][1:]  # down is positive: to the right, then down, is a turn
      turn = np.arctan2(a[:, 1] * b[:, 0] - a[:, 0] * b[:, 1], (a * b).sum(1))  # clockwise
      assert np.ptp(turn) < 1e-4
      assert 0.3 - 1e-4 < sign * turn.mean() < 0.5 + 1e-4
      assert np.ptp(speed[name]) < tolerance
    for sign, name in ((1, "speeding_up"), (-1, "slowing_down")):
      change = sign * np.diff(speed[name])
      assert 4 <= (change < 0).sum() <= 5  # once in 8 of 39 frames
      assert np.abs(np.abs(change[change < 0]) - 7 * np.median(change)).max() < 1e-5
    for order, name in enumerate(("horizontal_vertical", "vertical_horizontal")):
      kind = np.where(np.abs(move[name]).max(1) < tolerance, 2, np.abs(move[name]).argmin(1))
      kind = kind if order == 0 else np.array([1, 0, 2])[kind]  # 0: the first movement, 2: rest
      runs = kind[np.flatnonzero(np.diff(kind, prepend=-1))]
      assert (np.diff(runs) % 3 == 1).all()
      assert len(runs) > 12


def test_position_in_a_frame_is_uniform_whatever_the_class(plans):
  shown = [p for found in plans.values() for p in found]
  label = _label(shown)
  for frame in (0, 23, 47):
    place = np.stack([p.position[frame] for p in shown])
    for c in range(12):
      for axis in (0, 1):
        assert scipy.stats.kstest(place[label == c, axis], "uniform").pvalue > 1e-4


def test_one_frame_leaves_classifiers_at_chance(plans):
  """Also with the digit and its place known; 1,152 test videos: a standard error of 0.8 %."""
  chance, error = 1 / 12, np.sqrt(1 / 12 * 11 / 12 / len(plans["test"]))

  def pixels(p):
    return motion.draw(p, 8, [24]).ravel()

  def facts(p):
    s = p.shot[24]
    ink, digit = drawing.load()
    place = 2 * np.pi * p.position[24]
    known = (np.cos(place), np.sin(place), p.shape[s], p.ink[s], p.paper[s].ravel())
    return np.concatenate([*known, np.eye(10)[digit[p.image[s]]], ink[p.image[s]].ravel()])

  for look in (pixels, facts):
    x = {k: np.stack([look(p) for p in v]) for k, v in plans.items()}
    y = {k: _label(v) for k, v in plans.items()}
    for model in (LogisticRegression(C=1e-3, tol=1e-2), KNeighborsClassifier(10)):
      found = make_pipeline(StandardScaler(), model)
      with threadpoolctl.threadpool_limits(1):
        found.fit(x["train"], y["train"])
        assert abs(found.score(x["test"], y["test"]) - chance) < 3 * error


def _movement(step, still):
  """Twelve features of the steps `[K, 2]` of a path, without those at cuts."""
  both = still[1:] & still[:-1]
  a, b, own = step[:-1][both], step[1:][both], step[still]
  speed = np.linalg.norm(own, axis=1)
  gain = np.linalg.norm(b, axis=1) - np.linalg.norm(a, axis=1)
  turn = a[:, 1] * b[:, 0] - a[:, 0] * b[:, 1]
  order = np.abs(a[:, 1]) * np.abs(b[:, 0]) - np.abs(a[:, 0]) * np.abs(b[:, 1])
  mixed = np.abs(own[:, 0]) * np.abs(own[:, 1])
  means = (*own.mean(0), *np.abs(own).mean(0), speed.mean(), speed.std(), mixed.mean())
  gains = ((gain**3).mean(), (gain > 0.01).mean(), (gain < -0.01).mean())
  return [*means, *gains, turn.mean(), order.mean()]


def _accuracy(train, y, test, z):
  model = make_pipeline(StandardScaler(), LogisticRegression(C=10, max_iter=3000))
  with threadpoolctl.threadpool_limits(1):
    return model.fit(train, y).score(test, z)


def test_the_path_tells_the_class(plans):
  x = {k: np.array([_movement(*_steps(p)) for p in v]) for k, v in plans.items()}
  y = {k: _label(v) for k, v in plans.items()}
  assert _accuracy(x["train"], y["train"], x["test"], y["test"]) > 0.99


def _seen(frames):
  """Steps of the digit, by correlating two differences of frames, and where no cut is."""
  difference = np.diff(frames.mean(-1) / 255, axis=0)
  spectrum = np.fft.rfft2(difference)
  found = np.fft.irfft2(spectrum[:-1].conj() * spectrum[1:], s=frames.shape[1:3])
  size = frames.shape[1]
  step = np.stack(np.divmod(found.reshape(len(found), -1).argmax(1), size), axis=1)
  change = np.abs(difference).mean((1, 2))
  still = np.maximum(change[1:], change[:-1]) < 0.1
  return ((step + size // 2) % size - size // 2) / size, still & (change[1:] > 1e-3)


def test_differences_of_frames_tell_the_class():
  x, y = [], []
  config = MotionConfig(length=24)
  for i in range(240):
    frames, label = motion.video(i, "train", 0, config)
    x.append(_movement(*_seen(frames)))
    y.append(label)
  assert _accuracy(x[:156], y[:156], x[156:], y[156:]) > 0.8


def test_within_a_shot_only_the_position_changes():
  config = MotionConfig(length=24, size=32)
  shown = _plan("right_fast", 5, config)
  frames = motion.draw(shown, 32, range(24)).astype(int)
  cut = np.diff(shown.shot) != 0
  leap = np.median(np.abs(np.diff(frames, axis=0)), axis=(1, 2, 3))  # of the background
  assert cut.any()
  assert leap[cut].min() > 0
  assert leap[~cut].max() == 0


def test_what_leaves_the_frame_enters_at_the_opposite_edge():
  ink = drawing.template(drawing.load()[0][5])
  pose = [[0.5, 0.5, 0.4, 0.2, 0.1], [0.5 + 13 / 32, 0.5 - 11 / 32, 0.4, 0.2, 0.1]]
  pose = np.array(pose, np.float32)
  middle, moved = drawing.draw(ink, pose, 32, wrap=True)
  # A pixel's place in the template is rounded in another position: a few differ by one cell of it.
  np.testing.assert_allclose(moved, np.roll(middle, (13, -11), (0, 1)), atol=0.2)
  assert np.abs(moved - np.roll(middle, (13, -11), (0, 1))).mean() < 1e-3
  plain = drawing.draw(ink, pose[:1], 32)[0]
  np.testing.assert_array_equal(middle, plain)  # nothing leaves the frame


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: motion.num_videos("valid"), "split 'valid'"),
    (lambda: motion.video(384, "test"), "videos 0 to 383"),
    (lambda: motion.video(-1, "train"), "video -1"),
    (lambda: MotionConfig(length=0), "length is 0"),
    (lambda: MotionConfig(shot=(5, 4)), r"shot is \(5, 4\)"),
    (lambda: MotionConfig(scale=(0.3, 0.9)), "scale"),
    (lambda: dataclasses.replace(WHOLE, fast=(0.4, 0.6)), "fast"),
  ],
)
def test_bad_input_is_told_in_one_line(make, message):
  with pytest.raises(UserError, match=message) as error:
    make()
  assert "\n" not in str(error.value)
