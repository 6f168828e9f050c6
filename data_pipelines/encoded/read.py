"""Decodes the wanted frames of a record that holds an encoded video, and as few others as possible.

It runs in worker processes: the bytes of a record are only as good as whoever wrote it.
"""

from __future__ import annotations

import dataclasses

import av
import numpy as np

from data_pipelines.encoded import example
from data_pipelines.videos import container, decode, display, jpeg, wanted
from data_pipelines.videos.damage import UnreadableError

_WIDEST = 16.0  # see `display.stretch`


@dataclasses.dataclass(frozen=True)
class Request:
  """Frames of a record.

  Attributes:
    record: the record.
    frames: numbers of its frames, in any order.
  """

  record: bytes
  frames: tuple[int, ...]


def read(request: Request) -> np.ndarray:
  """The pictures of the wanted frames, uint8 `[n, H, W, 3]`, in the order of the request.

  Raises:
    UnreadableError: the record is broken.
  """
  try:
    video = example.decode(request.record)
  except ValueError as error:
    raise UnreadableError(str(error)) from None
  return pictures(video, request.frames)


def pictures(video: example.Encoded, frames: tuple[int, ...]) -> np.ndarray:
  """As `read`, of a record's video.

  A frame that is lost to damage shows the one before it.
  """
  numbers = np.array(frames, np.int64)
  if np.any(numbers < 0) or np.any(numbers >= len(video.shown)):
    raise UnreadableError("it has fewer frames than wanted")
  pts, unique = np.unique(video.shown, return_inverse=True)
  chosen, places = np.unique(unique.reshape(-1)[numbers], return_inverse=True)
  width, height = video.size
  wanted.check_bytes(len(chosen), video.size)
  found = np.empty((len(chosen), height, width, 3), np.uint8)
  make = _Cut(video.size) if video.form == example.H264 else _Stretched(video.size)
  index = example.Places(pts, video.keys)
  with decode.explained():
    wanted.fill(
      found,
      make,
      wanted.sought(lambda: container.open_bytes(video.content, video.container), index, chosen),
    )
  return found[places.reshape(-1)]


class _Stretched:
  """Makes pictures of frames as their file has them: upright, with square pixels."""

  def __init__(self, size: tuple[int, int]):
    self._pictures = jpeg.Pictures(0)
    self._pictures.size = size

  def __call__(self, frame: av.VideoFrame) -> np.ndarray:
    width, height = self._pictures.size
    if display.pose(frame).sideways:
      width, height = height, width
    ratio = width / frame.width
    if frame.height != height or not 1 / _WIDEST / 2 <= ratio <= _WIDEST * 2:
      raise _other_size(frame, self._pictures.size)
    return self._pictures(frame)


class _Cut:
  """Makes pictures of frames that were padded to an even width and height."""

  def __init__(self, size: tuple[int, int]):
    self._size = size
    self._pictures = jpeg.Pictures(0)

  def __call__(self, frame: av.VideoFrame) -> np.ndarray:
    width, height = self._size
    if (frame.width, frame.height) != (width + width % 2, height + height % 2):
      raise _other_size(frame, self._size)
    self._pictures.size = frame.width, frame.height
    return self._pictures(frame)[:height, :width]


def _other_size(frame: av.VideoFrame, size: tuple[int, int]) -> UnreadableError:
  return UnreadableError(
    f"its frames are {frame.width} x {frame.height}, but its record says {size[0]} x {size[1]}"
  )
