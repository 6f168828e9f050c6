"""Shards as units of work: which videos go where, writing one, and what a finished one left."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines import text
from data_pipelines.records import manifest, sequence_example, tfrecord
from data_pipelines.videos import decode
from data_pipelines.videos.video_list import Entry
from vssl_jax.errors import UserError

STATE = ".prepare"  # folder of the finished shards' results
_SOURCE_BYTES = 64 << 20  # video files' bytes per shard: about half a gigabyte of JPEGs
_FEWEST = 16  # shards, where there are that many videos: work for that many processes
_RECORD_BYTES = (2 << 30) - (1 << 20)  # protobuf's limit


class UnreadableVideoError(UserError):
  """A video could not be read and the job is strict."""


@dataclasses.dataclass(frozen=True)
class Shard:
  """One shard to write.

  Attributes:
    path: the TFRecord file.
    root: folder that the entries' paths start from.
    entries: its videos, in order.
    sizes: bytes of each video file; −1 where it is missing.
    labels: class names; a label's index is its position.
    settings: how frames are stored.
    strict: stop at the first unreadable video.
    crashed: position of an entry to the reason why it is not tried again.
  """

  path: str
  root: str
  entries: tuple[Entry, ...]
  sizes: tuple[int, ...]
  labels: tuple[str, ...]
  settings: decode.FrameSettings
  strict: bool = False
  crashed: Mapping[int, str] = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    """File name of the shard."""
    return os.path.basename(self.path)

  @property
  def state(self) -> pathlib.Path:
    """Where the result lies once the shard is complete."""
    return pathlib.Path(self.path).parent / STATE / f"{self.name}.json"

  def fingerprint(self) -> str:
    """Changes with videos and label indices, not with settings (compared job by job)."""
    entries = [dataclasses.astuple(entry) for entry in self.entries]
    indices = [self.index_of(entry.label) for entry in self.entries]
    return hashlib.sha256(json.dumps([entries, self.sizes, indices]).encode()).hexdigest()

  def index_of(self, label: str) -> int:
    """Index of a class name, −1 for none."""
    return self.labels.index(label) if label else -1

  def result(self) -> dict[str, Any] | None:
    """The result of an earlier run, None where the shard is still to be written."""
    try:
      result = json.loads(text.read(self.state))
      complete = os.path.getsize(self.path) == result["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
      return None
    return result if complete and result["fingerprint"] == self.fingerprint() else None


def default_count(sizes: Sequence[int]) -> int:
  """Number of shards for videos of these file sizes (bytes; −1 for a missing file)."""
  by_size = sum(max(size, 0) for size in sizes) // _SOURCE_BYTES + 1
  return max(1, min(len(sizes), max(by_size, _FEWEST)))


def assign(entries: Sequence[Entry], count: int) -> list[list[Entry]]:
  """Deals entries to shards, shuffled by a hash of each so that neither order nor machine matters.

  Returns:
    `count` lists whose lengths differ by at most one.
  """

  def key(entry: Entry):
    place = json.dumps([entry.path, entry.start, entry.end])
    return hashlib.sha256(place.encode()).digest(), dataclasses.astuple(entry)

  shuffled = sorted(entries, key=key)
  edges = [i * len(shuffled) // count for i in range(count + 1)]
  return [shuffled[a:b] for a, b in itertools.pairwise(edges)]


def write(shard: Shard, report) -> dict[str, Any]:
  """Decodes a shard's videos and writes them; file and result appear only when complete.

  Args:
    shard: what to write.
    report: gets ("start", position) before and ("end", position) after every entry, and
      ("part", position) after each record of an entry.

  Returns:
    Plain data for JSON: `fingerprint`, `name`, `records`, `bytes`, `sha256`, and `counts` as
    `manifest.Tally` has them.

  Raises:
    UnreadableVideoError: the first unreadable video of a strict job.
    OSError: the shard cannot be written.
  """
  tally = manifest.Tally()
  with tfrecord.ShardWriter(shard.path) as writer:
    for position, entry in enumerate(shard.entries):
      report(("start", position))
      mark = writer.mark()
      try:
        if position in shard.crashed:
          raise decode.UnreadableError(shard.crashed[position])
        _write_video(shard, entry, writer, tally, functools.partial(report, ("part", position)))
      except decode.UnreadableError as reason:
        if shard.strict:
          raise UnreadableVideoError(f"{entry.path}: {reason}") from None
        writer.rewind(mark)
        tally.add_unreadable(entry.path, str(reason))
      report(("end", position))
  tally.counts["bytes"] = writer.size
  result = {
    "fingerprint": shard.fingerprint(),
    "name": shard.name,
    "records": tally.counts["records"],
    "bytes": writer.size,
    "sha256": writer.sha256,
    "counts": tally.counts,
  }
  manifest.write_json(shard.state, result)
  return result


def _write_video(shard: Shard, entry: Entry, writer, tally: manifest.Tally, written) -> None:
  parts, frames, seconds = 0, 0, 0.0
  path = os.path.join(shard.root, entry.path)
  for part in decode.decode(path, shard.settings, start=entry.start, end=entry.end):
    if sum(map(len, part.frames)) > _RECORD_BYTES:
      raise decode.UnreadableError(
        "a record of it would pass 2 GB: lower --max_seconds, --short_side or --quality"
      )
    video = sequence_example.Video(
      frames=part.frames,
      fps=part.fps,
      label=shard.index_of(entry.label),
      label_text=entry.label,
      filename=entry.path,
      start=round(part.start * 1e6),
      end=round(part.end * 1e6),
      caption=entry.caption,
    )
    writer.write(sequence_example.encode(video))
    written()
    parts, frames, seconds = parts + 1, frames + len(part.frames), seconds + part.end - part.start
  tally.add_video(
    label=entry.label,
    records=parts,
    frames=frames,
    seconds=seconds,
    fps=part.source_fps,
    size=part.source_size,
    stored_size=part.size,
  )
