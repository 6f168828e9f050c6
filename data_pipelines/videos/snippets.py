"""An untrimmed video as snippets: short clips one after the other, all of them, in order."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data_pipelines.videos import decode
from vssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SnippetSettings:
  """How snippets are cut.

  Attributes:
    frames: T, frames per snippet.
    step: frames from one of a snippet's to the next.
    stride: frames from a snippet's first to the next snippet's first.
    fps: frames per second that these numbers count, drawn by time stamps; 0 for the video's own.
    resize: pixels of the shorter side.
    size: side of the central square that is cut out, pixels, at most `resize`.
  """

  frames: int = 16
  step: int = 1
  stride: int = 16
  fps: float = 25.0
  resize: int = 128
  size: int = 112

  def __post_init__(self):
    if min(self.frames, self.step, self.stride, self.size) < 1 or self.fps < 0:
      raise UserError(f"snippets: frames, step, stride and size must be positive; got {self}.")
    if self.size > self.resize:
      raise UserError(f"snippets: a square of {self.size} pixels of a side of {self.resize}.")

  @property
  def span(self) -> int:
    """Frames from a snippet's first to its last, both included."""
    return (self.frames - 1) * self.step + 1


@dataclasses.dataclass(frozen=True)
class Task:
  """One video to be cut."""

  path: pathlib.Path
  settings: SnippetSettings


def read(
  path: pathlib.Path, settings: SnippetSettings
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
  """The snippets of a video, and how far it has been read.

  Snippet s takes frames `s · stride + step · (0 … T − 1)`. A rest shorter than a snippet is left
  out, unless it is the whole video, whose last frame is repeated then. A few snippets' frames are
  held at a time, whatever the length of the video.

  Args:
    path: any container PyAV opens.
    settings: how they are cut.

  Yields:
    uint8 `[T, size, size, 3]`, RGB, and `frames` read, `fps` of the file, and `seconds` covered.

  Raises:
    decode.UnreadableError: it has no frames or breaks off, perhaps after some snippets.
  """
  square, held, first, count, seen = _Square(settings), [], 0, 0, {}
  for time, frame, fps in decode.frames(path, settings.fps):
    count += 1
    seen = {"frames": count, "fps": fps, "seconds": time + 1 / (settings.fps or fps)}
    if count > first:  # between two snippets that leave a gap nothing is kept
      held.append(square(frame))
    if len(held) == settings.span:
      yield np.stack(held[:: settings.step]), seen
      held = held[settings.stride :]
      first += settings.stride
  if not count:
    raise decode.UnreadableError("no frames")
  if first == 0:
    held += held[-1:] * (settings.span - len(held))
    yield np.stack(held[:: settings.step]), seen


def send(task: Task, report: Callable[[np.ndarray], None]) -> dict[str, Any]:
  """Reports each snippet of a video; for `workers.run`.

  Returns:
    `frames`, `fps`, `seconds` and the number of `snippets`, or the `error` that ended it.
  """
  seen, count = {}, 0
  try:
    for snippet, now in read(task.path, task.settings):
      seen = now
      report(snippet)
      count += 1
  except decode.UnreadableError as e:
    return {"error": str(e)}
  return {**seen, "snippets": count}


class _Square:
  """Turns a frame into its central square, upright."""

  def __init__(self, settings: SnippetSettings):
    self._settings, self._reformatter = settings, VideoReformatter()
    self._last: av.VideoFrame | None = None
    self._pixels = np.zeros(0, np.uint8)

  def __call__(self, frame: av.VideoFrame) -> np.ndarray:
    if frame is self._last:
      return self._pixels
    short, size = self._settings.resize, self._settings.size
    scale = short / min(frame.width, frame.height)
    width, height = (max(short, round(x * scale)) for x in (frame.width, frame.height))
    rgb = self._reformatter.reformat(
      frame, width=width, height=height, format="rgb24", interpolation="BICUBIC"
    ).to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    turns = round(getattr(frame, "rotation", 0)) % 360 // 90  # counter-clockwise
    self._last = frame
    self._pixels = np.rot90(rgb[top : top + size, left : left + size], turns)
    return self._pixels
