"""Decodes the wanted frames of a video and as few others as possible, with the help of its index.

The pictures are those that `prepare` would store, before they become JPEGs.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import av
import numpy as np

from data_pipelines.videos import container, decode, jpeg, parts, rates, seek_index
from data_pipelines.videos.damage import LEAST_SHARE, UnreadableError

# Frames between two wanted ones that are decoded rather than jumped over: a jump costs about as
# much as decoding a few frames.
_AHEAD = 16
_MOST_BYTES = 2 << 30  # of the pictures of one request
_DEPENDENT = (2, 3, 4, 6)  # FFmpeg's kinds of pictures P, B, S and SP, which need others


@dataclasses.dataclass(frozen=True)
class Span:
  """A video, or a span of it, that `prepare` would store as one or several records.

  Attributes:
    path: the video file or its address.
    cache: folder of the indices.
    settings: how frames are stored; `quality` has no effect.
    start: start of the span, seconds.
    end: end of the span (exclusive), seconds.
  """

  path: str
  cache: str
  settings: decode.FrameSettings
  start: float = 0.0
  end: float = math.inf

  def reading(self) -> seek_index.Reading:
    """What the index of the file depends on."""
    return seek_index.Reading(self.settings.stream_fps, self.settings.max_gap)

  def index(self) -> seek_index.SeekIndex:
    """The index of the file; see `seek_index.cached`."""
    return seek_index.cached(pathlib.Path(self.cache), self.path, self.reading())


class Places(Protocol):
  """Where the frames of a stream are; `seek_index.SeekIndex` tells the meanings."""

  @property
  def pts(self) -> np.ndarray:
    """When each frame is shown, int64 `[L]`, increasing."""
    ...

  @property
  def keys(self) -> np.ndarray:
    """When each keyframe is shown, and when it is decoded, int64 `[K, 2]`."""
    ...

  def group_of(self, number: int) -> tuple[int, int]:
    """The keyframe that a frame is decoded from."""
    ...


@dataclasses.dataclass(frozen=True)
class Stored:
  """The frames of what would be one record.

  Attributes:
    numbers: the number in the file of each frame, int64 `[L]`; increasing, with repetitions.
    fps: frames per second.
  """

  numbers: np.ndarray
  fps: float


@dataclasses.dataclass(frozen=True)
class Request:
  """Frames of one part of a span.

  Attributes:
    span: the video.
    part: number of the part.
    length: number of frames that the part must have, else the file has changed.
    frames: the wanted ones of them, in any order.
  """

  span: Span
  part: int
  length: int
  frames: tuple[int, ...]


def cut(span: Span, index: seek_index.SeekIndex) -> list[Stored]:
  """The parts that `decode.decode` would make of a span, without decoding anything.

  Raises:
    UnreadableError: the span has fewer than two frames, or the frames are too large.
  """
  settings = span.settings
  _size(span, index)
  # The rules take anything for a frame; here it is its number.
  numbered = cast(Any, zip(index.times.tolist(), range(len(index.times)), strict=True))
  shown = rates.between(numbered, span.start, span.end)
  if settings.fps:
    shown = rates.at_rate(shown, settings.fps)
  counted = ((time, cast(int, number).to_bytes(8, "big")) for time, number in shown)
  found: list[Stored] = []
  for stored, _ in parts.cut(counted, settings.max_seconds or math.inf):
    times, names = zip(*stored, strict=True)
    if not found and len(times) < 2:
      break
    numbers = np.array([int.from_bytes(name, "big") for name in names], np.int64)
    found.append(Stored(numbers, settings.fps or rates.of_times(times, index.declared_fps)))
  if not found:
    where = "" if (span.start, span.end) == (0, math.inf) else f" from {span.start:g} s"
    raise UnreadableError(f"fewer than two frames{where}")
  return found


def read(request: Request) -> np.ndarray:
  """The pictures of the wanted frames, uint8 `[n, H, W, C]`, in the order of the request.

  A frame that is lost to damage shows the one before it.

  Raises:
    UnreadableError: the file is broken, has changed, or more than a fifth of the wanted frames are
      lost.
  """
  span = request.span
  now = seek_index.stamp(span.path)
  if now is None:  # as all are if a mount is lost
    raise UnreadableError("no such file any more", passing=True)
  index, stored = _known(span, now)
  if request.part >= len(stored) or len(stored[request.part].numbers) != request.length:
    raise UnreadableError("it was changed since it was opened")
  wanted, places = np.unique(
    stored[request.part].numbers[np.array(request.frames, np.int64)], return_inverse=True
  )
  width, height = size = _size(span, index)
  channels = span.settings.channels
  check_bytes(len(wanted), size, "lower config.data.videos.short_side", channels)
  pictures = jpeg.Pictures(span.settings.short_side, channels, span.settings.value_range)
  pictures.size = size
  found = np.empty((len(wanted), height, width, channels), np.uint8)
  with decode.copied(span.path) as file, decode.explained():
    if not len(index.pts):
      fill(found, pictures, [lambda: _counted(file, span, wanted)])
    else:
      fill(found, pictures, sought(lambda: container.open_file(file), index, wanted))
  places = places.reshape(-1)
  return found if np.array_equal(places, np.arange(len(found))) else found[places]


def check_bytes(
  count: int, size: tuple[int, int], mend: str = "take fewer frames", channels: int = 3
) -> None:
  """Raises `UnreadableError` if so many pictures of this width and height are too much at once."""
  width, height = size
  if width * height * channels * count > _MOST_BYTES:
    raise UnreadableError(f"{count} frames of {width} x {height} exceed 2 GB: {mend}")


Shown = Iterator[tuple[av.VideoFrame, bool]]  # frames, and whether each is good


def fill(
  found: np.ndarray,
  pictures: Callable[[av.VideoFrame], np.ndarray],
  tries: Sequence[Callable[[], Shown]],
) -> None:
  """Makes the pictures of frames.

  Args:
    found: receives them, uint8 `[n, H, W, 3]`.
    pictures: makes the picture of a frame.
    tries: functions that return the n frames, from the fastest to the safest; the next one is tried
      if frames are lost.

  Raises:
    UnreadableError: more than a fifth of the frames are lost, or what the last try raises.
  """
  lost = count = len(found)
  for place, attempt in enumerate(tries):
    try:
      lost, last = 0, None
      for row, (frame, good) in enumerate(attempt()):
        found[row] = found[row - 1] if frame is last else pictures(frame)
        last = frame
        lost += not good
    except UnreadableError:
      if place + 1 == len(tries):
        raise
      lost = count
    if not lost:
      return
  if count - lost < LEAST_SHARE * count:
    raise UnreadableError(f"damaged: {lost} of {count} frames are lost")


def sought(
  opened: Callable[[], Any], index: Places, wanted: np.ndarray
) -> list[Callable[[], Shown]]:
  """The ways to reach frames of a stream that is found by its times, for `fill`.

  Args:
    opened: opens the file.
    index: its index.
    wanted: numbers of the frames, increasing.
  """
  return [
    lambda: _sought(opened, index, wanted),
    # In streams without real keyframes, pictures build up over many frames.
    lambda: _sought(opened, index, wanted, jumps=False),
  ]


@functools.lru_cache(maxsize=64)
def _known(span: Span, now: tuple[int, int] | None) -> tuple[seek_index.SeekIndex, list[Stored]]:
  del now  # a file that has changed is looked at again
  index = span.index()
  return index, cut(span, index)


def _size(span: Span, index: seek_index.SeekIndex) -> tuple[int, int]:
  aspect = 1.0 if span.settings.raw_aspect else index.aspect
  return jpeg.fitted(index.size, aspect, span.settings.short_side, sideways=index.sideways)[1]


def _counted(file: pathlib.Path, span: Span, wanted: np.ndarray) -> Shown:
  """The wanted frames of a file that must be decoded from its beginning."""
  source = container.Source(file, **dataclasses.asdict(span.reading()))
  left = iter(wanted.tolist())
  number = next(left)
  for count, (_, frame) in enumerate(source):
    if count == number:
      yield frame, not frame.is_corrupt
      if (number := next(left, -1)) < 0:
        return
  raise UnreadableError("it ends before its last frame: changed while it was read")


def _sought(
  opened: Callable[[], Any], index: Places, wanted: np.ndarray, *, jumps: bool = True
) -> Shown:
  """The wanted frames (or those shown in their place), and whether each is good.

  Args:
    opened: see `sought`.
    index: see `sought`.
    wanted: see `sought`.
    jumps: go to the keyframes before them; else all is decoded from the beginning.
  """
  with _Decoder(opened, index) as decoder:
    before: av.VideoFrame | None = None
    now: av.VideoFrame | None = None
    for number in wanted:
      pts, (row, first) = int(index.pts[number]), index.group_of(number)
      if jumps and first > decoder.number + _AHEAD:
        decoder.jump(row)
        before = now = None
      while now is None or _pts(now) < pts:
        following = decoder.next()
        if following is None:
          break
        before, now = now, following
      frame = now if now is None or _pts(now) <= pts or before is None else before
      if frame is None:
        raise UnreadableError(f"cannot be decoded: {decoder.reason or 'no frames'}")
      yield frame, frame.pts == pts and not frame.is_corrupt


def _pts(frame: av.VideoFrame) -> int:
  return cast(int, frame.pts)  # the decoder below gives no frames without


class _Decoder:
  """Decodes a stream from its beginning, or from one of its keyframes.

  Attributes:
    number: of the last frame that was decoded; −1 before the first.
    reason: of the first error; "" without one.
  """

  def __init__(self, opened: Callable[[], Any], index: Places):
    self._open, self._index = opened, index
    self.reason = ""
    self._begin()

  def __enter__(self) -> _Decoder:
    return self

  def __exit__(self, *_: Any) -> None:
    self._opened.close()

  def _begin(self) -> None:
    self._opened = self._open()
    self._stream = self._opened.streams.best("video")
    if not isinstance(self._stream, av.VideoStream) or self._stream.codec_context is None:
      raise UnreadableError("no video stream, or no decoder for it")
    self._stream.codec_context.thread_count = 1  # each worker process uses one core
    self._frames = self._from(self._opened.demux(self._stream))
    self._due: int | None = None  # time of the keyframe that must come next; None: any frame may
    self.number = -1

  def jump(self, row: int) -> None:
    """Goes on at a keyframe, or at one before it if the container finds no better."""
    times = [int(x) for x in self._index.keys[row]]
    shown = times[0]
    # Containers compare one or the other; a keyframe before it is as good, only slower.
    for target in times:
      self._opened.seek(target, stream=self._stream, backward=True)
      packets = self._opened.demux(self._stream)
      first = next(packets, None)
      if first is not None and first.is_keyframe and first.pts is not None and first.pts <= shown:
        self.number = int(np.searchsorted(self._index.pts, first.pts)) - 1
        self._due = first.pts
        self._frames = self._from(itertools.chain([first], packets))
        return
    self._opened.close()
    self._begin()

  def next(self) -> av.VideoFrame | None:
    """The next frame that has a time; None at the end.

    Raises:
      UnreadableError: after a jump, the keyframe is none that can be decoded alone. A decoder may
        make up what it refers to, and call the pictures good.
    """
    for frame in self._frames:
      if frame.pts is None or (self._due is not None and frame.pts < self._due):
        continue  # the latter belong to the group before
      if self._due is not None:
        if frame.pts != self._due or (not frame.key_frame and int(frame.pict_type) in _DEPENDENT):
          raise UnreadableError("nothing can be decoded from a keyframe")
        self._due = None
      self.number = int(np.searchsorted(self._index.pts, frame.pts))
      return frame
    return None

  def _from(self, packets: Iterator[Any]) -> Iterator[av.VideoFrame]:
    errors = 0
    while errors < container.ERRORS:
      try:
        for packet in packets:
          errors = 0
          yield from self._decoded(packet)
        return
      except av.error.InvalidDataError as error:
        errors += 1
        self.reason = self.reason or container.explain(error)
        packets = self._opened.demux(self._stream)

  def _decoded(self, packet: av.Packet) -> list[av.VideoFrame]:
    try:
      return packet.decode()
    except MemoryError:
      raise
    except av.FFmpegError as error:
      self.reason = self.reason or container.explain(error)
      return []
