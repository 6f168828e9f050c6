"""Encodes and decodes a video as a SequenceExample with DMVR's keys.

The keys are those of DMVR (github.com/google-deepmind/dmvr) and of TF Garden's video decoders,
plus MediaSequence's `image/frame_rate`. Neither writing nor reading needs TensorFlow: the message
types are declared below, in a separate descriptor pool of protobuf, so that they do not conflict
with those of TensorFlow in the same process.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from vssl_jax import files
from vssl_jax.errors import UserError

FRAMES = "image/encoded"
FRAME_RATE = "image/frame_rate"
LABEL_INDEX = "clip/label/index"
LABEL_TEXT = "clip/label/text"
FILENAME = "video/filename"
START = "clip/start/timestamp"
END = "clip/end/timestamp"
CAPTION = "caption/string"

HEAD = 1 << 12  # bytes; enough for a record's context, unless its caption is very long
_CONTEXT_TAG = b"\x0a"  # field 1, length-delimited
_LISTS = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}


@dataclasses.dataclass(frozen=True)
class Video:
  """The content of a record: one video, or one part of a long video.

  Attributes:
    frames: all frames as JPEGs, in order of time.
    fps: frames per second; 0 if unknown.
    label: class index; −1 if unknown.
    label_text: class name; empty if unknown.
    filename: path of the video, relative to the data set's root.
    start: microseconds from the beginning of the video to the first frame.
    end: microseconds from the beginning of the video to the end of the last frame.
    caption: free text; empty if none.
  """

  frames: Sequence[bytes]
  fps: float = 0.0
  label: int = -1
  label_text: str = ""
  filename: str = ""
  start: int = 0
  end: int = 0
  caption: str = ""


def encode(video: Video) -> bytes:
  """Serializes a video; equal videos give equal bytes.

  An unlabeled video gets the index −1 and an empty name, and the keys are not left out: DMVR and
  TF Garden expect vectors of one element in both, and their one-hot vector of −1 is all zeros.
  """
  message = message_of(video)
  frames = message.feature_lists.feature_list[FRAMES].feature
  for jpeg in video.frames:
    frames.add().bytes_list.value.append(jpeg)
  return message.SerializeToString(deterministic=True)


def message_of(video: Video) -> Any:
  """The message with all of a video but its frames."""
  message = _sequence_example()()
  context = message.context.feature
  context[LABEL_INDEX].int64_list.value.append(video.label)
  context[LABEL_TEXT].bytes_list.value.append(files.encode(video.label_text))
  context[FILENAME].bytes_list.value.append(files.encode(video.filename))
  context[START].int64_list.value.append(video.start)
  context[END].int64_list.value.append(video.end)
  if video.fps > 0:
    context[FRAME_RATE].float_list.value.append(video.fps)
  if video.caption:
    context[CAPTION].bytes_list.value.append(files.encode(video.caption))
  return message


def parsed(record: bytes) -> Any:
  """The message of a record.

  Raises:
    ValueError: the bytes are not a SequenceExample.
  """
  message = _sequence_example()()
  try:
    message.ParseFromString(record)
  except Exception as error:  # protobuf's runtimes raise exceptions of different classes
    raise ValueError(f"not a SequenceExample ({error})") from None
  return message


def decode(serialized: bytes) -> Video:
  """Decodes a record of ours, of DMVR or of TF Garden; missing keys get `Video`'s defaults.

  Raises:
    UserError: the bytes are not a SequenceExample, have no frames under `image/encoded` or a frame
      that is not one value, or words where a number must be.
  """
  try:
    message = parsed(serialized)
  except ValueError as error:
    raise UserError(f"a record is {error}: prepare the data again") from None
  lists = message.feature_lists.feature_list
  features = lists[FRAMES].feature if FRAMES in lists else ()
  for i, feature in enumerate(features):
    if len(feature.bytes_list.value) != 1:
      raise UserError(
        f"a record has {len(feature.bytes_list.value)} values for frame {i} under {FRAMES!r}, but "
        "each frame must be one JPEG: prepare the data again"
      )
  frames = tuple(feature.bytes_list.value[0] for feature in features)
  if not frames:
    raise UserError(
      f"a record has no frames under {FRAMES!r} (it has {sorted(lists) or 'no feature lists'}): "
      "records must be SequenceExamples with one JPEG per frame"
    )
  context = {key: _values(feature) for key, feature in message.context.feature.items()}
  return dataclasses.replace(_about(context, len(frames)), frames=frames)


def about(head: bytes, length: int) -> Video:
  """What the context of a record says, without its frames, from its first bytes.

  Args:
    head: the first bytes of the payload, as in `filename_of`.
    length: number of frames in the record.
  """
  return _about(context_of(head) or {}, length)


def _about(context: Mapping[str, Any], length: int) -> Video:
  try:
    fps = fps_of(context, length)
  except UserError:
    fps = 0.0
  return Video(
    frames=(),
    fps=fps,
    label=_whole(context, LABEL_INDEX, -1),
    label_text=_text(context, LABEL_TEXT),
    filename=_text(context, FILENAME),
    start=_whole(context, START, 0),
    end=_whole(context, END, 0),
    caption=_text(context, CAPTION),
  )


def filename_of(head: bytes) -> str | None:
  """Reads the video's name from the first bytes of a record, without its frames.

  Writers put the context before the frames, so the first few kilobytes usually contain it.

  Args:
    head: the first bytes of the payload.

  Returns:
    `video/filename` ("" if the record has none). None if `head` does not contain the whole
    context, or it is damaged; then read more bytes, or decode the record.
  """
  context = context_of(head)
  return None if context is None else _text(context, FILENAME)


def label_of(head: bytes) -> int | None:
  """Reads the class index from the first bytes of a record, as `filename_of` reads the name.

  Returns:
    `clip/label/index`; −1 if the record has none. None if it is unknown: `head` does not contain
    the whole context, or the index is no whole number of 64 bits.
  """
  context = context_of(head)
  value = None if context is None else _first(context, LABEL_INDEX, -1)
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  return value if isinstance(value, int) and -(1 << 63) <= value < 1 << 63 else None


def context_of(head: bytes) -> dict[str, list] | None:
  """The context of a record from its first bytes; None as in `filename_of`."""
  length, start = 0, 1
  if head[:1] != _CONTEXT_TAG:
    return None
  for shift in range(0, 64, 7):  # the message's length, a varint
    if start >= len(head):
      return None
    length |= (head[start] & 0x7F) << shift
    start += 1
    if head[start - 1] < 0x80:
      break
  end = start + length
  if end > len(head):
    return None
  message = _sequence_example()()
  try:
    message.ParseFromString(head[:end])
  except Exception:  # damaged; protobuf's runtimes raise exceptions of different classes
    return None
  return {k: _values(v) for k, v in message.context.feature.items()}


def fps_of(context: Mapping[str, Any], num_frames: int) -> float:
  """Frames per second of a record.

  Args:
    context: the record's context; each value is a scalar, list or array (possibly empty).
    num_frames: number of frames in the record.

  Returns:
    `image/frame_rate` if present, else `num_frames` divided by the time between DMVR's timestamps.

  Raises:
    UserError: the record has neither, or words or infinity in their place.
  """
  rate = _number(context, FRAME_RATE, 0.0)
  if rate > 0:
    return rate
  micros = _whole(context, END, 0) - _whole(context, START, 0)
  if micros > 0 and num_frames > 0:
    return num_frames * 1e6 / micros
  raise UserError(
    f"video {_text(context, FILENAME) or '(unnamed)'!r}: its record has no {FRAME_RATE!r} and no "
    "timestamps, so its frame rate is unknown: give spans in frames, or prepare the data again"
  )


def _values(feature) -> list:
  kind = feature.WhichOneof("kind")
  return list(getattr(feature, kind).value) if kind else []


def _first(context: Mapping[str, Any], key: str, default):
  value = context.get(key, default)
  if isinstance(value, (str, bytes, int, float)):
    return value
  if hasattr(value, "reshape"):
    value = value.reshape(-1)
  return value[0] if len(value) else default


def _number(context: Mapping[str, Any], key: str, default: float) -> float:
  """A finite number; `UserError` if the record has something else there."""
  value = _first(context, key, default)
  if isinstance(value, str | bytes) or not math.isfinite(value):
    raise UserError(
      f"video {_text(context, FILENAME) or '(unnamed)'!r}: its record has {str(value)[:40]!r} as "
      f"{key!r}, which must be a number: prepare the data again"
    )
  return value


def _whole(context: Mapping[str, Any], key: str, default: int) -> int:
  value = _number(context, key, default)
  if value % 1:
    raise UserError(f"a record has {value} as {key!r}, which must be whole: prepare the data again")
  return int(value)


def _text(context: Mapping[str, Any], key: str) -> str:
  value = _first(context, key, b"")
  return files.decode(value) if isinstance(value, bytes) else str(value)


@functools.cache
def _sequence_example():
  """The message class, from TensorFlow's example.proto and feature.proto."""
  field = descriptor_pb2.FieldDescriptorProto
  file = descriptor_pb2.FileDescriptorProto(
    name="vssl_jax/example.proto", package="tensorflow", syntax="proto3"
  )

  def message(name, parent=file.message_type):
    return parent.add(name=name)

  def add(owner, name, number, kind, repeated=False, **options):
    if isinstance(kind, str):
      options |= {"type": field.TYPE_MESSAGE, "type_name": f".tensorflow.{kind}"}
    else:
      options["type"] = kind
    label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    return owner.field.add(name=name, number=number, label=label, **options)

  def add_map(owner, name, entry, value):
    nested = message(entry, owner.nested_type)
    nested.options.map_entry = True
    add(nested, "key", 1, field.TYPE_STRING)
    add(nested, "value", 2, value)
    add(owner, name, 1, f"{owner.name}.{entry}", repeated=True)

  kinds = (field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_INT64)
  for name, kind in zip(_LISTS.values(), kinds, strict=True):
    add(message(name), "value", 1, kind, repeated=True)  # proto3 packs numbers by itself
  feature = message("Feature")
  feature.oneof_decl.add(name="kind")
  for number, (name, values) in enumerate(_LISTS.items(), start=1):
    add(feature, name, number, values, oneof_index=0)
  add_map(message("Features"), "feature", "FeatureEntry", "Feature")
  add(message("FeatureList"), "feature", 1, "Feature", repeated=True)
  add_map(message("FeatureLists"), "feature_list", "FeatureListEntry", "FeatureList")
  example = message("SequenceExample")
  add(example, "context", 1, "Features")
  add(example, "feature_lists", 2, "FeatureLists")

  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.SequenceExample"))
