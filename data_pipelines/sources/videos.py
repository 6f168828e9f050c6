"""Clips straight from video files, without preparing records of them.

`config.data.path` is what `vssl prepare` takes: a folder, a CSV or lists of videos, read by the
same rules (`config.data.videos` has the flags of `prepare`). Videos have the numbers that their
records would have, and the batches are those of the records, but for the loss of JPEG.

Where the frames of a video are is looked up once and kept in a cache. Then only the frames of the
wanted clips are decoded, and those between them and the keyframe before, in worker processes with a
time limit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from data_pipelines import pixels
from data_pipelines.clips import steps
from data_pipelines.clips.builders import IMAGE, LABEL, Features, Graph
from data_pipelines.clips.clip_source import ClipSource
from data_pipelines.clips.pictures import Fetcher, in_processes
from data_pipelines.listing import given, video_list
from data_pipelines.listing.finding import EXTENSIONS, counted, few
from data_pipelines.records import fingerprint
from data_pipelines.videos import decode, survey, wanted, workers
from vssl_jax import files
from vssl_jax.errors import UserError

_AHEAD = 2  # videos that are cropped while the worker processes decode others
ITEM = "item"  # int64 [], number of the video in the store


class VideoStore:
  """One split of a list of videos; implements `clip_source.Store`.

  Args:
    data: `config.data`.
    split: name of the split.

  Raises:
    UserError: a field or the list is wrong, the cache cannot be written, or no video of the split
      can be read; with `data.strict`, if any cannot.
  """

  reads_ahead = _AHEAD

  def __init__(self, data: Any, split: str):
    fields = data.videos
    self._where = f"config.data.path={data.path}"
    settings = _settings(data)
    self.codec = steps.array(settings.channels)
    videos, entries = self._of_split(data, split)
    folder = survey.cache_folder(fields.cache)
    spans = [
      wanted.Span(
        files.absolute(video_list.locate(str(videos.root), e.path)),
        str(folder),
        settings,
        e.start,
        e.end,
      )
      for e in entries
    ]
    processes, timeout = data.threads or workers.cores(), float(fields.timeout)
    facts = survey.survey(spans, folder, processes=processes, timeout=timeout)
    call = in_processes(wanted.read, self._request, processes=processes, timeout=timeout)
    self._fetcher = Fetcher(call, (ITEM,), place=self._path, channels=settings.channels)
    self._tell(videos.notes, entries, facts, split, strict=bool(data.strict))
    rows = [(n, p) for n, found in enumerate(facts) for p in range(len(found.parts))]
    self._spans, self._entries = spans, entries
    self._rows = np.array(rows, np.int64).reshape(-1, 2)  # entry and part of each video
    self._lengths = np.array([facts[n].parts[p][0] for n, p in rows], np.int64)
    self._rates = np.array([facts[n].parts[p][1] for n, p in rows], np.float32)
    index_of = self._name_labels(videos.labels)
    self.fingerprint = fingerprint.of(
      decode.described(settings),
      [
        (e.path, e.start, e.end, index_of[e.label], f.size, [n for n, _ in f.parts])
        for e, f in zip(entries, facts, strict=True)
      ],
    )

  def _of_split(
    self, data: Any, split: str, extensions: Collection[str] = EXTENSIONS
  ) -> tuple[video_list.VideoList, list[video_list.Entry]]:
    """The list of videos, and its entries of one split in the order of their records."""
    videos = _listed(data, extensions)
    entries = video_list.shuffled(e for e in videos.entries if e.split == split)
    if not entries:
      known = ", ".join(sorted({e.split for e in videos.entries}))
      raise UserError(
        f"{self._where}: no videos of split {split!r}; it has {known}: set config.data.train_split "
        "and config.data.eval_split, or put videos into a folder of that name."
      )
    return videos, entries

  def _name_labels(self, names: Sequence[str]) -> dict[str, int]:
    """Sets the label of each video; returns the index of each class."""
    index_of = {name: i for i, name in enumerate(names)} | {"": -1}
    self._labels = np.array([index_of[self._entries[n].label] for n, _ in self._rows], np.int64)
    self.classes = frozenset(self._labels[self._labels >= 0].tolist())
    self.label_names = tuple(map(files.printable, names))
    return index_of

  def __len__(self) -> int:
    return len(self._rows)

  def add_parsing(self, graph: Graph, *, with_frame_rate: bool) -> None:
    """Adds nothing: there are no records to parse."""

  def read(self, parse: Callable[[tf.Tensor], Features], i: tf.Tensor) -> Features:
    """See `Store`; `image` has the numbers of the frames, which `fetch` replaces by pictures."""
    del parse
    return {
      IMAGE: tf.range(tf.gather(self._lengths, i)),
      LABEL: tf.gather(self._labels, i)[None],
      steps.FRAME_RATE: tf.gather(self._rates, i)[None],
      ITEM: i,
    }

  def fetch(self, features: Features) -> Features:
    """See `Store`."""
    return self._fetcher.fetch(features)

  def _request(self, item: int, frames: tuple[int, ...]) -> wanted.Request:
    entry, part = (int(x) for x in self._rows[item])
    return wanted.Request(self._spans[entry], part, int(self._lengths[item]), frames)

  def check(self) -> None:
    """See `Store`."""
    self._fetcher.check()

  def name_of(self, i: int) -> str:
    """The path of the video, as it is listed."""
    return self._entries[int(self._rows[i, 0])].path

  def describe(self, i: int) -> str:
    """Path of the video, and why it could not be read, if it was tried."""
    reason = self._fetcher.reasons.get(i, "")
    return self._path(i) + (f" ({reason})" if reason else "")

  def _path(self, i: int) -> str:
    return self._spans[int(self._rows[i, 0])].path

  def _tell(self, notes: Any, entries: Any, facts: Any, split: str, *, strict: bool) -> None:
    """Logs what is left out; raises `UserError` if that is too much."""
    bad = [(e.path, f.error) for e, f in zip(entries, facts, strict=True) if f.error]
    if bad and (strict or len(bad) == len(facts)):
      rest = "" if strict else f", nor can any other of split {split!r}"
      raise UserError(
        f"{self._where}: {bad[0][0]} cannot be read ({bad[0][1]}){rest}; "
        + ("to leave it out, set config.data.strict=False." if strict else "check the files.")
      )
    lines = list(notes)
    if bad:
      shown = [f"{path} ({reason})" for path, reason in bad]
      which = counted(shown, "video")
      lines.append(f"{which} of split {split!r} cannot be read: left out: {few(shown)}")
    for line in lines:
      logging.warning("%s: %s.", self._where, files.printable(line))


def load(data: Any, *, split: str, **kwargs: Any) -> ClipSource:
  """See `source.load`; `data.path` is a folder, a CSV or lists of videos."""
  return ClipSource(data, VideoStore(data, split), split=split, **kwargs)


def _listed(data: Any, extensions: Collection[str]) -> video_list.VideoList:
  if not data.path:
    raise UserError(
      f"config.data.path: empty; give a folder of {data.source}, a CSV or a list: "
      f"--config.data.path={data.source.upper()}."
    )
  fields = data.videos
  return given.videos(
    data.path,
    split=data.train_split,
    split_column=fields.split_column or None,
    split_list=tuple(fields.split_list),
    root=fields.root or None,
    flat=bool(fields.flat),
    extensions=extensions,
  )


def _settings(data: Any) -> decode.FrameSettings:
  fields, where = data.videos, f"config.data.path={data.path}: videos are RGB or gray"
  pixels.require_channels(data.channels, (1, 3), where)
  settings = decode.FrameSettings(
    fps=float(fields.fps),
    short_side=int(fields.short_side),
    max_seconds=float(fields.max_seconds),
    raw_aspect=bool(fields.raw_aspect),
    stream_fps=float(fields.stream_fps),
    max_gap=float(fields.max_gap),
    channels=int(data.channels),
    value_range=pixels.value_range(data.value_range),
  )
  for name in ("fps", "short_side", "max_seconds", "stream_fps", "max_gap", "timeout"):
    if not 0 <= fields[name] < 1e9:
      raise UserError(f"config.data.videos.{name}: {fields[name]}; set it to 0 or more.")
  return settings
