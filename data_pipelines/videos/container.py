"""Reads the frames of a video file with their times, past damage and whatever the time stamps are.

Times are seconds from the beginning of the video stream, and increase. What is wrong with a file is
noted; only what makes it useless is an error, by one rule for all containers: less than 80 % of the
frames can be decoded, or the file ends before 80 % of the time that its header declares.
"""

from __future__ import annotations

import collections
import fractions
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import av

from data_pipelines.videos import display, rates
from data_pipelines.videos.damage import Account, UnreadableError
from data_pipelines.videos.rates import Timed

# PyAV before 19 cannot open a file whose title is not valid UTF-8 without this option.
_LENIENT: dict[str, Any] = (
  {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
_SEEK_FROM = 10.0  # seconds; earlier starts are reached by decoding, which is always exact
_SEEK_MARGIN = 5.0  # seconds; how far before the start to seek
# Containers with the time of each frame and an index. In others, what a seek finds may have times
# that are off by some frames, or, in joined transport streams, by hours.
_SEEKABLE = frozenset({"mov", "matroska", "avi"})
# Streams without a container, and so without times: the decoder counts frames.
_RAW = frozenset(
  ("h261", "h263", "h264", "hevc", "jpeg_pipe", "m4v", "mjpeg", "mpegvideo", "obu", "vc1", "vvc")
)
_ANEW = 1.0  # seconds back, from which time stamps began anew rather than being out of order
_REORDERED = 18  # most packets that a decoder holds back to put frames in order, and two
ERRORS = 100  # errors of a container in a row, after which it counts as ended


class Source:
  """Iterates over (seconds, frame) with increasing times, and measures the frame rate.

  Args:
    path: video file of any format that PyAV can open.
    start: seconds from which frames are needed; the first ones may be earlier.
    stream_fps: frames per second of streams without time stamps, such as `.h264`; 0 for the rate
      that the stream states.
    max_gap: longest gap between two frames, seconds; a longer one counts as broken time stamps. 0
      sets no limit.

  Attributes:
    declared_fps: frame rate in the container's header; 0 if it has none.
    aspect: factor of a frame's width that makes its pixels square.
    notes: what is wrong with the file, as found so far.
    fps: frame rate measured over the frames so far, or the declared rate if the two agree.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    start: float = 0.0,
    *,
    stream_fps: float = 0.0,
    max_gap: float = 0.0,
  ):
    self._path = os.path.abspath(path)  # FFmpeg takes `12:30.mp4` for an address
    self._seek_to = start - _SEEK_MARGIN if start > _SEEK_FROM else 0.0
    self._stream_fps, self._max_gap = stream_fps, max_gap
    self.declared_fps = 0.0
    self.aspect = 1.0
    self._begin()

  def _begin(self) -> None:
    self._account = Account()
    self._gaps = rates.Gaps()
    self._declared = 0.0  # seconds, by the header; 0 if it does not say
    self._whole_file = False  # whether they are those of all streams together
    self._length = 0.0  # of the last frame, seconds; 0 if unknown
    self._reach = 0.0  # seconds at which the other streams end
    self._counted = False  # whether the time stamps are of no use

  @property
  def fps(self) -> float:
    """See the class."""
    return self._gaps.rate(self.declared_fps)

  @property
  def notes(self) -> tuple[str, ...]:
    """See the class."""
    return self._account.notes()

  def __iter__(self) -> Iterator[Timed]:
    frames = self._frames(self._seek_to)
    first = next(frames, None)
    # After a seek, the first frame must have a time stamp and must not be later than `start`.
    lost = first is None or first[0] is None or first[0] > self._seek_to + _SEEK_MARGIN
    if self._seek_to and lost:
      self._begin()
      frames = self._frames(0.0)  # seeking failed in this container: decode from the beginning
      first = next(frames, None)
    last = shift = 0.0
    count = 0
    for time, frame in () if first is None else itertools.chain([first], frames):
      if time is not None:
        time += shift
        if count and time < last - _ANEW:
          again = last + self._step()
          shift, time = shift + again - time, again
          self._account.jump_back()
      if not count:
        time = time or 0.0  # 0 if the first frame has no time stamp
      elif time is None or time <= last:
        time = last + self._step()
      gap = time - last if count else 0.0
      if count:
        if self._max_gap and gap > self._max_gap:
          raise UnreadableError(
            f"its time stamps jump from {last:.0f} s to {time:.0f} s: broken or not a video "
            "(--max_gap)"
          )
        self._gaps.add(gap)
      self._account.frame(gap, last, self._gaps, frame.is_corrupt)
      last, count = time, count + 1
      yield time, frame
    end = last + (self._length or self._gaps.median()) if count else 0.0
    end = max(end, self._reach) if self._whole_file else end
    self._account.close(self._gaps, end, self._declared)

  def _step(self) -> float:
    """Seconds from a frame to the next one, if that has no time of its own."""
    return 1 / (self.declared_fps or rates.UNKNOWN)

  def _frames(self, seek_to: float) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """Decodes all frames from `seek_to` or earlier, with the times that the container gives."""
    if os.path.getsize(self._path) == 0:
      raise UnreadableError("empty file")
    with open_file(self._path) as container:
      stream = container.streams.best("video")
      if not isinstance(stream, av.VideoStream):
        kinds = sorted({s.type for s in container.streams})
        raise UnreadableError(f"no video stream (only {', '.join(kinds) or 'an empty container'})")
      context = stream.codec_context
      if context is None:
        raise UnreadableError("no decoder for its codec")
      context.thread_count = 1  # each worker process uses one core
      zero = stream.start_time
      if stream.time_base is None:
        raise UnreadableError("no time base, so its time stamps mean nothing")
      # PyAV before 19 has a `Fraction`, later ones a type of their own.
      base = fractions.Fraction(stream.time_base.numerator, stream.time_base.denominator)
      names = container.format.name.split(",")
      ordered = "avi" in names  # AVI has only the order in which frames are decoded
      self._describe(container, stream, base, names)
      if seek_to and zero is not None and _seeks_well(names, context):
        container.seek(int(seek_to / base) + zero, stream=stream, backward=True)
      streams = list(container.streams) if self._whole_file else [stream]
      latest: int | None = None
      due: collections.deque[int] = collections.deque(maxlen=_REORDERED)
      for packet in self._packets(container, streams):
        if packet.stream_index != stream.index:
          self._watch(container, packet)
          continue
        if not packet.size and packet.dts is not None:
          continue  # the frame before stays, as in Theora
        try:
          frames = self._decode(context, packet)
        except MemoryError:
          raise
        except av.FFmpegError as error:
          self._account.failed(explain(error))
          continue
        if is_shown(context, packet):
          self._account.packet()
          if packet.pts is not None and (latest is None or packet.pts > latest):
            latest, self._length = packet.pts, float((packet.duration or 0) * base)
        if ordered and packet.dts is not None:
          due.append(packet.dts)
        for frame in frames:
          pts = due.popleft() if ordered and due else frame.pts
          if self._counted or pts is None:
            yield None, frame
            continue
          zero = pts if zero is None else zero
          yield float((pts - zero) * base), frame

  def _decode(self, context: av.VideoCodecContext, packet: av.Packet) -> Iterable[av.VideoFrame]:
    """The frames that a packet completes; an empty packet asks for all that are held back."""
    del context
    return packet.decode()

  def _describe(
    self,
    container: Any,
    stream: av.VideoStream,
    base: fractions.Fraction,
    names: list[str],
  ) -> None:
    """Takes from the header what later frames are measured by."""
    self.declared_fps = float(stream.average_rate or stream.guessed_rate or 0)
    if not _RAW.isdisjoint(names):
      stated = float(stream.codec_context.framerate or stream.guessed_rate or 0)
      self._counted = bool(self._stream_fps)
      self.declared_fps = self._stream_fps or stated or self.declared_fps
    self._gaps = rates.Gaps(base)
    ratio = float(stream.sample_aspect_ratio or 0)
    factor = display.stretch(ratio)
    if factor is None:
      self._account.note(f"its sample aspect ratio of {ratio:g} makes no sense and is ignored")
    self.aspect = factor or 1.0
    self._declared, self._whole_file = _declared_seconds(container, stream, base, names)

  def _packets(self, container: Any, streams: list[Any]) -> Iterator[Any]:
    """All packets, and those behind a damaged place; the last ones are empty and flush decoders."""
    errors = 0
    while errors < ERRORS:
      try:
        for packet in container.demux(streams):
          errors = 0
          yield packet
        return
      except av.error.InvalidDataError as error:
        errors += 1
        self._account.failed(explain(error))

  def _watch(self, container: Any, packet: Any) -> None:
    """Notes how far another stream reaches."""
    time = packet.pts if packet.pts is not None else packet.dts
    if time is not None and packet.time_base is not None:
      end = float((time + (packet.duration or 0)) * packet.time_base)
      self._reach = max(self._reach, end - (container.start_time or 0) / av.time_base)


def open_file(path: str | os.PathLike) -> Any:
  """Opens a file with PyAV, whatever its name looks like and whatever its texts hold."""
  return av.open(os.path.abspath(path), **_LENIENT)


def open_bytes(content: bytes, kind: str) -> Any:
  """Opens the bytes of a file with PyAV.

  Args:
    content: of the file.
    kind: FFmpeg's name of its container. It is never guessed: a list of addresses is a video, too.
  """
  return av.open(io.BytesIO(content), format=kind, **_LENIENT)


def is_shown(context: av.VideoCodecContext, packet: av.Packet) -> bool:
  """Whether a packet has a frame that players show."""
  return bool(packet.size) and not packet.is_discard and not _is_hidden(context, packet)


def explain(error: Exception) -> str:
  """The message of an exception of a decoder, in one line."""
  text = str(getattr(error, "strerror", "") or error) or type(error).__name__
  return " ".join(text.split())


def _is_hidden(context: av.VideoCodecContext, packet: av.Packet) -> bool:
  """Whether a packet has a frame of VP8 that others refer to and that is never shown."""
  return context.name == "vp8" and not memoryview(packet)[0] & 0x10


def _seeks_well(names: list[str], context: av.VideoCodecContext) -> bool:
  if "avi" in names and context.has_b_frames:
    return False
  return not _SEEKABLE.isdisjoint(names)


def _declared_seconds(
  container: Any, stream: av.VideoStream, base: fractions.Fraction, names: list[str]
) -> tuple[float, bool]:
  """Length of the video by the header; 0 if that does not say.

  FFmpeg guesses where no header says: from the file's size, or where the file ends. Its guesses say
  nothing about what is missing, so only containers whose durations are read from headers count.

  Returns:
    Seconds, and whether they are those of the longest stream instead of the video's.
  """
  if "avi" in names:  # in units of frames; FFmpeg's duration is by the size of the file
    return float(stream.frames * base), False
  if "mov" in names:
    return float((stream.duration or 0) * base), False
  if {"matroska", "flv"}.isdisjoint(names):
    return 0.0, False
  if seconds := _seconds(stream.metadata):
    return seconds, False
  if stream.duration is None and container.duration:  # else it is a guess
    return container.duration / av.time_base, len(container.streams) > 1
  return 0.0, False


def _seconds(metadata: dict[str, str]) -> float:
  """Duration of a stream of Matroska by its tag, as FFmpeg and mkvmerge write it; 0 without."""
  for name, value in metadata.items():
    if name.partition("-")[0].upper() == "DURATION":
      found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", value.strip())
      if found:
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
  return 0.0
