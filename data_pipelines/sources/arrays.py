"""Clips from videos as arrays, with any number of channels: `.npy` and `.npz` files.

`config.data.path` is a folder, a CSV or lists of such files, by the rules for videos (fields
`split_column`, `split_list`, `root` and `flat` of `config.data.videos`). Each has one array
`[T, H, W, C]` of `config.data.channels`, uint8 or, with `config.data.value_range`, any numbers.
Nothing is prepared or cached: headers are read when a split is opened, then the frames of the
wanted clips alone.

Arrays have no frame rate: `config.data.videos.stream_fps` gives it, for spans and intervals in
seconds.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
from typing import Any

import numpy as np

from data_pipelines import arrays, pixels
from data_pipelines.clips import steps
from data_pipelines.clips.clip_source import ClipSource
from data_pipelines.clips.pictures import Fetcher
from data_pipelines.listing import video_list
from data_pipelines.records import fingerprint
from data_pipelines.sources.videos import ITEM, VideoStore
from vssl_jax import files
from vssl_jax.errors import UserError

_REQUESTS = 32  # headers that are read at the same time
_AHEAD = 2  # videos that are cropped while the frames of others are read


@dataclasses.dataclass(frozen=True)
class _Fact:
  """What is known about a video: its array and the numbers of its frames, or an error."""

  array: arrays.Array | None = None
  frames: range = range(0)
  error: str = ""


class ArrayStore(VideoStore):
  """One split of a list of arrays; implements `clip_source.Store`.

  Args:
    data: `config.data`.
    split: name of the split.

  Raises:
    UserError: a field or the list is wrong, an array has other channels or needs a range of values,
      or no array of the split can be read; with `data.strict`, if any cannot.
  """

  reads_ahead = _AHEAD

  def __init__(self, data: Any, split: str):
    self._where = f"config.data.path={data.path}"
    self._bounds = pixels.value_range(data.value_range, data.channels)
    fps = float(data.videos.stream_fps)
    if data.videos.fps:
      raise UserError(
        "config.data.videos.fps: arrays have no time stamps to sample by; set it to 0, and "
        "config.data.stride to the frames from one of a clip to the next."
      )
    if not 0 <= fps < 1e9:
      raise UserError(f"config.data.videos.stream_fps: {fps}; set it to 0 or more.")
    self.codec = steps.array(data.channels)
    faults = (arrays.BadArrayError,)
    self._fetcher = Fetcher(
      self._read, (ITEM,), place=self._path, channels=data.channels, faults=faults
    )
    videos, entries = self._of_split(data, split, arrays.EXTENSIONS)
    paths = [files.absolute(video_list.locate(str(videos.root), e.path)) for e in entries]
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
      facts = [*pool.map(_look, paths, entries, [fps] * len(paths))]
    for fact in facts:
      if fact.array is not None:
        self._require(data, fact.array)
    self._tell(videos.notes, entries, facts, split, strict=bool(data.strict))
    self._facts, self._entries = facts, entries
    kept = [n for n, fact in enumerate(facts) if not fact.error]
    self._rows = np.array([(n, 0) for n in kept], np.int64).reshape(-1, 2)
    self._lengths = np.array([len(facts[n].frames) for n in kept], np.int64)
    self._rates = np.full(len(kept), fps, np.float32)
    self._name_labels(videos.labels)
    self.fingerprint = fingerprint.of(
      [data.channels, self._bounds],
      [
        (e.path, e.start, e.end, e.label, f.array and dataclasses.astuple(f.array)[1:])
        for e, f in zip(entries, facts, strict=True)
      ],
    )

  def _require(self, data: Any, array: arrays.Array) -> None:
    has = f"{array.path}: its frames have {array.channels} channels (the last axis)"
    pixels.require_channels(data.channels, (array.channels,), has)
    if not self._bounds and np.dtype(array.dtype) != np.uint8:
      raise UserError(
        f"{array.path}: its values are {np.dtype(array.dtype)}, not uint8; set "
        "config.data.value_range to the values that become 0 and 255, such as 0,10000."
      )

  def _read(self, item: int, frames: tuple[int, ...]) -> np.ndarray:
    fact = self._facts[int(self._rows[item, 0])]
    assert fact.array is not None
    return arrays.read(fact.array, [fact.frames[n] for n in frames], self._bounds)

  def _path(self, i: int) -> str:
    array = self._facts[int(self._rows[i, 0])].array
    assert array is not None
    return array.path


def load(data: Any, *, split: str, **kwargs: Any) -> ClipSource:
  """See `source.load`; `data.path` is a folder, a CSV or lists of arrays."""
  if steps.needs_frame_rate(data) and not data.videos.stream_fps:
    which = "target_fps: it" if data.target_fps else "interval: it is in seconds, which"
    cure = "set it to 0" if data.target_fps else "give the interval in frames"
    raise UserError(
      f"config.data.{which} needs a frame rate, which arrays do not have; set "
      f"config.data.videos.stream_fps, or {cure}."
    )
  return ClipSource(data, ArrayStore(data, split), split=split, **kwargs)


def _look(path: str, entry: video_list.Entry, fps: float) -> _Fact:
  try:
    array = arrays.look(path)
  except arrays.BadArrayError as error:
    return _Fact(error=str(error))
  except OSError as error:
    raise UserError(
      f"{path}: {error.strerror or error}: it cannot be read now; run the same command again"
    ) from None
  if (entry.start, entry.end) == (0, math.inf):
    return _Fact(array, range(array.length))
  if not fps:
    raise UserError(
      f"{path}: the list has a span of it in seconds, but arrays have no frame rate; set "
      "config.data.videos.stream_fps."
    )
  # Frame n has the time n / fps, and belongs to the span if start <= n / fps < end.
  first, last = (
    min(array.length, math.ceil(round(min(t, array.length / fps) * fps, 6)))
    for t in (entry.start, entry.end)
  )
  frames = range(first, last)
  return _Fact(array, frames) if frames else _Fact(error=f"no frames from {entry.start:g} s")
