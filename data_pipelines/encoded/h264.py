"""Encodes pictures in H.264 so that any of them is soon reached: a keyframe every 16 frames."""

from __future__ import annotations

import fractions
import io
from collections.abc import Iterable

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from data_pipelines.encoded import packets
from data_pipelines.encoded.example import H264, Encoded
from data_pipelines.videos import container
from data_pipelines.videos.damage import UnreadableError

GROUP = 16  # frames from one keyframe to the next, at most
_PRESET = "medium"
_BASE = fractions.Fraction(1, 90_000)  # seconds
_KIND = "mp4"
_LIMITED, _BT601 = 1, 6  # range and matrix of colors, as FFmpeg numbers them


def encode(
  shown: Iterable[tuple[float, np.ndarray]], size: tuple[int, int], fps: float, crf: int
) -> Encoded:
  """Encodes pictures; the same pictures give the same bytes.

  Args:
    shown: seconds and picture of each frame, uint8 `[H, W, 3]`, in order of time.
    size: width and height of the pictures, pixels; odd ones are padded.
    fps: frames per second, for the header.
    crf: x264's constant rate factor, 0 to 51; lower is better and larger.

  Raises:
    UnreadableError: the encoder cannot encode such pictures.
  """
  width, height = (x + x % 2 for x in size)
  buffer, reformatter = io.BytesIO(), VideoReformatter()
  last, count, start = -1, 0, None
  try:
    with av.open(buffer, "w", format=_KIND) as file:
      rate = fractions.Fraction(fps).limit_denominator(1001)
      stream = file.add_stream("libx264", rate=rate)
      stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
      stream.gop_size, stream.time_base = GROUP, _BASE
      context = stream.codec_context
      context.time_base, context.thread_count = _BASE, 1
      context.color_range, context.colorspace = _LIMITED, _BT601
      context.options = {"crf": str(crf), "preset": _PRESET, "threads": "1"}
      for time, picture in shown:
        start = time if start is None else start
        last = max(last + 1, round((time - start) / _BASE))
        frame = av.VideoFrame.from_ndarray(_padded(picture, (width, height)), format="rgb24")
        frame = reformatter.reformat(
          frame,
          format="yuv420p",
          dst_colorspace=Colorspace.ITU601,
          dst_color_range=ColorRange.MPEG,
          interpolation="BICUBIC",
        )
        frame.pts, frame.time_base = last, _BASE
        file.mux(stream.encode(frame))
        count += 1
      file.mux(stream.encode())
  except av.FFmpegError as error:
    raise UnreadableError(f"cannot be encoded: {container.explain(error)}") from None
  content = buffer.getvalue()
  found = packets.listed(container.open_bytes(content, _KIND), with_content=False)
  times = np.sort(found.pts)
  if len(times) != count or np.any(np.diff(times) <= 0):
    raise UnreadableError("cannot be encoded: frames are lost")
  return Encoded(content, _KIND, H264, size, times, found.keys)


def _padded(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The picture with its last column or row repeated."""
  right, below = size[0] - picture.shape[1], size[1] - picture.shape[0]
  if right or below:
    picture = np.pad(picture, ((0, below), (0, right), (0, 0)), "edge")
  return np.ascontiguousarray(picture)
