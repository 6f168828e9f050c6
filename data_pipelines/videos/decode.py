"""Decodes a video file into JPEG frames, in parts of bounded length.

It handles the time span, frame rate, short side and rotation. It uses PyAV, because decord is no
longer maintained and TorchCodec needs PyTorch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import av

from data_pipelines.videos import container, jpeg, parts, rates
from data_pipelines.videos.damage import UnreadableError
from vssl_jax import files

__all__ = [
  "STORES",
  "FrameSettings",
  "Part",
  "UnreadableError",
  "copied",
  "decode",
  "described",
  "explained",
  "opened",
]


# What FFmpeg returns if the system fails; PyAV has no class for some of them.
_SYSTEM = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOTCONN)
STORES = ("frames", "video", "h264")


@dataclasses.dataclass(frozen=True)
class FrameSettings:
  """How frames are stored.

  Attributes:
    fps: frames per second, sampled by time stamps; 0 keeps the video's own frames.
    short_side: largest shorter side, pixels; larger frames are reduced to it, smaller ones stay;
      0 keeps the size.
    quality: JPEG quality, 1 to 100.
    max_seconds: longest part; 0 never splits.
    raw_aspect: keep the pixels as they are stored if they are not square; else frames have the
      aspect ratio with which players show them.
    stream_fps: frames per second of streams without time stamps, such as `.h264`; 0 for the rate
      that the stream states.
    max_gap: longest gap between two frames, seconds; with a longer one the video is unreadable. 0
      keeps and notes them.
    store: one of `STORES`: "frames" as JPEGs; "video" as the file has it where its frames need no
      reduction, else in H.264; "h264" always in H.264.
    crf: quality of H.264, 0 to 51; lower is better and larger.
    channels: 3 for RGB, 1 for gray.
    value_range: values of gray frames that become 0 and 255, as for depth and infrared of 16 bits;
      () for 0 and the largest that their bits can hold.
  """

  fps: float = 0.0
  short_side: int = 256
  quality: int = 85
  max_seconds: float = 120.0
  raw_aspect: bool = False
  stream_fps: float = 0.0
  max_gap: float = 0.0
  store: str = "frames"
  crf: int = 20
  channels: int = 3
  value_range: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Part:
  """Frames of one record.

  Attributes:
    frames: all frames, as JPEGs.
    start: seconds from the beginning of the video to the first frame.
    end: seconds from the beginning of the video to the end of the last frame.
    fps: frames per second of the stored frames.
    size: width and height of the stored frames, pixels.
    source_fps: frames per second of the file, by the median gap.
    source_size: width and height of the file's frames, upright, pixels.
    notes: what is wrong with the video, though not enough to leave it out; complete in the last
      part.
  """

  frames: tuple[bytes, ...]
  start: float
  end: float
  fps: float
  size: tuple[int, int]
  source_fps: float
  source_size: tuple[int, int]
  notes: tuple[str, ...] = ()

  @property
  def length(self) -> int:
    """Number of frames."""
    return len(self.frames)


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
      frames, or a part exceeds the largest record. The error may come after some parts; the caller
      must drop them.
  """
  count = 0
  how = {"stream_fps": settings.stream_fps, "max_gap": settings.max_gap}
  with opened(path, start, **how) as source:
    shown = rates.between(source, start, end)
    if settings.fps:
      shown = rates.at_rate(shown, settings.fps)
    encoder = jpeg.Encoder(
      settings.short_side, settings.quality, settings.channels, settings.value_range
    )
    pictures = encoder.pictures

    def encoded() -> Iterator[tuple[float, bytes]]:
      for time, frame in shown:
        pictures.aspect = 1.0 if settings.raw_aspect else source.aspect
        yield time, encoder(frame)

    for stored, next_time in parts.cut(encoded(), settings.max_seconds or math.inf):
      times, jpegs = zip(*stored, strict=True)
      count += len(times)
      if count < 2:
        break
      fps = settings.fps or rates.of_times(times, source.declared_fps)
      if next_time is None or next_time - times[-1] > rates.LONG_GAP:
        next_time = times[-1] + 1 / fps
      yield Part(
        frames=jpegs,
        start=times[0],
        end=next_time,
        fps=fps,
        size=pictures.size,
        source_fps=source.fps,
        source_size=pictures.source_size,
        notes=source.notes,
      )
  if count < 2:
    where = "" if (start, end) == (0, math.inf) else f" from {start:g} to {end:g} s"
    raise UnreadableError(f"{'only one frame' if count else 'no frames'}{where}")


@contextlib.contextmanager
def opened(
  path: str | os.PathLike, start: float = 0.0, *, stream_fps: float = 0.0, max_gap: float = 0.0
) -> Iterator[container.Source]:
  """The frames of a file or address as PyAV objects, and what is known about it.

  Args:
    path: video file of any format that PyAV can open, or its address.
    start: seconds from which frames are needed; the first ones may be earlier.
    stream_fps: see `FrameSettings`.
    max_gap: see `FrameSettings`.

  Yields:
    An iterable of seconds and frames. What is wrong with the file is raised while it is read,
    perhaps after some frames.

  Raises:
    UnreadableError: the file is missing, empty or broken, or has no video stream.
  """
  with copied(path) as file, explained():
    yield container.Source(file, start, stream_fps=stream_fps, max_gap=max_gap)


def described(settings: Any) -> dict[str, Any]:
  """Settings of frames or snippets as plain data for JSON, to be compared with an earlier run's.

  Args:
    settings: an object with the fields of `FrameSettings` that rare files need. At their defaults
      they are left out, as if they did not exist.
  """
  values = dataclasses.asdict(settings)
  usual = {"raw_aspect": False, "stream_fps": 0.0, "max_gap": 0.0, "channels": 3, "value_range": ()}
  if (store := values.get("store", "frames")) == "frames":
    values = {k: v for k, v in values.items() if k not in ("store", "crf")}
  elif store in STORES:  # JPEGs have no part in it
    values.pop("quality")
  kept = {k: v for k, v in values.items() if k not in usual or v != usual[k]}
  return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}


@contextlib.contextmanager
def copied(path: str | os.PathLike) -> Iterator[pathlib.Path]:
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
def explained() -> Iterator[None]:
  """Turns any exception of a decoder into an `UnreadableError` of this file."""
  try:
    yield
  except UnreadableError:
    raise
  except FileNotFoundError:
    raise UnreadableError("no such file", passing=True) from None
  except Exception as error:
    reason = f"cannot be decoded: {container.explain(error)}"
    raise UnreadableError(reason, passing=_is_passing(error)) from None


def _is_passing(error: Exception) -> bool:
  """Whether an error says nothing of the video; damage makes decoders ask for too much memory."""
  if isinstance(error, MemoryError):
    return not isinstance(error, av.FFmpegError)
  return isinstance(error, OSError) or getattr(error, "errno", None) in _SYSTEM
