"""Cuts an untrimmed video into snippets: all of its consecutive short clips, in order."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from data_pipelines import arrays
from data_pipelines.videos import decode, display, jpeg, rates, workers
from vssl_jax import files
from vssl_jax.errors import UserError

# Seconds of a long video that have the time limit of a video: the longest record, by default.
PART_SECONDS = decode.FrameSettings.max_seconds
_AT_ONCE = 8  # frames of an array that are read at once


@dataclasses.dataclass(frozen=True)
class SnippetSettings:
  """How snippets are cut.

  Attributes:
    frames: T, frames per snippet.
    step: distance between neighboring frames of a snippet, in frames.
    stride: distance between the starts of neighboring snippets, in frames.
    fps: frame rate at which the video is sampled, by time stamps, before `step` and `stride` count
      its frames; 0 for the video's own frames.
    resize: shorter side of the resized frames, pixels.
    size: side of the central square crop, pixels, at most `resize`.
    raw_aspect: see `decode.FrameSettings`, as for the other two.
    stream_fps: frames per second of streams without time stamps.
    max_gap: longest gap between two frames, seconds.
    channels: C; 3: RGB, 1: gray, other numbers from arrays alone.
    value_range: see `config.data.value_range`.
  """

  frames: int = 16
  step: int = 1
  stride: int = 16
  fps: float = 25.0
  resize: int = 128
  size: int = 112
  raw_aspect: bool = False
  stream_fps: float = 0.0
  max_gap: float = 0.0
  channels: int = 3
  value_range: tuple[float, ...] = ()

  def __post_init__(self):
    if min(self.frames, self.step, self.stride, self.size) < 1:
      raise UserError(f"snippets: frames, step, stride and size must be positive; got {self}.")
    if min(self.fps, self.stream_fps, self.max_gap) < 0:
      raise UserError(f"snippets: fps, stream_fps and max_gap must not be negative; got {self}.")
    if self.size > self.resize:
      raise UserError(
        f"snippets: cannot crop {self.size} pixels from frames resized to {self.resize}; size must "
        "be at most resize."
      )

  @property
  def span(self) -> int:
    """Number of frames from the first to the last of a snippet, both included."""
    return (self.frames - 1) * self.step + 1


@dataclasses.dataclass(frozen=True)
class Task:
  """One video to cut into snippets, or its span from `start` to `end`, seconds."""

  path: pathlib.Path
  settings: SnippetSettings
  start: float = 0.0
  end: float = math.inf


def read(
  path: pathlib.Path, settings: SnippetSettings, start: float = 0.0, end: float = math.inf
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
  """Yields the snippets of a video, and how much of the video has been read.

  Snippet s consists of frames `s · stride + step · (0 … T − 1)`. Frames at the end that do not fill
  a snippet are left out. A video shorter than one snippet is padded by repeating its last frame.
  Only the frames of a few snippets are in memory at a time, for videos of any length.

  Args:
    path: video file of any format that PyAV can open, or an array (`data_pipelines.arrays`), whose
      frame rate is `stream_fps`.
    settings: how the snippets are cut.
    start: start of the span that is read, seconds from the beginning of the video.
    end: its end (exclusive), in the same seconds.

  Yields:
    A snippet, uint8 `[T, size, size, C]`; and a dict: number of `frames` read, `fps` of the
    file, `seconds` read. Once the video has ended, the last dict also has the `notes` about what is
    wrong with it, a list, if anything is.

  Raises:
    decode.UnreadableError: the video has no frames or is cut off, perhaps after some snippets.
  """
  square = _Square(settings)
  held: list[np.ndarray] = []
  first = count = 0
  facts: dict[str, Any] = {}
  whole = (start, end) == (0, math.inf)
  with _opened(path, settings, start) as source:

    def seen(time: float) -> dict[str, Any]:
      fps = source.fps
      return {"frames": count, "fps": fps, "seconds": time - start + 1 / (settings.fps or fps)}

    shown = source if whole else rates.between(source, start, end)
    for time, frame in rates.at_rate(shown, settings.fps) if settings.fps else shown:
      count += 1
      if count > first:  # if stride > span, the frames between two snippets are not kept
        held.append(square(frame, 1.0 if settings.raw_aspect else source.aspect))
      if len(held) == settings.span:
        facts = seen(time)
        yield np.stack(held[:: settings.step]), facts
        held = held[settings.stride :]
        first += settings.stride
    if not count:
      where = "" if whole else f" from {start:g} to {end:g} s"
      raise decode.UnreadableError(f"no frames{where}")
    if first == 0:
      held += held[-1:] * (settings.span - len(held))
      facts = seen(time)
      yield np.stack(held[:: settings.step]), facts
    if source.notes:
      facts["notes"] = list(source.notes)


def send(task: Task, report: Callable[[Any], None]) -> dict[str, Any]:
  """Passes each snippet of a video to `report`; for `workers.run`.

  The time limit is for the whole video, or for each `PART_SECONDS` of a longer one, as in
  `prepare`; a snippet alone does not prolong it.

  Returns:
    A dict with `frames`, `fps`, `seconds` and the number of `snippets`, perhaps `notes`, or with
    the `error`.
  """
  seen: dict[str, Any] = {}
  count, part = 0, 1
  try:
    for snippet, now in read(task.path, task.settings, task.start, task.end):
      seen = now
      if seen["seconds"] >= part * PART_SECONDS:
        part = int(seen["seconds"] // PART_SECONDS) + 1
        report(snippet)
      else:
        report(workers.Piece(snippet))
      count += 1
  except decode.UnreadableError as e:
    return {"error": str(e)}
  return {**seen, "snippets": count}


@contextlib.contextmanager
def _opened(path: pathlib.Path, settings: SnippetSettings, start: float) -> Iterator[Any]:
  """The frames of a video or an array with their times, and what is known about it."""
  if not arrays.is_array(path):
    if settings.channels not in (1, 3):
      raise decode.UnreadableError(
        f"a video has no {settings.channels} channels, which the encoder takes: give arrays (.npy)"
      )
    how = {"stream_fps": settings.stream_fps, "max_gap": settings.max_gap}
    with decode.opened(path, start, **how) as source:
      yield source
    return
  try:
    array = arrays.look(files.absolute(path))
    if array.channels != settings.channels:
      raise arrays.BadArrayError(
        f"it has {array.channels} channels, the encoder takes {settings.channels}"
      )
    if not settings.value_range and np.dtype(array.dtype) != np.uint8:
      raise arrays.BadArrayError(
        f"its values are {np.dtype(array.dtype)}, not uint8, and the encoder's run had no "
        "config.data.value_range"
      )
    if not settings.stream_fps:
      raise arrays.BadArrayError("arrays have no frame rate: give --stream_fps")
    yield _ArrayFrames(array, settings)
  except arrays.BadArrayError as error:
    raise decode.UnreadableError(str(error)) from None


class _ArrayFrames:
  """The frames of an array, as `container.Source` gives those of a video."""

  aspect, notes = 1.0, ()

  def __init__(self, array: arrays.Array, settings: SnippetSettings):
    self.fps = settings.stream_fps
    self._array, self._range = array, settings.value_range

  def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
    for first in range(0, self._array.length, _AT_ONCE):
      numbers = range(first, min(first + _AT_ONCE, self._array.length))
      for number, frame in zip(
        numbers, arrays.read(self._array, numbers, self._range), strict=True
      ):
        yield number / self.fps, frame


class _Square:
  """Resizes a frame and returns its central square crop, upright and with square pixels."""

  def __init__(self, settings: SnippetSettings):
    self._settings, self._reformatter = settings, VideoReformatter()
    self._last: av.VideoFrame | np.ndarray | None = None
    self._pixels = np.zeros(0, np.uint8)

  def __call__(self, frame: av.VideoFrame | np.ndarray, aspect: float) -> np.ndarray:
    if frame is not self._last:
      if isinstance(frame, np.ndarray):
        self._pixels = self._of_array(frame)
      else:
        self._pixels = self._of_frame(frame, aspect)
      self._last = frame
    return self._pixels

  def _of_array(self, frame: np.ndarray) -> np.ndarray:
    """The square of an array, each channel resized as a picture of its own."""
    short, size = self._settings.resize, self._settings.size
    scale = short / min(frame.shape[:2])
    height, width = (max(short, round(x * scale)) for x in frame.shape[:2])
    top, left = (height - size) // 2, (width - size) // 2
    planes = [
      np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))
      for plane in np.ascontiguousarray(np.moveaxis(frame, -1, 0))
    ]
    return np.stack(planes, axis=-1)[top : top + size, left : left + size]

  def _of_frame(self, frame: av.VideoFrame, aspect: float) -> np.ndarray:
    short, size = self._settings.resize, self._settings.size
    shown, pose = display.shown(frame, aspect), display.pose(frame)
    display.check_size((frame.width, frame.height))
    display.check_size(shown)
    scale = short / min(shown)
    width, height = (max(short, round(x * scale)) for x in shown)
    gray = self._settings.channels == 1
    plain = jpeg.in_range(frame, self._settings.value_range, whole=gray)
    kind = "gray" if gray else "rgb24"
    pixels = display.reformat(self._reformatter, plain, (width, height), kind).to_ndarray()
    if pose.tilt:  # before the crop, whose corners are then filled as well
      pixels, pose = pose.apply(pixels), display.UPRIGHT
    top, left = (height - size) // 2, (width - size) // 2
    pixels = pose.apply(pixels[top : top + size, left : left + size])
    return pixels[..., None] if pixels.ndim == 2 else pixels
