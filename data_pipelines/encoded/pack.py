"""Makes the encoded videos of records: copies of a file's packets, or H.264 that is made of frames.

Every video is decoded once, as for records of JPEGs, so the same videos are unreadable, with the
same notes. A video is copied if its frames need not be reduced, can be found by their times, and
all decode without fault; every copy is opened again and compared. All others are encoded.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, cast

import av
import numpy as np

from data_pipelines.encoded import example, h264, packets
from data_pipelines.encoded.example import COPIED, FILE, Encoded
from data_pipelines.videos import container, decode, display, jpeg, parts, rates, seek_index, wanted
from data_pipelines.videos.damage import UnreadableError
from vssl_jax import files


@dataclasses.dataclass(frozen=True)
class Packed:
  """The video of one record.

  Attributes:
    video: the video.
    start: seconds from the beginning of the file to the first frame.
    end: seconds from the beginning of the file to the end of the last frame.
    fps: frames per second.
    source_fps: see `decode.Part`.
    source_size: see `decode.Part`.
    notes: see `decode.Part`; complete in every record.
  """

  video: Encoded
  start: float
  end: float
  fps: float
  source_fps: float
  source_size: tuple[int, int]
  notes: tuple[str, ...]

  @property
  def length(self) -> int:
    """Number of frames."""
    return len(self.video.shown)

  @property
  def size(self) -> tuple[int, int]:
    """Width and height of the pictures, pixels."""
    return self.video.size


@dataclasses.dataclass(frozen=True)
class _Sight:
  """What is remembered of a decoded frame, to know it again."""

  shape: tuple[int, int]  # width and height as it is stored, pixels
  pose: display.Pose
  color: tuple[str, int, int]  # pixel format, matrix and range
  checksum: int  # of its first plane
  sound: bool = dataclasses.field(compare=False)

  @classmethod
  def of(cls, frame: av.VideoFrame) -> _Sight:
    plane, component = frame.planes[0], frame.format.components[0]
    row = frame.width * -(-component.bits // 8)
    size = frame.height * plane.line_size
    pixels = np.frombuffer(cast(Any, plane), np.uint8)[:size]
    lines = pixels.reshape(frame.height, plane.line_size)
    return cls(
      shape=(frame.width, frame.height),
      pose=display.pose(frame),
      color=(frame.format.name, int(frame.colorspace), int(frame.color_range)),
      checksum=zlib.crc32(np.ascontiguousarray(lines[:, :row]).data),
      sound=not frame.is_corrupt,
    )


@dataclasses.dataclass(frozen=True)
class _Seen:
  """A file, or a span of it, that was decoded.

  Attributes:
    times: seconds of all frames that were decoded.
    sights: of the same.
    parts: of each record, the seconds and numbers (among the decoded) of its frames, and the start
      of the next one.
    source: what decoded them.
  """

  times: list[float]
  sights: list[_Sight]
  parts: list[tuple[tuple[float, ...], np.ndarray, float | None]]
  source: container.Source

  def size(self, settings: decode.FrameSettings) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of a frame, upright, in the file and in the record."""
    sight = self.sights[int(self.parts[0][1][0])]
    aspect = 1.0 if settings.raw_aspect else self.source.aspect
    return jpeg.fitted(sight.shape, aspect, settings.short_side, sideways=sight.pose.sideways)


def pack(
  path: str | os.PathLike,
  settings: decode.FrameSettings,
  *,
  start: float = 0.0,
  end: float = math.inf,
) -> Iterator[Packed]:
  """The records of a video, or of a span of it; frames, times and errors are `decode.decode`'s.

  Args:
    path: video file of any format that PyAV can open, or its address.
    settings: how to store it; `store` is "video" or "h264".
    start: start of the span, seconds.
    end: end of the span (exclusive), seconds.

  Yields:
    Records, in order of time.

  Raises:
    UnreadableError: see `decode.decode`.
  """
  with decode.copied(path) as file, decode.explained():
    seen = _look(file, settings, start, end)
    source_size, size = seen.size(settings)
    made = _copies(file, settings, seen, size) if settings.store == "video" else None
    videos = iter(made) if made else _encoded(file, settings, seen, size, start)
    for (times, _, next_time), video in zip(seen.parts, videos, strict=True):
      if len(video.content) > parts.RECORD_BYTES:
        raise UnreadableError(
          "one of its records would exceed 2 GB: lower --max_seconds or --short_side"
        )
      fps = settings.fps or rates.of_times(times, seen.source.declared_fps)
      if next_time is None or next_time - times[-1] > rates.LONG_GAP:
        next_time = times[-1] + 1 / fps
      yield Packed(video, times[0], next_time, fps, seen.source.fps, source_size, seen.source.notes)


def _source(file: pathlib.Path, settings: decode.FrameSettings, start: float) -> container.Source:
  return container.Source(file, start, stream_fps=settings.stream_fps, max_gap=settings.max_gap)


def _look(file: pathlib.Path, settings: decode.FrameSettings, start: float, end: float) -> _Seen:
  """Decodes a file, and cuts its frames into records."""
  source = _source(file, settings, start)
  all_times: list[float] = []
  sights: list[_Sight] = []

  def numbered() -> Iterator[tuple[float, Any]]:
    for time, frame in source:
      all_times.append(time)
      sights.append(_Sight.of(frame))
      yield time, len(sights) - 1

  shown = rates.between(numbered(), start, end)
  if settings.fps:
    shown = rates.at_rate(shown, settings.fps)
  counted = ((time, cast(int, number).to_bytes(8, "big")) for time, number in shown)
  found = []
  for stored, next_time in parts.cut(counted, settings.max_seconds or math.inf):
    times, names = zip(*stored, strict=True)
    found.append((times, np.array([int.from_bytes(n, "big") for n in names]), next_time))
  count = sum(len(times) for times, _, _ in found)
  if count < 2:
    where = "" if (start, end) == (0, math.inf) else f" from {start:g} to {end:g} s"
    raise UnreadableError(f"{'only one frame' if count else 'no frames'}{where}")
  return _Seen(all_times, sights, found, source)


def _copies(
  file: pathlib.Path, settings: decode.FrameSettings, seen: _Seen, size: tuple[int, int]
) -> list[Encoded] | None:
  """Copies of the file's packets for all records; None if one of them cannot be had so."""
  sight = seen.sights[0]
  aspect = 1.0 if settings.raw_aspect else seen.source.aspect
  sideways = seen.sights[int(seen.parts[0][1][0])].pose.sideways
  alike = all(s.sound and (s.shape, s.pose) == (sight.shape, sight.pose) for s in seen.sights)
  full = jpeg.fitted(sight.shape, aspect, 0, sideways=sideways)[1]
  kind, streams = packets.kind_of(file)
  if not alike or size != full or kind not in example.CONTAINERS:
    return None
  reading = seek_index.Reading(settings.stream_fps, settings.max_gap)
  index = seek_index.by_packets(file, reading, (sight.shape, sideways))
  if index is None:
    return None
  first = int(np.searchsorted(index.times, seen.times[0] - seek_index.TICK))
  own = index.times[first : first + len(seen.times)]
  if len(own) != len(seen.times) or np.abs(own - seen.times).max() > seek_index.TICK:
    return None
  whole = len(seen.parts) == 1 and len(own) == len(index.times)
  found = []
  for _, numbers, _ in seen.parts:
    shown = index.pts[first + numbers]
    unique, places = np.unique(shown, return_inverse=True)
    copied = None
    if not whole or streams > 1:
      row, _ = index.group_of(first + int(numbers[0]))
      key = int(index.keys[row, 0]), int(index.keys[row, 1])
      copied = packets.copied(file, kind, key, unique)
    if copied is not None:
      content, times, keys = copied
      video = Encoded(content, kind, COPIED, size, times[places.reshape(-1)], keys)
    elif whole and files.size(file) <= parts.RECORD_BYTES:
      video = Encoded(file.read_bytes(), kind, FILE, size, shown, index.keys)
    else:
      return None
    ends = numbers[[0, -1]]
    if not _shows(video, [seen.sights[int(n)] for n in ends]):
      return None
    found.append(video)
  return found


def _shows(video: Encoded, ends: list[_Sight]) -> bool:
  """Whether the first and the last frame of a copy are those that were seen."""
  index = example.Places(*_unique(video))
  last = len(index.pts) - 1
  opened = wanted.sought(
    lambda: container.open_bytes(video.content, video.container),
    index,
    np.array([0, last] if last else [0]),
  )
  try:
    found = [_Sight.of(frame) for frame, good in opened[0]() if good]
  except UnreadableError:
    return False
  return found == (ends if last else ends[:1])


def _unique(video: Encoded) -> tuple[np.ndarray, np.ndarray]:
  return np.unique(video.shown), video.keys


def _encoded(
  file: pathlib.Path,
  settings: decode.FrameSettings,
  seen: _Seen,
  size: tuple[int, int],
  start: float,
) -> Iterator[Encoded]:
  """Decodes the file again, and encodes the pictures of each record."""
  source = _source(file, settings, start)
  encoder = h264.Encoder(size, settings.crf)
  frames = enumerate(frame for _, frame in source)
  number, frame = -1, None

  def of_part(times: tuple[float, ...], numbers: np.ndarray) -> Iterator[tuple[float, Any]]:
    nonlocal number, frame
    for time, chosen in zip(times, numbers.tolist(), strict=True):
      if number < chosen:
        number, frame = next((n, f) for n, f in frames if n == chosen)
      yield time, frame

  for times, numbers, _ in seen.parts:
    fps = settings.fps or rates.of_times(times, seen.source.declared_fps)
    yield encoder(of_part(times, numbers), fps)
