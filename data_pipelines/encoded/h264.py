"""Encodes pictures in H.264 so that any of them is soon reached: a keyframe every 16 frames."""

from __future__ import annotations

import fractions
import io
import platform
from collections.abc import Iterable
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from data_pipelines.encoded import packets
from data_pipelines.encoded.example import H264, Encoded
from data_pipelines.videos import container, display, jpeg
from data_pipelines.videos.damage import UnreadableError

GROUP = 16  # frames from one keyframe to the next, at most
_PRESET = "medium"
_PIXELS = "yuv420p"
_BASE = fractions.Fraction(1, 90_000)  # seconds
_KIND = "mp4"
_LIMITED, _BT601 = 1, 6  # range and matrix of colors, as FFmpeg numbers them
# With AVX-512, x264 gives other bytes in each run, and with other instructions others again.
_SAME_BYTES = "asm=SSE4.2" if platform.machine().lower() in ("x86_64", "amd64") else ""


class Encoder:
  """Makes encoded videos of frames, all of one size.

  Args:
    size: width and height of the pictures, upright, pixels; odd ones are padded.
    crf: x264's constant rate factor, 0 to 51; lower is better and larger.
  """

  def __init__(self, size: tuple[int, int], crf: int):
    width, height = self._size = size
    self._even = width + width % 2, height + height % 2
    self._crf = crf
    self._pictures, self._reformatter = jpeg.Pictures(0), VideoReformatter()
    self._pictures.size = size

  def __call__(self, shown: Iterable[tuple[float, av.VideoFrame]], fps: float) -> Encoded:
    """Encodes frames; the same frames give the same bytes.

    Args:
      shown: seconds and frames, in order of time.
      fps: frames per second, for the header.

    Raises:
      UnreadableError: the encoder cannot encode such frames.
    """
    buffer, count = io.BytesIO(), 0
    first, last = 0.0, -1
    try:
      with av.open(buffer, "w", format=_KIND) as file:
        stream = self._stream(file, fps)
        for time, frame in shown:
          first = first if count else time
          last = max(last + 1, round((time - first) / _BASE))
          planes = self._planes(frame)
          planes.pts, planes.time_base = last, _BASE
          file.mux(stream.encode(planes))
          count += 1
        file.mux(stream.encode())
    except av.FFmpegError as error:
      raise UnreadableError(f"cannot be encoded: {container.explain(error)}") from None
    content = buffer.getvalue()
    found = packets.listed(container.open_bytes(content, _KIND), with_content=False)
    times = np.sort(found.pts)
    if len(times) != count or np.any(np.diff(times) <= 0):
      raise UnreadableError("cannot be encoded: frames are lost")
    return Encoded(content, _KIND, H264, self._size, times, found.keys)

  def _stream(self, file: Any, fps: float) -> Any:
    stream = file.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(1001))
    (stream.width, stream.height), stream.pix_fmt = self._even, _PIXELS
    stream.gop_size, stream.time_base = GROUP, _BASE
    context = stream.codec_context
    context.time_base, context.thread_count = _BASE, 1
    context.color_range, context.colorspace = _LIMITED, _BT601
    context.options = {"crf": str(self._crf), "preset": _PRESET, "x264-params": _SAME_BYTES}
    return stream

  def _planes(self, frame: av.VideoFrame) -> av.VideoFrame:
    """The frame upright, of the size and with the colors that are encoded."""
    if display.pose(frame) != display.UPRIGHT:
      picture = np.ascontiguousarray(self._pictures(frame))
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    # Colors go the straight way: each conversion to RGB makes them a little darker.
    resized = self._reformatter.reformat(
      frame,
      width=self._size[0],
      height=self._size[1],
      format=_PIXELS,
      dst_colorspace=Colorspace.ITU601,
      dst_color_range=ColorRange.MPEG,
      interpolation="BICUBIC",
    )
    width, height = self._even
    sizes = (width, height), (width // 2, height // 2), (width // 2, height // 2)
    rows = [_plane(p, *size) for p, size in zip(resized.planes, sizes, strict=True)]
    whole = np.concatenate([row.reshape(-1) for row in rows]).reshape(height * 3 // 2, width)
    return av.VideoFrame.from_ndarray(whole, format=_PIXELS)


def _plane(plane: Any, width: int, height: int) -> np.ndarray:
  """A plane of a frame, uint8 `[height, width]`; its last column and row repeated if it is odd."""
  lines = np.frombuffer(plane, np.uint8)[: plane.height * plane.line_size]
  pixels = lines.reshape(plane.height, plane.line_size)[:, : plane.width]
  return np.pad(pixels, ((0, height - plane.height), (0, width - plane.width)), "edge")
