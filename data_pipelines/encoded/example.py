"""The records that hold a video as it is encoded: SequenceExamples with the index of its frames.

The context has the keys of records of JPEGs, and those below; the lists have the encoded video and
where its frames are. So the name and the label are found in the first bytes of both forms.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.records import sequence_example
from data_pipelines.videos import display, seek_index
from data_pipelines.videos.damage import UnreadableError

VIDEO = "video/encoded"  # list of one: the bytes of a file
PTS = "video/frame/pts"  # list of one: times of the frames, in the file's units
KEYS_SHOWN = "video/keyframe/pts"  # list of one: when the keyframes are shown, in the same units
KEYS_DECODED = "video/keyframe/dts"  # list of one: when they are decoded
LENGTH = "video/frames"  # context: number of frames
CONTAINER = "video/container"  # context: of the bytes, a value of `CONTAINERS`
FORM = "video/form"  # context: a value of `FORMS`
SIZE = "video/size"  # context: width and height of the pictures

CONTAINERS = ("mp4", "matroska")  # as FFmpeg names them
FILE, COPIED, H264 = "file", "copied", "h264"
FORMS = (FILE, COPIED, H264)


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A video, or a part of one, as it is encoded.

  Attributes:
    content: bytes of a file.
    container: one of `CONTAINERS`.
    form: "file" for the bytes of the original, "copied" for packets of its video stream, "h264" for
      frames that were encoded again.
    size: width and height of the pictures, upright, pixels. If the form is "h264", frames that are
      larger by a pixel are cut; else they are stretched to it.
    shown: times of the frames, in the file's units, int64 `[L]`; repeated where a frame is.
    keys: times of keyframes, see `seek_index.SeekIndex`, int64 `[K, 2]`.
  """

  content: bytes
  container: str
  form: str
  size: tuple[int, int]
  shown: np.ndarray
  keys: np.ndarray

  def __post_init__(self):
    shown, keys = self.shown, self.keys
    if self.container not in CONTAINERS or self.form not in FORMS:
      raise ValueError(f"an unknown container or form: {self.container[:20]}, {self.form[:20]}")
    if not len(shown) or np.any(shown[1:] < shown[:-1]):
      raise ValueError("the times of its frames do not increase")
    if keys.shape != (len(keys), 2) or not len(keys) or np.any(keys[1:, 0] < keys[:-1, 0]):
      raise ValueError("the times of its keyframes do not increase")
    if len(self.size) != 2 or min(self.size) < 1:
      raise ValueError("without the size of its pictures")
    try:
      display.check_size(self.size)
    except UnreadableError as error:
      raise ValueError(str(error)) from None


@dataclasses.dataclass(frozen=True)
class Places:
  """The frames of a stream; implements `wanted.Places`."""

  pts: np.ndarray
  keys: np.ndarray

  def group_of(self, number: int) -> tuple[int, int]:
    """See `seek_index.SeekIndex`."""
    return seek_index.group_of(self.pts, self.keys, number)


def encode(video: Encoded, about: sequence_example.Video) -> bytes:
  """Serializes a video; equal videos give equal bytes.

  Args:
    video: the video.
    about: its label, name and times; it has no frames.
  """
  message = sequence_example.message_of(about)
  context = message.context.feature
  context[LENGTH].int64_list.value.append(len(video.shown))
  context[CONTAINER].bytes_list.value.append(video.container.encode())
  context[FORM].bytes_list.value.append(video.form.encode())
  context[SIZE].int64_list.value.extend(video.size)
  lists = message.feature_lists.feature_list
  lists[VIDEO].feature.add().bytes_list.value.append(video.content)
  numbers = {PTS: video.shown, KEYS_SHOWN: video.keys[:, 0], KEYS_DECODED: video.keys[:, 1]}
  for name, values in numbers.items():
    lists[name].feature.add().int64_list.value.extend(values.tolist())
  return message.SerializeToString(deterministic=True)


def decode(record: bytes) -> Encoded:
  """Reads the video of a record.

  Raises:
    ValueError: it is not such a record, or its parts do not fit each other.
  """
  message = sequence_example.parsed(record)
  context, lists = message.context.feature, message.feature_lists.feature_list
  if LENGTH not in context or VIDEO not in lists:
    raise ValueError("a record without an encoded video, among records that have one")

  def text(key: str) -> str:
    return b"".join(context[key].bytes_list.value).decode("utf-8", "replace")

  def first(key: str) -> Any:
    found = lists[key].feature
    if len(found) != 1:
      raise ValueError(f"{len(found)} features under {key!r}")
    return found[0]

  def numbers(key: str) -> np.ndarray:
    return np.array(first(key).int64_list.value, np.int64)

  keys = numbers(KEYS_SHOWN), numbers(KEYS_DECODED)
  if len(keys[0]) != len(keys[1]):
    raise ValueError("the times of its keyframes are incomplete")
  width_height = tuple(context[SIZE].int64_list.value)
  found = Encoded(
    content=b"".join(first(VIDEO).bytes_list.value),
    container=text(CONTAINER),
    form=text(FORM),
    size=width_height,
    shown=numbers(PTS),
    keys=np.stack(keys, axis=1),
  )
  if list(context[LENGTH].int64_list.value) != [len(found.shown)]:
    raise ValueError("the number of its frames is wrong")
  return found


def length_of(head: bytes) -> int | None:
  """Number of frames by the first bytes of a record; None if it holds no encoded video."""
  found = (sequence_example.context_of(head) or {}).get(LENGTH)
  return None if found is None else int(found[0]) if found else 0
