"""Turns decoded frames into pictures or JPEGs: upright, with square pixels, all of one size."""

from __future__ import annotations

import io

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from data_pipelines import pixels
from data_pipelines.videos import display
from data_pipelines.videos.damage import UnreadableError


class Pictures:
  """Turns frames into pictures, all of the first frame's size.

  Args:
    short_side: largest shorter side, pixels; 0 keeps the size.
    channels: 3 for RGB, 1 for gray.
    value_range: values of gray frames that become 0 and 255; () for 0 and the largest
      that their bits can hold.

  Attributes:
    aspect: factor of a frame's width that makes its pixels square; may be set before the first
      frame.
    size: width and height of the pictures, pixels; (0, 0) before the first frame. If it is set
      before, it holds for the first frame, too.
    source_size: width and height of the first frame, upright.
  """

  def __init__(self, short_side: int, channels: int = 3, value_range: tuple[float, ...] = ()):
    self._short_side, self._range = short_side, value_range
    self._format = "gray" if channels == 1 else "rgb24"
    self._reformatter = VideoReformatter()
    self.aspect = 1.0
    self.size = self.source_size = (0, 0)

  def __call__(self, frame: av.VideoFrame) -> np.ndarray:
    """The picture of a frame, uint8 `[H, W, C]`.

    Raises:
      UnreadableError: the frame is too large, or is not gray, though there is a range of values.
    """
    pose = display.pose(frame)
    if self.size == (0, 0):
      self.source_size, self.size = fitted(
        (frame.width, frame.height), self.aspect, self._short_side, sideways=pose.sideways
      )
    width, height = self.size[::-1] if pose.sideways else self.size
    plain = in_range(frame, self._range, whole=self._format == "gray")
    resized = display.reformat(self._reformatter, plain, (width, height), self._format)
    picture = pose.apply(resized.to_ndarray())
    return picture[..., None] if picture.ndim == 2 else picture


def in_range(
  frame: av.VideoFrame, bounds: tuple[float, ...], *, whole: bool = False
) -> av.VideoFrame:
  """A gray frame of up to 16 bits as one of 8, by the values that become 0 and 255.

  Args:
    frame: the frame.
    bounds: (low, high); () changes nothing.
    whole: where there are no bounds, take 0 and the largest value of frames of more than 8 bits.
      FFmpeg would dither them.

  Raises:
    UnreadableError: there are bounds, and the frame is not gray.
  """
  name, parts = frame.format.name, frame.format.components
  gray = name.startswith("gray") and not name.startswith("grayf") and len(parts) == 1
  if bounds and not gray:
    raise UnreadableError(f"its frames are {name}, but a range of values is for gray ones alone")
  deep = gray and parts[0].bits > 8
  if not bounds and deep and whole:
    bounds = 0.0, 2.0 ** parts[0].bits - 1
  if not bounds:
    return frame
  dtype = np.dtype("u1" if not deep else ">u2" if name.endswith("be") else "<u2")
  rows = np.frombuffer(bytes(frame.planes[0]), dtype).reshape(frame.height, -1)
  values = pixels.to_uint8(rows[:, : frame.width, None], bounds)[..., 0]
  return av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format="gray")


class Encoder:
  """Turns frames into JPEGs.

  Pillow with one reused libswscale context takes 0.85 ms for a 320 × 240 frame on one core; with a
  new context for every frame (`VideoFrame.to_image`) it takes 1.5 ms.

  Args:
    short_side: largest shorter side, pixels; 0 keeps the size.
    quality: JPEG quality, 1 to 100.
    channels: see `Pictures`.
    value_range: see `Pictures`.

  Attributes:
    pictures: what makes the pictures, with their size.
  """

  def __init__(
    self,
    short_side: int,
    quality: int,
    channels: int = 3,
    value_range: tuple[float, ...] = (),
  ):
    self.pictures = Pictures(short_side, channels, value_range)
    self._quality = quality
    self._last: av.VideoFrame | None = None
    self._jpeg = b""

  def __call__(self, frame: av.VideoFrame) -> bytes:
    """The JPEG of a frame; the same frame again costs nothing."""
    if frame is not self._last:
      buffer = io.BytesIO()
      picture = self.pictures(frame)
      picture = picture[..., 0] if picture.shape[-1] == 1 else picture
      Image.fromarray(picture).save(buffer, "JPEG", quality=self._quality)
      self._last, self._jpeg = frame, buffer.getvalue()
    return self._jpeg


def fitted(
  size: tuple[int, int], aspect: float, short_side: int, *, sideways: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
  """Width and height of a frame, upright, as it is stored in its file and as its picture has them.

  Args:
    size: width and height of the frame as it is stored.
    aspect: factor of its width that makes its pixels square.
    short_side: largest shorter side of the picture, pixels; 0 keeps the size.
    sideways: whether width and height change places.

  Raises:
    UnreadableError: the frame is too large, or too narrow.
  """
  stored, shown = size, (size[0] * aspect, float(size[1]))
  display.check_size(stored)
  display.check_size(shown)
  if sideways:
    stored, shown = stored[::-1], shown[::-1]
  return stored, _fit(shown, short_side)


def _fit(size: tuple[float, float], short_side: int) -> tuple[int, int]:
  """The size reduced to a shorter side of at most `short_side`, with the same aspect ratio."""
  scale = min(1.0, short_side / min(size)) if short_side else 1.0
  return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
