"""The steps that cut clips from a video: choose the frames and crops, and decode only those.

`add_train_steps` and `add_eval_steps` work with the builders of `clips.builders` and with those of
DMVR. Frames may be JPEGs (cropped while they are decoded), PNGs or plain arrays. All random numbers
are stateless, keyed by the feature `draw`; without it (in a DMVR factory) each call draws a new
key. C is the number of channels, `config.data.channels`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines import source
from data_pipelines.clips import sampler
from data_pipelines.clips.builders import IMAGE, LABEL, Features
from data_pipelines.records import sequence_example as example
from vssl_jax.errors import UserError

DRAW = "draw"  # int64 [2], the key of the video's random numbers
OFFSET = "offset"  # int32 [R] or [S], first frame of each clip
FRAME_RATE = "frame_rate"
NO_FRAME_RATE = "no_frame_rate"  # bool, True if a frame rate was needed but is missing
_PLACES = "places"  # int32 [clips, T], position of each eval frame among the decoded frames

_TORCH_ATTEMPTS = 10  # tries of torchvision and PySlowFast
_ATTEMPTS = 100  # tries to find a crop within the bounds; after them the whole frame is used


@dataclasses.dataclass(frozen=True)
class Codec:
  """How to read a single frame in its stored format.

  Attributes:
    shape: function from a frame to int32 (height, width).
    crop: function from a frame and an int32 window (top, left, height, width) to pixels, uint8
      `[height, width, C]`.
    channels: C.
  """

  shape: Callable[[tf.Tensor], tf.Tensor]
  crop: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
  channels: int = 3


def _bounded(shape: tf.Tensor) -> tf.Tensor:
  """The shape of a frame; an error, as for any damaged frame, if decoding would fill the memory."""
  long, short = tf.cast(tf.reduce_max(shape), tf.int64), tf.cast(tf.reduce_min(shape), tf.int64)
  fits = (long <= source.MOST_ASPECT * short) & (long * short <= source.MOST_PIXELS)
  text = (
    f"its frames are too large or too narrow (at most {source.MOST_PIXELS:,} pixels, and sides of "
    f"1 to {source.MOST_ASPECT}); height and width:"
  )
  with tf.control_dependencies([tf.debugging.Assert(fits, [text, shape])]):
    return tf.identity(shape)


def _slice(frame: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
  top, left, height, width = tf.unstack(window)
  return frame[top : top + height, left : left + width]


def _png_shape(png: tf.Tensor) -> tf.Tensor:
  width_height = tf.io.decode_raw(tf.strings.substr(png, 16, 8), tf.int32, little_endian=False)
  return tf.ensure_shape(width_height[::-1], [2])


def jpeg(channels: int = 3) -> Codec:
  """JPEGs as RGB or, with one channel, as their luma; either kind of JPEG gives both."""
  return Codec(
    shape=lambda jpeg: _bounded(tf.io.extract_jpeg_shape(jpeg)[:2]),
    crop=lambda jpeg, window: _jpeg_crop(jpeg, window, channels),
    channels=channels,
  )


def _jpeg_crop(jpeg: tf.Tensor, window: tf.Tensor, channels: int) -> tf.Tensor:
  # The decoder takes the edge of what it decodes for the picture's edge where it enlarges colors of
  # half the resolution. With a column more on both sides, the pixels are those of the whole frame.
  top, left, height, width = tf.unstack(window)
  begin = tf.maximum(left - 1, 0)
  end = tf.minimum(left + width + 1, tf.io.extract_jpeg_shape(jpeg)[1])
  around = [top, begin, height, end - begin]
  wider = tf.io.decode_and_crop_jpeg(jpeg, around, channels=channels)
  return wider[:, left - begin : left - begin + width]


def png(channels: int = 3, stored: int = 3) -> Codec:
  """PNGs.

  Args:
    channels: C.
    stored: channels of the PNGs; other than C only for gray from RGB, or RGB from gray.
  """
  gray_of_color = channels == 1 and stored == 3  # TensorFlow's own mixes up green and blue

  def crop(png: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([_bounded(_png_shape(png))]):  # the whole frame is decoded
      decoded = tf.io.decode_png(png, channels=3 if gray_of_color else channels)
    frame = _slice(decoded, window)
    return tf.image.rgb_to_grayscale(frame) if gray_of_color else frame

  return Codec(lambda png: _bounded(_png_shape(png)), crop, channels)


def array(channels: int = 3) -> Codec:
  """Frames `[H, W, C]` that are decoded already; gray ones `[H, W, 1]` become RGB if C is 3."""

  def crop(frame: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    frame = _slice(frame, window)
    return tf.image.grayscale_to_rgb(frame) if channels == 3 and frame.shape[-1] == 1 else frame

  return Codec(lambda frame: tf.shape(frame)[:2], crop, channels)


JPEG, PNG, ARRAY = jpeg(), png(), array()  # of RGB


def add_parsing(parser_builder: Any, *, with_frame_rate: bool = False, frames: bool = True) -> None:
  """Parses a record with DMVR's keys: its label, the frames, and optionally the frame rate."""
  if frames:
    string = tf.io.FixedLenSequenceFeature((), tf.string)
    parser_builder.parse_feature(example.FRAMES, string, IMAGE)
  integer = tf.io.VarLenFeature(tf.int64)
  parser_builder.parse_feature(example.LABEL_INDEX, integer, LABEL, is_context=True)
  if with_frame_rate:
    rate = tf.io.VarLenFeature(tf.float32)
    parser_builder.parse_feature(example.FRAME_RATE, rate, FRAME_RATE, is_context=True)
    for key in (example.START, example.END):
      parser_builder.parse_feature(key, integer, key, is_context=True)


def needs_frame_rate(data: Any) -> bool:
  """Whether the training clips' frames depend on each video's frame rate."""
  return bool(sampler.from_config(data.interval, data.clips).needs_fps or data.target_fps)


def add_train_steps(graph: Any, data: Any, *, codec: Codec | None = None) -> None:
  """Adds the steps that make the R training clips of a video.

  Steps by phase: sample `clip_frames`; decode `crop_window`, `decode_crop`; preprocess `label`.
  Input features: `image` `[L]` or `[L, H, W, C]`, `label`, optionally `draw` and `frame_rate`.
  Output features: `image` uint8 `[R, T, size, size, C]`, `offset` int32 `[R]`, `label` int32 `[]`.

  Args:
    graph: a `builders.Graph`, a DMVR factory, or any object with the same builders as attributes.
    data: `config.data`.
    codec: how the frames are stored; by default as JPEGs, decoded to `data.channels`.

  Raises:
    UserError: a field of `data` is out of range.
  """
  codec = jpeg(data.channels) if codec is None else codec
  interval = sampler.from_config(data.interval, data.clips)
  _check(data)
  graph.sampler_builder.add_fn(
    functools.partial(_sample_train, data=data, interval=interval), fn_name="clip_frames"
  )
  graph.decoder_builder.add_fn(
    functools.partial(_crop_window, data=data, codec=codec),
    fn_name="crop_window",
    stateful=True,
  )
  graph.decoder_builder.add_fn(
    functools.partial(_decode_crop, size=data.size, codec=codec),
    feature_name=IMAGE,
    fn_name="decode_crop",
    stateful=True,
  )
  graph.preprocessor_builder.add_fn(first_label, feature_name=LABEL, fn_name="label")


def add_eval_steps(
  graph: Any,
  *,
  clips: int,
  crops: int,
  frames: int,
  stride: int,
  resize: int,
  size: int,
  placement: str = "ends",
  target_fps: float = 0.0,
  codec: Codec = JPEG,
) -> None:
  """Adds the steps that make the S = clips · crops test views of a video, clip by clip.

  Steps by phase: sample `eval_frames`; decode `decode_resize`, `eval_crops`; preprocess `label`.
  A frame that several views share is decoded once. For the arguments see
  `source.Source.eval_batches`; `codec` is how the frames are stored.

  Raises:
    UserError: `size` is above `resize`, a count is below 1, or the placement is unknown.
  """
  if size > resize:
    raise UserError(
      f"config.data.eval.size: squares of {size} pixels do not fit frames resized to a short side "
      f"of {resize}; set config.data.eval.resize to {size} or more."
    )
  if min(clips, crops, frames, stride) < 1:
    raise UserError("config.data.eval: clips, crops, frames and stride must be at least 1.")
  if placement not in sampler.PLACEMENTS:
    raise UserError(
      f"config.data.eval.placement is {placement!r}; choose one of {', '.join(sampler.PLACEMENTS)}."
    )
  _check_target(target_fps)
  shape = {"clips": clips, "frames": frames, "stride": stride, "placement": placement}
  graph.sampler_builder.add_fn(
    functools.partial(_sample_eval, shape=shape, crops=crops, target_fps=target_fps),
    fn_name="eval_frames",
  )
  graph.decoder_builder.add_fn(
    functools.partial(_decode_resize, resize=resize, codec=codec),
    feature_name=IMAGE,
    fn_name="decode_resize",
  )
  graph.decoder_builder.add_fn(
    functools.partial(_eval_crops, crops=crops, size=size), fn_name="eval_crops"
  )
  graph.preprocessor_builder.add_fn(first_label, feature_name=LABEL, fn_name="label")


def _check(data: Any) -> None:
  if min(data.frames, data.stride, data.size) < 1:
    raise UserError("config.data: frames, stride and size must be at least 1.")
  _check_target(data.target_fps)
  (low, high), aspect = data.crop.area, data.crop.aspect
  if not 0 < low <= high <= 1 or not 0 < aspect[0] <= aspect[1]:
    raise UserError(
      f"config.data.crop: area {data.crop.area} and aspect {aspect} must be (low, high) with low "
      "<= high; area must be in (0, 1], aspect above 0."
    )
  if any(data.crop.short) and not 0 < data.crop.short[0] <= data.crop.short[1] <= 1:
    raise UserError(
      f"config.data.crop.short: {data.crop.short} must be (low, high) with 0 < low <= high <= 1."
    )


def _check_target(target_fps: float) -> None:
  if not 0 <= target_fps < np.inf:
    raise UserError(f"config.data.target_fps: {target_fps}; set it to 0 or more.")


def _sample_train(features: Features, *, data: Any, interval: sampler.Interval) -> Features:
  features = dict(features)
  foreign = DRAW not in features
  if foreign:
    features[DRAW] = tf.random.uniform([2], maxval=2**47, dtype=tf.int64) // 2**16 * 2**16
  length = tf.shape(features[IMAGE], out_type=tf.int64)[0]
  fps = rate = None
  if interval.needs_fps or data.target_fps:
    fps = _needed_rate(features, length)
    if foreign:
      missing = features[NO_FRAME_RATE]
      tf.debugging.Assert(~missing, ["a span in seconds, or a target_fps, needs a frame rate"])
    rate = fps / data.target_fps if data.target_fps else None
  u = _uniform([sampler.num_uniforms(data.clips)], features[DRAW], 0)
  shape = {"frames": data.frames, "stride": data.stride, "rate": rate}
  starts = sampler.starts(u, length, clips=data.clips, interval=interval, fps=fps, **shape)
  chosen = sampler.frame_indices(starts, length, **shape)
  features[IMAGE] = tf.gather(features[IMAGE], chosen)
  features[OFFSET] = tf.cast(starts, tf.int32)
  return features


def _needed_rate(features: Features, length: tf.Tensor) -> tf.Tensor:
  """`frame_rate`; where it is unknown, 1, and the feature `no_frame_rate` is True."""
  fps = frame_rate(features, length)
  features[NO_FRAME_RATE] = missing = ~(fps > 0)
  return tf.where(missing, tf.ones_like(fps), fps)


def frame_rate(features: Features, length: tf.Tensor) -> tf.Tensor:
  """Frames per second, float64; 0 or less if unknown. Same rule as `sequence_example.fps_of`."""
  first = functools.partial(_first_value, default=0)
  rate = tf.cast(first(features.pop(FRAME_RATE, None)), tf.float64)
  begin, end = (first(features.pop(key, None)) for key in (example.START, example.END))
  micros = tf.cast(end, tf.float64) - tf.cast(begin, tf.float64)
  by_time = tf.cast(length, tf.float64) * 1e6 / tf.where(micros > 0, micros, np.inf)
  return tf.where(rate > 0, rate, by_time)


def _crop_window(features: Features, state: dict, *, data: Any, codec: Codec) -> Features:
  """Stores a window (top, left, height, width) for each frame in the state, int32 `[R, T, 4]`."""
  frames, draw = features[IMAGE], features[DRAW]
  windows = []
  for r in range(data.clips):
    count = 1 if data.crop.consistent else data.frames
    one_clip = []
    for t in range(count):
      shape = codec.shape(frames[r, t])
      if not data.crop.random:
        side = tf.reduce_min(shape)
        one_clip.append(tf.concat([(shape - side) // 2, [side, side]], axis=0))
        continue
      seed = _key(draw, 1 + r * data.frames + t)
      if any(data.crop.short):
        one_clip.append(_square(shape, seed, data.crop.short))
        continue
      if data.crop.log_aspect:
        one_clip.append(inception(shape, seed, data.crop.area, data.crop.aspect))
        continue
      begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([shape, [3]], axis=0),
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=tuple(data.crop.aspect),
        area_range=tuple(data.crop.area),
        max_attempts=_ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
      )
      one_clip.append(tf.concat([begin[:2], size[:2]], axis=0))
    windows.append(tf.broadcast_to(tf.stack(one_clip), [data.frames, 4]))
  state["windows"] = tf.stack(windows)
  return features


def inception(
  shape: tf.Tensor, seed: tf.Tensor, area: tuple[float, float], aspect: tuple[float, float]
) -> tf.Tensor:
  """A random window in a frame, int32 `[4]`, as torchvision and PySlowFast draw it.

  Area and the logarithm of width / height are uniform. Of ten draws the first that fits into the
  frame is taken; if none does, the largest central window with an allowed aspect.

  Args:
    shape: int32 (height, width) of the frame.
    seed: integers `[2]`.
    area: range of the window's area, as a share of the frame's.
    aspect: range of its width / height.
  """
  u = tf.random.stateless_uniform([_TORCH_ATTEMPTS, 4], seed, dtype=tf.float64, alg="philox")
  height, width = tf.unstack(tf.cast(shape, tf.float64))
  pixels = (area[0] + u[:, 0] * (area[1] - area[0])) * height * width
  low, high = np.log(aspect[0]), np.log(aspect[1])
  ratio = tf.exp(low + u[:, 1] * (high - low))
  w, h = tf.round(tf.sqrt(pixels * ratio)), tf.round(tf.sqrt(pixels / ratio))
  fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
  first = tf.argmax(tf.cast(fits, tf.int32))
  size = tf.stack([h[first], w[first]])
  free = tf.stack([height, width]) - size
  begin = tf.minimum(tf.floor(u[first, 2:] * (free + 1)), free)
  widest = tf.minimum(width, tf.round(height * aspect[1]))
  tallest = tf.minimum(height, tf.round(width / aspect[0]))
  central = tf.maximum(tf.stack([tallest, widest]), 1.0)
  middle = (tf.stack([height, width]) - central) // 2
  drawn, whole = tf.concat([begin, size], axis=0), tf.concat([middle, central], axis=0)
  return tf.cast(tf.where(tf.reduce_any(fits), drawn, whole), tf.int32)


def _square(shape: tf.Tensor, seed: tf.Tensor, short: tuple[float, float]) -> tf.Tensor:
  """A random square in a frame, int32 `[4]`.

  The inverse of its side, as a share of the frame's short side, is uniform.
  """
  u = tf.random.stateless_uniform([3], seed)
  share = 1.0 / (1 / short[1] + u[0] * (1 / short[0] - 1 / short[1]))
  least = tf.cast(tf.reduce_min(shape), tf.float32)
  side = tf.clip_by_value(tf.cast(tf.round(share * least), tf.int32), 1, tf.reduce_min(shape))
  free = tf.cast(shape - side + 1, tf.float32)
  begin = tf.minimum(tf.cast(u[1:] * free, tf.int32), shape - side)
  return tf.concat([begin, [side, side]], axis=0)


def _decode_crop(frames: tf.Tensor, state: dict, *, size: int, codec: Codec) -> tf.Tensor:
  clips, count = state["windows"].shape[:2]
  singles = [frames[r, t] for r in range(clips) for t in range(count)]
  windows = tf.unstack(tf.reshape(state["windows"], [clips * count, 4]))
  images = [
    _resize(codec.crop(frame, window), (size, size))
    for frame, window in zip(singles, windows, strict=True)
  ]
  return tf.reshape(tf.stack(images), [clips, count, size, size, codec.channels])


def _sample_eval(
  features: Features, *, shape: dict[str, Any], crops: int, target_fps: float
) -> Features:
  features = dict(features)
  length = tf.shape(features[IMAGE], out_type=tf.int64)[0]
  rate = _needed_rate(features, length) / target_fps if target_fps else None
  starts = sampler.eval_starts(length, rate=rate, **shape)
  frames, stride = shape["frames"], shape["stride"]
  chosen = sampler.frame_indices(starts, length, frames=frames, stride=stride, rate=rate)
  unique, places = tf.unique(tf.reshape(chosen, [-1]))
  features[IMAGE] = tf.gather(features[IMAGE], unique)
  features[_PLACES] = tf.reshape(places, [shape["clips"], frames])
  features[OFFSET] = tf.repeat(tf.cast(starts, tf.int32), crops)
  return features


def _decode_resize(frames: tf.Tensor, *, resize: int, codec: Codec) -> tf.Tensor:
  """Decodes whole frames, resized to a short side of `resize`: uint8 `[frames, H, W, C]`."""
  shape = codec.shape(frames[0])
  size = tf.cast(tf.round(shape * resize / tf.reduce_min(shape)), tf.int32)
  whole = tf.concat([[0, 0], shape], axis=0)
  return tf.map_fn(
    lambda frame: _resize(codec.crop(frame, whole), size),
    frames,
    fn_output_signature=tf.TensorSpec([None, None, codec.channels], tf.uint8),
  )


def _eval_crops(features: Features, *, crops: int, size: int) -> Features:
  features = dict(features)
  frames, places = features[IMAGE], features.pop(_PLACES)
  room = tf.shape(frames)[1:3] - size
  along = tf.cast(tf.range(2) == tf.cast(room[1] >= room[0], tf.int32), tf.int32)
  views = []
  for i in range(crops):
    share = room * i // (crops - 1) if crops > 1 else room // 2
    top, left = tf.unstack(along * share + (1 - along) * (room // 2))
    views.append(tf.gather(frames[:, top : top + size, left : left + size], places))
  views = tf.stack(views, axis=1)
  clips, _, count = views.shape[:3]
  features[IMAGE] = tf.reshape(views, [clips * crops, count, size, size, views.shape[-1]])
  return features


def _resize(image: tf.Tensor, size: Any) -> tf.Tensor:
  """Bilinear as `tf.image.resize`, but rounded: uint8 `[h, w, C]` to `[size[0], size[1], C]`."""
  image = tf.raw_ops.ResizeBilinear(images=image[None], size=size, half_pixel_centers=True)[0]
  return tf.cast(image + 0.5, tf.uint8)


def first_label(label: Any) -> tf.Tensor:
  """The first of a video's labels, int32 `[]`; −1 without one."""
  return tf.cast(_first_value(label, default=-1), tf.int32)


def _first_value(value: Any, *, default: int) -> tf.Tensor:
  """First element of a scalar, vector or sparse vector; `default` if there is none."""
  if value is None:
    return tf.constant(default)
  value = value.values if isinstance(value, tf.SparseTensor) else tf.reshape(value, [-1])
  return tf.concat([value, tf.constant([default], value.dtype)], axis=0)[0]


def _key(draw: tf.Tensor, purpose: int) -> tf.Tensor:
  """A separate key for each purpose below 2^16; these bits of `draw` are 0."""
  return draw + np.array([0, purpose], dtype=np.int64)


def _uniform(shape: list[int], draw: tf.Tensor, purpose: int) -> tf.Tensor:
  return tf.random.stateless_uniform(shape, _key(draw, purpose), dtype=tf.float64, alg="philox")
