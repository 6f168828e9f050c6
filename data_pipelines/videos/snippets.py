"""Cuts an untrimmed video into snippets: all of its consecutive short clips, in order."""

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
    step: distance between neighboring frames of a snippet, in frames.
    stride: distance between the starts of neighboring snippets, in frames.
    fps: frame rate at which the video is sampled, by time stamps, before `step` and `stride` count
      its frames; 0 for the video's own frames.
    resize: shorter side of the resized frames, pixels.
    size: side of the central square crop, pixels, at most `resize`.
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
  """One video to cut into snippets."""

  path: pathlib.Path
  settings: SnippetSettings


def read(
  path: pathlib.Path, settings: SnippetSettings
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
  """Yields the snippets of a video, and how much of the video has been read.

  Snippet s consists of frames `s · stride + step · (0 … T − 1)`. Frames at the end that do not fill
  a snippet are left out. A video shorter than one snippet is padded by repeating its last frame.
  Only the frames of a few snippets are in memory at a time, for videos of any length.

  Args:
    path: video file of any format that PyAV can open.
    settings: how the snippets are cut.

  Yields:
    A snippet, uint8 `[T, size, size, 3]`, RGB; and a dict: number of `frames` read, `fps` of the
    file, `seconds` read.

  Raises:
    decode.UnreadableError: the video has no frames or is cut off, perhaps after some snippets.
  """
  square, held, first, count, seen = _Square(settings), [], 0, 0, {}
  for time, frame, fps in decode.frames(path, settings.fps):
    count += 1
    seen = {"frames": count, "fps": fps, "seconds": time + 1 / (settings.fps or fps)}
    if count > first:  # if stride > span, the frames between two snippets are not kept
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
  """Passes each snippet of a video to `report`; for `workers.run`.

  Returns:
    A dict with `frames`, `fps`, `seconds` and the number of `snippets`, or with the `error`.
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
  """Resizes a frame and returns its central square crop, upright."""

  def __init__(self, settings: SnippetSettings):
    self._settings, self._reformatter = settings, VideoReformatter()
    self._last: av.VideoFrame | None = None
    self._pixels = np.zeros(0, np.uint8)

  def __call__(self, frame: av.VideoFrame) -> np.ndarray:
    if frame is self._last:
      return self._pixels
    decode.check_size((frame.width, frame.height))
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
