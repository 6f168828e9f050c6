import io

import numpy as np
import PIL.Image
import pytest

from data_pipelines.records import sequence_example as example
from tests.data_pipelines import tiny
from vssl_jax.errors import UserError

tf = pytest.importorskip("tensorflow")
from data_pipelines.clips import builders  # noqa: E402
from data_pipelines.clips import steps as steps_lib  # noqa: E402

GARBAGE = b"\xff\xd8 no image"


def run(features, data=None, *, key=0, codec=steps_lib.JPEG, **views):
  """The features of one video through our steps."""
  steps = builders.Graph()
  if data is not None:
    steps_lib.add_train_steps(steps, data, codec=codec)
    features = {"draw": tf.constant([key, 1 << 16], tf.int64), **features}
  else:
    steps_lib.add_eval_steps(steps, codec=codec, **views)
  features = {"label": tf.constant([1], tf.int64), **features}
  return {k: v.numpy() for k, v in steps.build()(features).items()}


def windows(shape, data, keys=(0,)):
  """Crop windows that the train steps draw, (top, left, height, width) `[keys · R, T, 4]`."""
  steps, seen = builders.Graph(), []
  steps_lib.add_train_steps(steps, data)
  steps.decoder_builder.replace_fn("decode_crop", lambda x, s: seen.append(s["windows"]) or x)
  process = steps.build()
  frames = tf.fill([40], tiny.jpeg(np.zeros((*shape, 3), np.uint8)))
  for key in keys:
    process({"image": frames, "label": [0], "draw": tf.constant([key, 1 << 16], tf.int64)})
  return np.concatenate(seen)


def moving():
  return tf.constant([tiny.jpeg(tiny.flat(t)) for t in range(40)])


class TestTrain:
  def test_clips_show_the_frames_that_offset_names(self):
    out = run({"image": moving()}, tiny.data())
    expected = 2 * (out["offset"][:, None] + 2 * np.arange(4))
    np.testing.assert_allclose(out["image"][..., 0].mean((2, 3)), expected, atol=3)
    assert out["image"].dtype == np.uint8
    assert out["label"].dtype == np.int32

  def test_only_sampled_frames_are_decoded(self):
    data = tiny.data()
    out = run({"image": moving()}, data, key=5)
    used = (out["offset"][:, None] + 2 * np.arange(4)).ravel()
    kept = [f if t in used else GARBAGE for t, f in enumerate(moving().numpy())]
    again = run({"image": tf.constant(kept)}, data, key=5)
    np.testing.assert_array_equal(again["image"], out["image"])
    kept[used[0]] = GARBAGE
    with pytest.raises(tf.errors.InvalidArgumentError):
      run({"image": tf.constant(kept)}, data, key=5)

  @pytest.mark.parametrize("subsampling", [0, 1, 2])
  def test_crop_at_decode_equals_crop_after_decode(self, subsampling):
    """At any edge: of the picture, of a block of 16 pixels, and between."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(rng.integers(0, 255, (40, 51, 3), np.uint8))
    picture.save(buffer, "JPEG", quality=90, subsampling=subsampling)
    frame = tf.constant(buffer.getvalue())
    whole = tf.io.decode_jpeg(frame).numpy()
    crop = tf.function(steps_lib.JPEG.crop)
    for y, x in ((0, 0), (3, 1), (15, 15), (16, 16), (17, 31), (24, 32)):
      for h, w in ((1, 1), (16, 16), (13, 17), (16, 19)):
        got = crop(frame, tf.constant([y, x, h, w])).numpy()
        np.testing.assert_array_equal(got, whole[y : y + h, x : x + w], err_msg=f"{y} {x} {h} {w}")

  def test_without_random_crop_the_central_square_is_kept(self):
    data = tiny.data(crop__random=False, size=24)
    out = run({"image": tf.fill([20], tiny.jpeg(tiny.ramp()))}, data)["image"]
    expected = np.broadcast_to(tiny.ramp()[:, 4:28].astype(int), out.shape)
    np.testing.assert_allclose(out, expected, atol=6)

  @pytest.mark.parametrize("consistent", [True, False])
  def test_one_window_a_clip_or_one_a_frame(self, consistent):
    drawn = windows((48, 64), tiny.data(crop__consistent=consistent))
    assert drawn.shape == (2, 4, 4)
    different = len(np.unique(drawn.reshape(-1, 4), axis=0))
    assert different == (2 if consistent else 8)

  def test_windows_keep_area_aspect_and_frame(self):
    data = tiny.data(crop__area=(0.3, 0.6), crop__aspect=(0.8, 1.25))
    drawn = windows((120, 160), data, range(30))[:, 0]
    y, x, h, w = drawn.T
    area, aspect = h * w / (120 * 160), w / h
    assert ((y >= 0) & (x >= 0) & (y + h <= 120) & (x + w <= 160)).all()
    assert area.min() > 0.29
    assert area.max() < 0.61
    assert aspect.min() > 0.77
    assert aspect.max() < 1.28
    assert np.ptp(area) > 0.2
    assert np.ptp(x) > 60

  @pytest.mark.parametrize("shape", [(120, 160), (200, 120), (90, 90)])
  def test_squares_by_the_short_side(self, shape):
    drawn = windows(shape, tiny.data(crop__short=(0.7, 0.875)), range(60))[:, 0]
    y, x, h, w = drawn.T
    np.testing.assert_array_equal(h, w)
    share = h / min(shape)
    assert ((y >= 0) & (x >= 0) & (y + h <= shape[0]) & (x + w <= shape[1])).all()
    assert 0.69 < share.min() < 0.72 < 0.85 < share.max() < 0.885
    # One over it, the size that the short side is scaled to, is drawn evenly.
    np.testing.assert_allclose(np.mean(1 / share), (1 / 0.7 + 1 / 0.875) / 2, atol=0.025)
    assert np.ptp(x + y) > 0.5 * (max(shape) - 0.8 * min(shape))

  def test_draws_are_by_key(self):
    first, same, other = (run({"image": moving()}, tiny.data(), key=k) for k in (1, 1, 2))
    np.testing.assert_array_equal(first["image"], same["image"])
    assert not np.array_equal(first["image"], other["image"])

  def test_grayscale_jpegs_come_out_rgb(self):
    gray = tiny.jpeg(tiny.ramp()[..., 0])
    assert int(tf.io.extract_jpeg_shape(gray)[2]) == 1
    out = run({"image": tf.fill([20], gray)}, tiny.data())["image"]
    assert out.shape == (2, 4, 8, 8, 3)
    np.testing.assert_array_equal(out[..., 0], out[..., 2])

  def test_png_and_arrays_as_jpeg(self):
    data = tiny.data(crop__random=False, size=24)
    frames = {
      steps_lib.PNG: tf.fill([20], tiny.png(tiny.ramp())),
      steps_lib.ARRAY: tf.constant(np.stack([tiny.ramp()] * 20)),
    }
    for codec, image in frames.items():
      out = run({"image": image}, data, codec=codec)["image"]
      np.testing.assert_array_equal(out[1, 2], tiny.ramp()[:, 4:28])
    gray = tf.constant(np.stack([tiny.ramp()[..., :1]] * 20))
    assert run({"image": gray}, data, codec=steps_lib.ARRAY)["image"].shape[-1] == 3

  @pytest.mark.parametrize("clip_count", [1, 3])
  def test_any_number_of_clips(self, clip_count):
    data = tiny.data(clips=clip_count, interval__distribution="independent")
    out = run({"image": moving()}, data)
    assert out["image"].shape[0] == out["offset"].shape[0] == clip_count

  def test_one_frame_video_is_repeated(self):
    out = run({"image": moving()[7:8]}, tiny.data())["image"]
    np.testing.assert_allclose(out[..., 0], 14, atol=3)

  @pytest.mark.parametrize(
    ("fields", "gap"),
    [
      ({"frame_rate": [20.0]}, 10),
      (
        {"frame_rate": [], example.START: [1_000_000], example.END: [2_000_000]},
        20,
      ),
    ],
  )
  def test_seconds_by_rate_or_by_time_stamps(self, fields, gap):
    data = tiny.data(interval__distribution="constant", interval__gap=0.5, interval__unit="seconds")
    out = run({"image": moving()} | {k: tf.constant(v) for k, v in fields.items()}, data)
    assert abs(np.diff(out["offset"])) == gap
    assert not out["no_frame_rate"]

  def test_missing_rate_is_flagged(self):
    data = tiny.data(interval__max_seconds=1.0)
    assert run({"image": moving()}, data)["no_frame_rate"]
    assert steps_lib.needs_frame_rate(data)
    assert not steps_lib.needs_frame_rate(tiny.data())

  def test_missing_rate_stops_a_foreign_factory(self):
    steps = builders.Graph()
    steps_lib.add_train_steps(steps, tiny.data(interval__max_seconds=1.0))
    with pytest.raises(tf.errors.InvalidArgumentError, match="frame rate"):
      steps.build()({"image": moving(), "label": [0]})

  @pytest.mark.parametrize(
    ("label", "expected"), [([4, 9], 4), ([], -1), (3, 3), (tf.sparse.from_dense([0, 2]), 2)]
  )
  def test_labels(self, label, expected):
    label = label if isinstance(label, tf.SparseTensor) else tf.constant(label, tf.int64)
    assert run({"image": moving(), "label": label}, tiny.data())["label"] == expected

  @pytest.mark.parametrize(
    "fields",
    [
      {"crop__area": (0.5, 1.5)},
      {"crop__aspect": (2.0, 1.0)},
      {"crop__short": (0.9, 0.5)},
      {"frames": 0},
    ],
  )
  def test_bad_config(self, fields):
    with pytest.raises(UserError, match=r"config\.data"):
      steps_lib.add_train_steps(builders.Graph(), tiny.data(**fields))


class TestEval:
  views = {"clips": 2, "crops": 3, "frames": 4, "stride": 2, "resize": 24, "size": 24}  # noqa: RUF012

  def test_views_are_clips_by_crops(self):
    out = run({"image": moving()}, **self.views)
    assert out["image"].shape == (6, 4, 24, 24, 3)
    assert out["offset"].tolist() == [0, 0, 0, 32, 32, 32]
    expected = 2 * (out["offset"][:, None] + 2 * np.arange(4))
    np.testing.assert_allclose(out["image"][..., 0].mean((2, 3)), expected, atol=3)

  @pytest.mark.parametrize("codec", [steps_lib.JPEG, steps_lib.PNG])
  def test_crops_lie_along_the_longer_side(self, codec):
    encode = tiny.jpeg if codec is steps_lib.JPEG else tiny.png
    wide = tf.fill([20], encode(tiny.ramp()))
    out = run({"image": wide}, codec=codec, **self.views)["image"][:3, 0].astype(int)
    for crop, left in zip(out, (0, 4, 8), strict=True):
      np.testing.assert_allclose(crop, tiny.ramp()[:, left : left + 24], atol=6)
    tall = tf.fill([20], encode(tiny.ramp(32, 24)))
    out = run({"image": tall}, codec=codec, **self.views)["image"][:3, 0].astype(int)
    for crop, top in zip(out, (0, 4, 8), strict=True):
      np.testing.assert_allclose(crop, tiny.ramp(32, 24)[top : top + 24], atol=6)

  def test_one_crop_is_the_center_and_both_sides_are_cut(self):
    views = self.views | {"crops": 1, "size": 16}
    out = run({"image": tf.fill([20], tiny.jpeg(tiny.ramp()))}, **views)["image"][0, 0]
    np.testing.assert_allclose(out.astype(int), tiny.ramp()[4:20, 8:24], atol=6)

  def test_short_side_is_resized_as_tensorflow_does(self):
    views = self.views | {"resize": 12, "size": 12, "crops": 1}
    frame = tiny.jpeg(tiny.ramp(24, 30))
    out = run({"image": tf.fill([20], frame)}, **views)["image"][0, 0]
    expected = tf.image.resize(tf.io.decode_jpeg(frame), (12, 15))[:, 1:13]
    np.testing.assert_allclose(out, expected, atol=0.5001)

  def test_short_video_wraps(self):
    out = run({"image": moving()[:3]}, **self.views)
    red = out["image"][0, :, 0, 0, 0]
    np.testing.assert_allclose(red, [0, 4, 2, 0], atol=3)
    assert (out["offset"] == 0).all()

  def test_squares_larger_than_the_frame_are_refused(self):
    with pytest.raises(UserError, match="resize"):
      steps_lib.add_eval_steps(builders.Graph(), **self.views | {"size": 32})


def _narrow(shape, kind="JPEG"):
  """An encoded frame of one color."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(np.full((*shape, 3), 9, np.uint8)).save(buffer, kind)
  return buffer.getvalue()


def _png_of(width, height):
  """A PNG that says that it is huge; its few bytes hold no pixels."""
  small = bytearray(_narrow((4, 4), "PNG"))
  small[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
  return bytes(small)


VIEWS = {"clips": 1, "crops": 1, "frames": 2, "stride": 1, "resize": 16, "size": 16}


@pytest.mark.parametrize("shape", [(1, 65500), (65500, 1), (4, 81)])
def test_frames_that_would_fill_the_memory_are_as_damaged_ones(shape):
  image = tf.fill([8], _narrow(shape))
  for options in ({"data": tiny.data()}, VIEWS):
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large or too narrow"):
      run({"image": image}, **options)


def test_a_wide_frame_is_none_of_them():
  image = tf.fill([8], _narrow((4, 80)))
  assert run({"image": image}, tiny.data())["image"].shape[-1] == 3
  assert run({"image": image}, **VIEWS)["image"].shape == (1, 2, 16, 16, 3)


def test_a_png_that_says_it_is_huge_is_not_decoded():
  whole, huge = _narrow((20, 20), "PNG"), _png_of(60_000, 60_000)
  for image in (tf.fill([8], huge), tf.constant([whole] * 4 + [huge] * 4)):
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large or too narrow"):
      run({"image": image}, **{**VIEWS, "frames": 8}, codec=steps_lib.PNG)
