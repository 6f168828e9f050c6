"""Decodes a video file into JPEG frames, in parts of bounded length.

It handles the time span, frame rate, short side and rotation. It uses PyAV, because decord is no
longer maintained and TorchCodec needs PyTorch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import math
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import av
from av.video.reformatter import VideoReformatter
from PIL import Image

from data_pipelines.source import MOST_ASPECT, MOST_PIXELS
from vssl_jax import files

_CLOCK = 2e-3  # tolerance, seconds; some containers round time stamps to milliseconds
_SEEK_FROM = 10.0  # seconds; earlier starts are reached by decoding, which is always exact
_SEEK_MARGIN = 5.0  # seconds; how far before the start to seek
_LONGEST_GAP = 60.0  # seconds between two frames; above it the time stamps count as broken
# PyAV before 19 cannot open a file whose title is not valid UTF-8 without this option.
_LENIENT: dict[str, Any] = (
  {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
# A file with less than this share of the frames that its header declares counts as cut off.
_LEAST_SHARE = 0.8
_Timed = tuple[float, av.VideoFrame]  # seconds from the beginning of the video, frame
_TURNS = {
  90: Image.Transpose.ROTATE_90,
  180: Image.Transpose.ROTATE_180,
  270: Image.Transpose.ROTATE_270,
}


class UnreadableError(Exception):
  """A video has no usable frames; the message gives the reason, which goes into the report."""


@dataclasses.dataclass(frozen=True)
class FrameSettings:
  """How frames are stored.

  Attributes:
    fps: frames per second, sampled by time stamps; 0 keeps the video's own frames.
    short_side: largest shorter side, pixels; larger frames are reduced to it, smaller ones stay;
      0 keeps the size.
    quality: JPEG quality, 1 to 100.
    max_seconds: longest part; 0 never splits.
  """

  fps: float = 0.0
  short_side: int = 256
  quality: int = 85
  max_seconds: float = 120.0


@dataclasses.dataclass(frozen=True)
class Part:
  """Frames of one record.

  Attributes:
    frames: all frames, as JPEGs.
    start: seconds from the beginning of the video to the first frame.
    end: seconds from the beginning of the video to the end of the last frame.
    fps: frames per second of the stored frames.
    size: width and height of the stored frames, pixels.
    source_fps: frames per second of the file.
    source_size: width and height of the file's frames, upright, pixels.
  """

  frames: tuple[bytes, ...]
  start: float
  end: float
  fps: float
  size: tuple[int, int]
  source_fps: float
  source_size: tuple[int, int]


def decode(
  path: str | os.PathLike, settings: FrameSettings, *, start: float = 0.0, end: float = math.inf
) -> Iterator[Part]:
  """Decodes a video, or a span of it, into parts no longer than `settings.max_seconds`.

  A longer video is cut every `max_seconds`; the last two parts are equally long, so that no part
  is very short. The JPEGs of at most two parts are in memory at a time.

  Args:
    path: video file of any format that PyAV can open.
    settings: how frames are stored.
    start: start of the span, seconds from the beginning of the video stream.
    end: end of the span (exclusive), in the same seconds.

  Yields:
    Parts, in order of time.

  Raises:
    UnreadableError: the file is missing, empty or broken, has no video stream or fewer than two
      frames. The error may come after some parts; the caller must drop them.
  """
  with _copied(path) as file, _explained():
    source = _Source(file, start)
    frames = _between(source, start, end)
    if settings.fps:
      frames = _at_rate(frames, settings.fps)
    encoder = _JpegEncoder(settings)
    encoded = ((time, encoder(frame)) for time, frame in frames)
    count = 0
    for stored, next_time in _cut(encoded, settings.max_seconds or math.inf):
      times, jpegs = zip(*stored, strict=True)
      count += len(times)
      if count < 2:
        break
      fps = settings.fps or _rate(len(times), times[-1] - times[0], source.declared_fps)
      yield Part(
        frames=jpegs,
        start=times[0],
        end=times[-1] + 1 / fps if next_time is None else next_time,
        fps=fps,
        size=encoder.size,
        source_fps=source.fps,
        source_size=encoder.source_size,
      )
  if count < 2:
    where = "" if (start, end) == (0, math.inf) else f" from {start:g} to {end:g} s"
    raise UnreadableError(f"{'only one frame' if count else 'no frames'}{where}")


def frames(
  path: str | os.PathLike, fps: float = 0.0
) -> Iterator[tuple[float, av.VideoFrame, float]]:
  """All frames of a video as PyAV objects, or the frame that is visible at every 1/fps second.

  Args:
    path: video file of any format that PyAV can open.
    fps: frames per second, sampled by time stamps; 0 for the video's own frames.

  Yields:
    Seconds from the beginning of the video, the frame, and the file's frames per second as
    estimated so far.

  Raises:
    UnreadableError: the file is missing, empty or broken, or has no video stream. The error may
      come after some frames.
  """
  with _copied(path) as file, _explained():
    source = _Source(file, 0.0)
    for time, frame in _at_rate(source, fps) if fps else source:
      yield time, frame, source.fps


@contextlib.contextmanager
def _copied(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """The file, or a temporary copy of what an address names; decoders read in many small pieces.

  Raises:
    UnreadableError: there is no such object. Other errors of a storage are no fault of the video.
  """
  with contextlib.ExitStack() as stack:
    try:
      file = stack.enter_context(files.local_copy(path))
    except FileNotFoundError:
      raise UnreadableError("no such file") from None
    yield file


@contextlib.contextmanager
def _explained() -> Iterator[None]:
  """Turns any exception of a decoder into an `UnreadableError` of this file."""
  try:
    yield
  except UnreadableError:
    raise
  except FileNotFoundError:
    raise UnreadableError("no such file") from None
  except Exception as error:
    text = str(getattr(error, "strerror", "") or error or type(error).__name__)
    raise UnreadableError(f"cannot be decoded: {' '.join(text.split())}") from None


class _Source:
  """Iterates over (seconds, frame) with increasing times, and estimates the frame rate.

  Attributes:
    declared_fps: frame rate in the container's header; 0 if it has none.
    fps: frame rate measured over the frames so far, or the declared rate if the two agree.
  """

  def __init__(self, path: str | os.PathLike, start: float):
    self._path = os.fspath(path)
    self._seek_to = start - _SEEK_MARGIN if start > _SEEK_FROM else 0.0
    self._count, self._first, self._last = 0, 0.0, 0.0
    self._declared_frames = 0
    self.declared_fps = 0.0

  @property
  def fps(self) -> float:
    return _rate(self._count, self._last - self._first, self.declared_fps)

  def __iter__(self) -> Iterator[_Timed]:
    frames = self._frames(self._seek_to)
    first = next(frames, None)
    # After a seek, the first frame must have a time stamp and must not be later than `start`.
    lost = first is None or first[0] is None or first[0] > self._seek_to + _SEEK_MARGIN
    if self._seek_to and lost:
      frames = self._frames(0.0)  # seeking failed in this container: decode from the beginning
      first = next(frames, None)
    if first is None:
      return
    self._first = first[0] or 0.0  # 0 if the first frame has no time stamp
    self._last = self._first - 1.0
    timed: Iterator[tuple[float | None, av.VideoFrame]] = itertools.chain(
      [(self._first, first[1])], frames
    )
    for time, frame in timed:
      if time is None or (self._count and time <= self._last):
        time = self._last + 1 / (self.declared_fps or 25.0)
      if self._count and time - self._last > _LONGEST_GAP:
        raise UnreadableError(
          f"its time stamps jump from {self._last:.0f} s to {time:.0f} s: broken or not a video"
        )
      self._last = time
      self._count += 1
      yield time, frame
    if not self._seek_to and self._count < _LEAST_SHARE * self._declared_frames:
      raise UnreadableError(
        f"cut off: has {self._count} of the {self._declared_frames} frames that its header declares"
      )

  def _frames(self, seek_to: float) -> Iterator[tuple[float | None, av.VideoFrame]]:
    if os.path.getsize(self._path) == 0:
      raise UnreadableError("empty file")
    with av.open(self._path, **_LENIENT) as container:
      stream = container.streams.best("video")
      if not isinstance(stream, av.VideoStream):
        kinds = sorted({s.type for s in container.streams})
        raise UnreadableError(f"no video stream (only {', '.join(kinds) or 'an empty container'})")
      stream.codec_context.thread_count = 1  # each worker process uses one core
      self.declared_fps = float(stream.average_rate or stream.guessed_rate or 0)
      self._declared_frames = stream.frames
      base = stream.time_base
      if base is None:
        raise UnreadableError("no time base, so its time stamps mean nothing")
      zero = stream.start_time
      if seek_to:
        container.seek(int(seek_to / base) + (zero or 0), stream=stream, backward=True)
      for frame in container.decode(stream):
        if frame.pts is None:
          yield None, frame
          continue
        zero = frame.pts if zero is None else zero
        yield float((frame.pts - zero) * base), frame


def _rate(count: int, seconds: float, declared: float) -> float:
  """Frames per second of `count` frames, with `seconds` between the first and the last.

  The declared rate is used if it predicts the count to within 1 % or the rounding of time stamps.
  """
  steps = count - 1
  if declared > 0 and abs(seconds * declared - steps) <= max(0.01 * steps, _CLOCK * declared):
    return declared
  return steps / seconds if steps > 0 and seconds > 0 else declared or 25.0


def _between(frames: Iterable[_Timed], start: float, end: float) -> Iterator[_Timed]:
  for time, frame in frames:
    if time >= end - _CLOCK:
      return
    if time >= start - _CLOCK:
      yield time, frame


def _at_rate(frames: Iterable[_Timed], fps: float) -> Iterator[_Timed]:
  """Yields the frame visible at every 1/fps second; frames may be repeated or left out."""
  origin = last = 0.0
  previous: av.VideoFrame | None = None
  shown = count = 0
  for time, frame in frames:
    if previous is None:
      origin = time
    else:
      while origin + shown / fps < time - _CLOCK:
        yield origin + shown / fps, previous
        shown += 1
    last, previous, count = time, frame, count + 1
  if previous is None:
    return
  interval = (last - origin) / (count - 1) if count > 1 else 0.0
  while shown == 0 or origin + shown / fps < last + interval - _CLOCK:
    yield origin + shown / fps, previous
    shown += 1


def _cut(
  stored: Iterable[tuple[float, bytes]], limit: float
) -> Iterator[tuple[list[tuple[float, bytes]], float | None]]:
  """Cuts timed frames into parts of at most `limit` seconds.

  Yields:
    Each part, and the start of the next part (None after the last).
  """
  held: list[tuple[float, bytes]] = []

  def take(seconds: float) -> tuple[list[tuple[float, bytes]], list[tuple[float, bytes]]]:
    cut = next(i for i, (time, _) in enumerate(held) if time - held[0][0] >= seconds - _CLOCK)
    part, rest = held[:cut], held[cut:]
    return part, rest

  for item in stored:
    if held and item[0] - held[0][0] >= 2 * limit - _CLOCK:
      part, rest = take(limit)
      yield part, rest[0][0]
      held = rest
    held.append(item)
  if not held:
    return
  seconds = held[-1][0] - held[0][0]
  seconds += seconds / max(len(held) - 1, 1)  # the last frame lasts as long as the others
  if seconds > limit + _CLOCK:
    part, rest = take(seconds / 2)
    yield part, rest[0][0]
    held = rest
  yield held, None


class _JpegEncoder:
  """Turns frames into JPEGs, all of the first frame's size.

  Pillow with one reused libswscale context takes 0.85 ms for a 320 × 240 frame on one core; with a
  new context for every frame (`VideoFrame.to_image`) it takes 1.5 ms.

  Attributes:
    size: width and height of the JPEGs, pixels.
    source_size: width and height of the first frame, upright.
  """

  def __init__(self, settings: FrameSettings):
    self._settings = settings
    self._reformatter = VideoReformatter()
    self._last: av.VideoFrame | None = None
    self._jpeg = b""
    self.size = self.source_size = (0, 0)

  def __call__(self, frame: av.VideoFrame) -> bytes:
    if frame is self._last:
      return self._jpeg
    turn = round(getattr(frame, "rotation", 0)) % 360  # counter-clockwise, degrees
    sideways = turn in (90, 270)
    if self._last is None:
      upright = (frame.height, frame.width) if sideways else (frame.width, frame.height)
      check_size(upright)
      self.source_size, self.size = upright, _fit(upright, self._settings.short_side)
    width, height = self.size[::-1] if sideways else self.size
    rgb = self._reformatter.reformat(
      frame, width=width, height=height, format="rgb24", interpolation="BICUBIC"
    )
    image = Image.fromarray(rgb.to_ndarray())
    if turn in _TURNS:
      image = image.transpose(_TURNS[turn])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=self._settings.quality)
    self._last, self._jpeg = frame, buffer.getvalue()
    return self._jpeg


def check_size(size: tuple[int, int]) -> None:
  """Checks that frames of this width and height can be resized and stored.

  Raises:
    UnreadableError: they are too large, or too narrow.
  """
  if max(size) > MOST_ASPECT * min(size) or math.prod(size) > MOST_PIXELS:
    raise UnreadableError(
      f"its frames are {size[0]} x {size[1]}: at most {MOST_PIXELS:,} pixels, and sides of 1 to "
      f"{MOST_ASPECT}, can be decoded"
    )


def _fit(size: tuple[int, int], short_side: int) -> tuple[int, int]:
  """The size reduced to a shorter side of at most `short_side`, with the same aspect ratio."""
  scale = min(1.0, short_side / min(size)) if short_side else 1.0
  return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
