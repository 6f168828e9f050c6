"""Shards, the units of work of `prepare`: assigning videos to them, writing and resuming them."""

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

from data_pipelines.encoded import example, pack
from data_pipelines.listing import video_list
from data_pipelines.listing.video_list import Entry
from data_pipelines.records import manifest, sequence_example, tfrecord
from data_pipelines.videos import decode
from vssl_jax import files
from vssl_jax.errors import UserError

STATE = ".prepare"  # folder with the results of the finished shards
_SOURCE_BYTES = 64 << 20  # bytes of video files per shard; they give about 0.5 GB of JPEGs
_FEWEST = 16  # minimum number of shards (if there are enough videos), to keep 16 processes busy


class UnreadableVideoError(UserError):
  """A video could not be read, and the job is strict."""


@dataclasses.dataclass(frozen=True)
class Shard:
  """One shard to write.

  Attributes:
    path: the TFRecord file.
    root: folder that the entries' paths start from.
    entries: its videos, in order.
    sizes: size of each video file, bytes; −1 if it is missing.
    labels: class names; the position of a name is its class index.
    settings: how frames are stored.
    strict: stop at the first unreadable video.
    crashed: entries that are not tried again: their position, and the reason.
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
    """Path of the result file, which exists once the shard is complete."""
    return files.path(self.path).parent / STATE / f"{self.name}.json"

  def fingerprint(self) -> str:
    """Digest of the videos and label indices, not of the settings (the job compares those)."""
    entries = [dataclasses.astuple(entry) for entry in self.entries]
    indices = [self.index_of(entry.label) for entry in self.entries]
    return hashlib.sha256(json.dumps([entries, self.sizes, indices]).encode()).hexdigest()

  def index_of(self, label: str) -> int:
    """Index of a class name; −1 if the name is empty."""
    return self.labels.index(label) if label else -1

  def result(self) -> dict[str, Any] | None:
    """The result of an earlier run; None if the shard must still be written."""
    result = read_result(self.state)
    try:
      complete = result is not None and files.size(self.path) == result["bytes"]
    except OSError:
      return None
    return result if result and complete and result["fingerprint"] == self.fingerprint() else None


def read_result(path: pathlib.Path) -> dict[str, Any] | None:
  """The result of a shard, as `write` returned it; None if it is missing or damaged."""
  try:
    result = files.read_json(path)
    texts = [result[k] for k in ("fingerprint", "name", "sha256")]
    counts = dict(result["counts"])
    entry = {k: result[k] for k in ("name", "records", "bytes", "sha256")}
    # The manifest of this shard alone must be one that can be read.
    manifest.Tally.merge([counts])
    sound = not manifest.fault(manifest.build([], {"one": {**counts, "shards": [entry]}}))
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None
  return result if sound and all(isinstance(text, str) for text in texts) else None


def default_count(sizes: Sequence[int]) -> int:
  """Default number of shards for files of these sizes (bytes; −1 for a missing file)."""
  by_size = sum(max(size, 0) for size in sizes) // _SOURCE_BYTES + 1
  return max(1, min(len(sizes), max(by_size, _FEWEST)))


def assign(entries: Sequence[Entry], count: int) -> list[list[Entry]]:
  """Shuffles entries by their hashes and divides them among shards.

  The result does not depend on the order of the entries or on the machine.

  Returns:
    `count` lists whose lengths differ by at most one.
  """
  shuffled = video_list.shuffled(entries)
  edges = [i * len(shuffled) // count for i in range(count + 1)]
  return [shuffled[a:b] for a, b in itertools.pairwise(edges)]


def write(shard: Shard, report) -> dict[str, Any]:
  """Decodes and writes the videos of a shard; the shard and its result appear only when complete.

  Args:
    shard: what to write.
    report: called with ("start", position) before each entry, ("end", position) after it, and
      ("part", position) after each of its records.

  Returns:
    Plain data for JSON: `fingerprint`, `name`, `records`, `bytes`, `sha256`, and the `counts` of
    `manifest.Tally`.

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
  parts, frames, seconds, form = 0, 0, 0.0, ""
  path, settings = video_list.locate(shard.root, entry.path), shard.settings
  made = decode.decode if settings.store == "frames" else pack.pack
  for part in made(path, settings, start=entry.start, end=entry.end):
    video = sequence_example.Video(
      frames=part.frames if isinstance(part, decode.Part) else (),
      fps=part.fps,
      label=shard.index_of(entry.label),
      label_text=entry.label,
      filename=entry.path,
      start=round(part.start * 1e6),
      end=round(part.end * 1e6),
      caption=entry.caption,
    )
    if isinstance(part, pack.Packed):
      form = part.video.form
      writer.write(example.encode(part.video, video))
    else:
      writer.write(sequence_example.encode(video))
    written()
    parts, frames, seconds = parts + 1, frames + part.length, seconds + part.end - part.start
  tally.add_video(
    label=entry.label,
    records=parts,
    frames=frames,
    seconds=seconds,
    fps=part.source_fps,
    size=part.source_size,
    stored_size=part.size,
    form=form,
  )
  tally.add_notes(entry.path, part.notes)
