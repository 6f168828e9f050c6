"""Resuming `prepare`: records what OUTPUT already has, and refuses a job that does not match it.

There is one job per split. `.prepare/{split}.job.json` stores its settings, videos and number of
shards; a job that differs from it is refused.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import logging

from data_pipelines.listing import video_list
from data_pipelines.listing.video_list import Entry, VideoList
from data_pipelines.prepare.shards import STATE, Shard, assign, default_count, read_result
from data_pipelines.records import index, manifest
from data_pipelines.videos import decode
from vssl_jax import files
from vssl_jax.errors import UserError

_REQUESTS = 32  # sizes that are asked for at the same time
_MOST_SHARDS = 10_000_000
_AGAIN = "give another OUTPUT, the same arguments as in that run, or --overwrite"


@dataclasses.dataclass(frozen=True)
class Job:
  """One split to prepare.

  Attributes:
    split: name of the split.
    entries: its videos.
    sizes: size of each file in bytes, by path; −1 if the file is missing.
    settings: how frames are stored.
    shards: number of shards; 0 while undecided.
  """

  split: str
  entries: tuple[Entry, ...]
  sizes: dict[str, int]
  settings: decode.FrameSettings
  shards: int

  def identity(self) -> dict[str, Any]:
    """What must stay the same between two runs, as plain data for JSON."""
    entries = sorted(dataclasses.astuple(entry) for entry in self.entries)
    return {
      **decode.described(self.settings),
      "shards": self.shards,
      "videos": hashlib.sha256(json.dumps(entries).encode()).hexdigest(),
    }


def plan(videos: VideoList, settings: decode.FrameSettings, shards: int) -> list[Job]:
  """Makes one job per split, sorted by name."""
  groups: dict[str, list[Entry]] = {}
  for entry in videos.entries:
    groups.setdefault(entry.split, []).append(entry)
  plans = []
  for split, entries in sorted(groups.items()):
    sizes = _sizes(videos, entries)
    plans.append(Job(split, tuple(entries), sizes, settings, min(shards, len(entries))))
  return plans


def settle_labels(
  output: pathlib.Path, videos: VideoList, file: str | os.PathLike | None
) -> tuple[str, ...]:
  """Decides the class names and their indices, shared by all splits; writes `labels.txt`.

  Raises:
    UserError: a video's label is not among the names, or an earlier run used other names.
  """
  before = manifest.read_labels(output) if files.matching(output / STATE, "*.job.json") else ()
  names = before or videos.labels
  source = f"{output / manifest.LABELS}, written by an earlier run"
  if file is not None:
    source = str(file)
    names = manifest.label_lines(file)
    if "" in names:
      raise UserError(
        f"{file}, line {names.index('') + 1}: blank; remove it, each line must name a class"
      )
    if len(set(names)) < len(names):
      raise UserError(f"{file}: names a class twice; remove one of the two lines")
    if before and names != before:
      raise UserError(
        f"{file}: differs from {manifest.LABELS} in {output}, written by an earlier run: {_AGAIN}"
      )
  unknown = sorted(set(videos.labels) - set(names))
  if unknown:
    raise UserError(
      f"label {unknown[0]!r} is not in {source}: prepare the split with all classes first, or give "
      "--labels"
    )
  files.write_text(output / manifest.LABELS, "".join(f"{name}\n" for name in names))
  return names


def settle(output: pathlib.Path, job: Job) -> Job:
  """Fixes the number of shards and checks the job against what is in OUTPUT.

  Raises:
    UserError: OUTPUT has this split with other settings or videos, or shards that `prepare` did
      not write.
  """
  before = _job_before(_path(output, job.split))
  there = before["shards"] if before else _shards_there(output, job)
  if not job.shards:
    shards = there or min(default_count(list(job.sizes.values())), len(job.entries))
    job = dataclasses.replace(job, shards=shards)
  now = job.identity()
  if before is None and there not in (0, job.shards):
    raise UserError(
      f"{output}: already has split {job.split!r} with shards={there} (now {job.shards}): {_AGAIN}"
    )
  if before is not None and before != now:
    if before.get("videos") != now["videos"]:
      what = "made from another list of videos"
    else:
      fields = [k for k in {**now, **before} if before.get(k) != now.get(k)]
      pairs = [f"{k}={before.get(k)} (now {now.get(k)})" for k in fields]
      what = f"with {', '.join(pairs)}"
    raise UserError(f"{output}: already has split {job.split!r} {what}: {_AGAIN}")
  return job


def _shards_there(output: pathlib.Path, job: Job) -> int:
  """How many shards a split has whose job file is lost or damaged; 0 if it has none.

  Raises:
    UserError: they are not of `prepare`, or nothing says that they were made with these settings.
  """
  names = _shard_names(output, job.split)
  if foreign := [n for n in names if not _is_ours(output, n)]:
    raise UserError(
      f"{output / foreign[0]}: not written by prepare: give another OUTPUT or another split name"
    )
  counts = {int(n.removesuffix(".tfrecord").rpartition("-")[2]) for n in names}
  settings = _settings_in_manifest(output, job.split)
  if names and (settings != decode.described(job.settings) or len(counts) > 1):
    raise UserError(
      f"{output}: has shards of split {job.split!r}, but {_path(output, job.split).name} is "
      f"missing or damaged, and {manifest.MANIFEST} does not say that they have these settings: "
      f"{_AGAIN}"
    )
  if counts and not 0 < max(counts) <= len(job.entries):
    raise UserError(
      f"{output}: already has split {job.split!r} made from another list of videos: {_AGAIN}"
    )
  return max(counts, default=0)


def _settings_in_manifest(output: pathlib.Path, split: str) -> Any:
  """The settings that the manifest has of a split; None if it has none, or cannot be read."""
  try:
    stored = manifest.read(output)
  except UserError:
    return None
  return stored["splits"].get(split, {}).get("settings") if stored else None


def record(output: pathlib.Path, job: Job) -> None:
  """Writes the job's file, which `settle` reads in a later run."""
  manifest.write_json(_path(output, job.split), job.identity())


def tasks(
  output: pathlib.Path, root: pathlib.Path, job: Job, labels: tuple[str, ...], strict: bool
) -> list[Shard]:
  """All shards of a job, written or not."""
  return [
    Shard(
      path=str(output / f"{job.split}-{number:05d}-of-{job.shards:05d}.tfrecord"),
      root=str(root),
      entries=tuple(entries),
      sizes=tuple(job.sizes[entry.path] for entry in entries),
      labels=labels,
      settings=job.settings,
      strict=strict,
    )
    for number, entries in enumerate(assign(job.entries, job.shards))
  ]


def remove(output: pathlib.Path, splits: Sequence[str]) -> None:
  """Deletes the files that earlier jobs wrote for these splits; other files stay.

  All is read before anything is deleted. A manifest that is damaged, or of another program, is
  renamed, so that nothing is lost.
  """
  try:
    old = earlier(output)
  except manifest.ForeignError:
    old = manifest.build((), {})
    _set_aside(output / manifest.MANIFEST)
  known = {s["name"] for split in old["splits"].values() for s in split["shards"]}
  for split in splits:
    job = _path(output, split)
    names = _shard_names(output, split)
    if not job.exists():  # lost, but the results of the shards, or the manifest, say whose they are
      names = [n for n in names if n in known or _is_ours(output, n)]
    for name in names:
      files.unlink(output / name)
      _clear_away(output / STATE / f"{name}.json")
    _clear_away(index.path_of(output, split))
    _clear_away(job)
  rest = {name: split for name, split in old["splits"].items() if name not in splits}
  if rest:
    manifest.write_json(output / manifest.MANIFEST, manifest.build(old["labels"], rest))
  else:
    files.unlink(output / manifest.MANIFEST, missing_ok=True)


def earlier(output: pathlib.Path, *, mend: bool = True) -> dict[str, Any]:
  """The manifest of earlier runs; a damaged one is made anew from their results.

  Args:
    output: folder of the records.
    mend: rename a damaged one, and write the new one at once, because the run that calls this may
      be killed, or prepare another split. Parts that run at the same time leave it to the run that
      follows.

  Raises:
    manifest.ForeignError: it is of another program, or of another version's format.
  """
  path = output / manifest.MANIFEST
  try:
    return manifest.read(output) or manifest.build((), {})
  except manifest.DamagedError:
    pass
  splits = {}
  for job in sorted(files.matching(output / STATE, "*.job.json")):
    split = job.name.removesuffix(".job.json")
    if (found := _of_split(output, split)) is not None:
      splits[split] = found
  built = manifest.build(manifest.read_labels(output), splits)
  if not mend:
    return built
  aside = _set_aside(path)
  if splits:
    manifest.write_json(path, built)
  logging.warning(
    "%s: damaged; it is kept as %s, and made anew%s.",
    path,
    aside.name,
    f" with the splits {', '.join(splits)}" if splits else "",
  )
  return built


def _of_split(output: pathlib.Path, split: str) -> dict[str, Any] | None:
  """What the manifest has of a split, from the results of its shards; None if one lacks."""
  before = _job_before(_path(output, split))
  if before is None:
    return None
  results = []
  for name in _shard_names(output, split):
    result = read_result(output / STATE / f"{name}.json")
    if result is None or files.size(output / name) != result["bytes"]:
      return None
    results.append(result)
  if len(results) != before["shards"]:
    return None
  names = (f.name for f in dataclasses.fields(decode.FrameSettings))
  settings = {name: before[name] for name in names if name in before}
  return describe(results, settings, ())


def describe(
  results: Sequence[dict[str, Any]], settings: dict[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
  """What the manifest has of a split.

  Args:
    results: of its shards, in order.
    settings: how frames are stored.
    notes: of the list of videos.
  """
  return {
    **manifest.Tally.merge(result["counts"] for result in results),
    "settings": settings,
    "notes": list(notes),
    "shards": [{k: r[k] for k in ("name", "records", "bytes", "sha256")} for r in results],
  }


def _job_before(path: pathlib.Path) -> dict[str, Any] | None:
  """The job of an earlier run; None if there is none, or its file is damaged.

  Raises:
    OSError: the storage cannot say.
  """
  try:
    job = files.read_json(path)
  except (FileNotFoundError, IsADirectoryError, ValueError):
    return None
  if not isinstance(job, dict) or not isinstance(shards := job.get("shards"), int):
    return None
  return job if 0 < shards < _MOST_SHARDS and not isinstance(shards, bool) else None


def _is_ours(output: pathlib.Path, shard: str) -> bool:
  """Whether the result of a shard is there, as `prepare` writes it after the shard."""
  return (output / STATE / f"{shard}.json").is_file()


def _set_aside(path: pathlib.Path) -> pathlib.Path:
  """Renames a file or folder to `NAME.damaged`, or the first of `NAME.damaged-2` … that is free."""
  names = itertools.chain(["damaged"], (f"damaged-{n}" for n in itertools.count(2)))
  aside = next(p for n in names if not (p := path.with_name(f"{path.name}.{n}")).exists())
  if files.is_remote(path):
    files.move_tree(path, aside)
  else:
    os.replace(path, aside)
  return aside


def _clear_away(path: pathlib.Path) -> None:
  """Removes a file of ours, or whatever else lies at its place."""
  if not files.is_remote(path) and path.is_dir() and not path.is_symlink():
    files.remove_tree(path)
  else:
    files.unlink(path, missing_ok=True)


def _path(output: pathlib.Path, split: str) -> pathlib.Path:
  return output / STATE / f"{split}.job.json"


def _shard_names(output: pathlib.Path, split: str) -> list[str]:
  pattern = re.compile(re.escape(split) + r"-\d{5,}-of-\d{5,}(\.tfrecord)?")
  return sorted(name for name in files.names(output) if pattern.fullmatch(name))


def _sizes(videos: VideoList, entries: Sequence[Entry]) -> dict[str, int]:
  """Size of each file in bytes, by path; −1 if it is missing."""
  names = sorted({entry.path for entry in entries})

  def size(name: str) -> int:
    where = video_list.locate(videos.root, name)
    try:
      return videos.sizes.get(name) or files.size(where)
    except OSError as error:
      # A storage that does not answer now may answer the next run, which must find the same.
      if files.is_address(where) and not isinstance(error, FileNotFoundError):
        raise
      return -1

  with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
    return dict(zip(names, pool.map(size, names), strict=True))
