"""Where PySlowFast, the ρ-study's code, places clips and crops: its formulas in NumPy, float64.

`get_start_end_idx`, `temporal_sampling` and `clip_sizes` are in slowfast/datasets/decoder.py,
`_get_param_spatial_crop` in slowfast/datasets/transform.py.
"""

import math
import random

import numpy as np
import pytest
import scipy.stats

from data_pipelines.clips import sampler
from tests.data_pipelines import tiny
from vssl_jax.errors import UserError

tf = pytest.importorskip("tensorflow")
from data_pipelines.clips import builders  # noqa: E402
from data_pipelines.clips import steps as steps_lib  # noqa: E402
from tests.data_pipelines.clips.steps_test import moving, run, windows  # noqa: E402

FRAMES, STRIDE = 8, 8


def clip_size(rate, frames=FRAMES, stride=STRIDE):
  """`np.maximum(1.0, sampling_rate * num_frames / target_fps * fps)`."""
  return max(1.0, stride * frames * rate)


def temporal_sampling(length, start, size, frames=FRAMES):
  """`clamp(linspace(start, start + clip_size - 1, T), 0, L - 1).long()`."""
  index = np.linspace(start, start + size - 1, frames)
  return np.clip(index + 1e-9, 0, length - 1).astype(np.int64)


@pytest.mark.parametrize("rate", [None, 1.0, 25 / 30, 2.0, 0.5, 29.97 / 30])
@pytest.mark.parametrize("clips", [1, 3, 10])
@pytest.mark.parametrize("length", [1, 64, 90, 300])
def test_clips_start_at_shares_of_the_last_start(length, clips, rate):
  size = FRAMES * STRIDE if rate is None else clip_size(rate)
  delta = max(length - size, 0)
  expected = [math.floor(delta * i / clips + 1e-9) for i in range(clips)]
  shape = {"frames": FRAMES, "stride": STRIDE, "clips": clips}
  rate = None if rate is None else np.asarray(rate)
  found = sampler.eval_starts(np.asarray(length), placement="starts", rate=rate, **shape)
  np.testing.assert_array_equal(found, expected)
  if rate is not None:
    in_graph = sampler.eval_starts(
      tf.constant(length, tf.int64), placement="starts", rate=tf.constant(rate), **shape
    )
    np.testing.assert_array_equal(in_graph, expected)


@pytest.mark.parametrize(
  ("length", "fps", "expected"),
  [
    (300, 30.0, [9 * i for i in range(8)]),
    (300, 25.0, [0, 7, 14, 22, 29, 37, 44, 52]),  # 53.3 frames
    (300, 60.0, [0, 18, 36, 54, 72, 90, 108, 127]),  # 128 frames
    (300, 15.0, [0, 4, 8, 13, 17, 22, 26, 31]),  # 32 frames
    (40, 30.0, [0, 9, 18, 27, 36, 39, 39, 39]),  # its end is repeated
  ],
)
def test_frames_at_thirty_per_second(length, fps, expected):
  rate = np.asarray(fps / 30)
  shape = {"frames": FRAMES, "stride": STRIDE}
  start = np.array([0], np.int64)
  found = sampler.frame_indices(start, np.asarray(length), rate=rate, **shape)
  np.testing.assert_array_equal(found[0], expected)
  np.testing.assert_array_equal(found[0], temporal_sampling(length, 0, clip_size(fps / 30)))
  in_graph = sampler.frame_indices(
    tf.constant(start), tf.constant(length, tf.int64), rate=tf.constant(rate), **shape
  )
  np.testing.assert_array_equal(in_graph, found)


@pytest.mark.parametrize(
  ("length", "rate"), [(300, 1.0), (301, 25 / 30), (129, 2.0), (64, 1.0), (30, 1.0)]
)
def test_training_clips_fit_and_their_starts_are_even(length, rate):
  u = np.random.default_rng(0).random((4000, sampler.num_uniforms(3)))
  interval = sampler.Interval("independent")
  shape = {"frames": FRAMES, "stride": STRIDE, "rate": np.full(4000, rate)}
  lengths = np.full(4000, length)
  starts = sampler.starts(u, lengths, clips=3, interval=interval, **shape)
  room = max(length - clip_size(rate), 0)  # PySlowFast: uniform(0, room), cut to whole frames later
  assert starts.min() == 0
  assert starts.max() == math.floor(room)
  assert abs(starts.mean() - math.floor(room) / 2) < 4 * (room + 1) / math.sqrt(12 * 12000)
  frames = sampler.frame_indices(starts, lengths, **shape)
  assert frames.max() < length
  for start, found in zip(starts[:20, 1], frames[:20, 1], strict=True):
    np.testing.assert_array_equal(found, temporal_sampling(length, start, clip_size(rate)))


def test_through_the_steps():
  """A clip of 4 frames with stride 5 at 30 per second covers 10 frames of a video at 15."""
  rate = {"frame_rate": tf.constant([15.0])}
  data = tiny.data(interval__distribution="independent", stride=5, target_fps=30.0)
  out = run({"image": moving(), **rate}, data)
  times = out["offset"][:, None] + np.array([0, 3, 6, 9])
  np.testing.assert_allclose(out["image"][..., 0].mean((2, 3)), 2 * times, atol=3)
  views = {"clips": 2, "crops": 1, "frames": 4, "stride": 5, "resize": 24, "size": 24}
  views |= {"target_fps": 30.0, "placement": "starts"}
  out = run({"image": moving(), **rate}, **views)
  assert out["offset"].tolist() == [0, 15]  # half of 40 - 10
  times = out["offset"][:, None] + np.array([0, 3, 6, 9])
  np.testing.assert_allclose(out["image"][..., 0].mean((2, 3)), 2 * times, atol=3)


def test_a_missing_rate_is_told_in_one_line(tmp_path):
  folder = tiny.write(tmp_path / "data", [tiny.video(v, fps=0.0) for v in range(4)], shards=1)
  source = tiny.load(folder, target_fps=30.0)
  message = "no frame rate in its record, but config.data.target_fps is 30: set it to 0"
  with pytest.raises(UserError, match=message):
    next(source.train_batches())
  views = {"clips": 2, "crops": 1, "frames": 4, "stride": 5, "resize": 24, "size": 24}
  with pytest.raises(UserError, match=message):
    next(source.eval_batches(2, target_fps=30.0, **views))
  next(source.eval_batches(2, **views))  # without it, a rate is not needed


@pytest.mark.parametrize(
  ("field", "value"), [("target_fps", -1.0), ("target_fps", math.inf), ("placement", "middle")]
)
def test_impossible_values_are_refused(field, value):
  views = {"clips": 2, "crops": 1, "frames": 4, "stride": 5, "resize": 24, "size": 24}
  with pytest.raises(UserError, match=field):
    steps_lib.add_eval_steps(builders.Graph(), **{**views, field: value})


def _theirs(scale, ratio, height, width, draw):
  """`_get_param_spatial_crop`: top, left, height and width."""
  for _ in range(10):
    area = draw.uniform(*scale) * height * width
    aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      return draw.randint(0, height - h), draw.randint(0, width - w), h, w
  raise AssertionError("ten tries did not suffice")


def test_windows_have_their_distribution():
  shape, scale, ratio = (128, 170), (0.2, 0.766), (0.5, 2.0)

  @tf.function
  def many(keys):
    one = lambda k: steps_lib.inception(tf.constant(shape), tf.stack([k, 0]), scale, ratio)
    return tf.map_fn(one, keys, fn_output_signature=tf.TensorSpec([4], tf.int32))

  ours = many(tf.range(3000)).numpy().astype(float)
  draw = random.Random(0)
  theirs = np.array([_theirs(scale, ratio, *shape, draw) for _ in range(3000)], float)

  def facts(x):
    top, left, h, w = x.T
    return {"aspect": w / h, "area": h * w, "top": top, "left": left}

  for name, values in facts(ours).items():
    assert scipy.stats.ks_2samp(values, facts(theirs)[name]).pvalue > 1e-3, name
  assert (ours[:, :2] >= 0).all()
  assert (ours[:, 0] + ours[:, 2] <= shape[0]).all()
  assert (ours[:, 1] + ours[:, 3] <= shape[1]).all()


@pytest.mark.parametrize(
  ("shape", "window"),
  [((20, 200), (0, 86, 20, 27)), ((200, 20), (86, 0, 27, 20))],
)
def test_without_a_fitting_window_the_center_is_taken(shape, window):
  """torchvision's and PySlowFast's fallback: the largest central window of an allowed aspect."""
  data = tiny.data(crop__area=(0.9, 1.0), crop__aspect=(0.75, 1.3333), crop__log_aspect=True)
  np.testing.assert_array_equal(windows(shape, data)[:, 0], [window, window])
