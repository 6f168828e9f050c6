"""Resuming `prepare`: records what OUTPUT already has, and refuses a job that does not match it.

There is one job per split. `.prepare/{split}.job.json` stores its settings, videos and number of
shards; a job that differs from it is refused.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from data_pipelines.listing import video_list
from data_pipelines.listing.video_list import Entry, VideoList
from data_pipelines.prepare.shards import STATE, Shard, assign, default_count, read_result
from data_pipelines.records import index, manifest
from data_pipelines.videos import decode
from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.files import lock

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


@dataclasses.dataclass(frozen=True)
class Part:
  """A share of the shards, which another process or machine does not write.

  Attributes:
    number: 1 to `count`.
    count: number of parts.
  """

  number: int
  count: int

  @classmethod
  def parse(cls, text: str) -> Part:
    """Parses "3/16".

    Raises:
      UserError: it is something else.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
      raise UserError(f"part is {text!r}: give the number of the part and of all parts, as in 3/16")
    return cls(int(found[1]), int(found[2]))

  def of(self, shards: Sequence[Shard]) -> list[Shard]:
    """This part's shards: every `count`-th one."""
    return list(shards[self.number - 1 :: self.count])


@contextlib.contextmanager
def claim(output: pathlib.Path, part: Part | None = None) -> Iterator[None]:
  """Creates OUTPUT, locks it against a second run, and removes half-written files of a killed run.

  Parts run at the same time, each once; they leave half-written files to the run that follows.

  Raises:
    UserError: another run is writing to OUTPUT, or to the same part of it, or the lock fails.
  """
  files.make_folder(output / STATE)
  with contextlib.ExitStack() as locks:
    locks.enter_context(_locked(output, "lock", shared=part is not None))
    if part is not None:
      locks.enter_context(_locked(output, f"lock.{part.number}-of-{part.count}", shared=False))
      yield
      return
    _clear(output)
    try:
      yield
    finally:
      _clear(output)


@contextlib.contextmanager
def _locked(output: pathlib.Path, name: str, *, shared: bool) -> Iterator[None]:
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(lock.hold(output / STATE / name, shared=shared))
    except lock.Held:
      raise UserError(f"{output}: another prepare is at work there: wait until it ends") from None
    yield


def _clear(output: pathlib.Path) -> None:
  if files.is_remote(output):  # there is no half-written object
    return
  for folder in (output, output / STATE):
    for path in folder.glob(".tmp-*"):
      path.unlink(missing_ok=True)


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
  path = _path(output, job.split)
  before = _job_before(path)
  if not job.shards:
    sizes = list(job.sizes.values())
    job = dataclasses.replace(
      job, shards=before["shards"] if before else min(default_count(sizes), len(job.entries))
    )
  now = job.identity()
  if before is None:
    if foreign := [n for n in _shard_names(output, job.split) if not _is_ours(output, n)]:
      raise UserError(
        f"{output / foreign[0]}: not written by prepare: give another OUTPUT or another split name"
      )
  elif before != now:
    if before.get("videos") != now["videos"]:
      what = "made from another list of videos"
    else:
      fields = [k for k in {**now, **before} if before.get(k) != now.get(k)]
      pairs = [f"{k}={before.get(k)} (now {now.get(k)})" for k in fields]
      what = f"with {', '.join(pairs)}"
    raise UserError(f"{output}: already has split {job.split!r} {what}: {_AGAIN}")
  return job


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
    old = manifest.read(output)
  except UserError:
    old = None
    _set_aside(output / manifest.MANIFEST)
  known = {
    s["name"] for split in (old or {"splits": {}})["splits"].values() for s in split["shards"]
  }
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
  if old is not None:
    rest = {name: split for name, split in old["splits"].items() if name not in splits}
    if rest:
      manifest.write_json(output / manifest.MANIFEST, manifest.build(old["labels"], rest))
    else:
      files.unlink(output / manifest.MANIFEST)


def earlier(output: pathlib.Path) -> dict[str, Any]:
  """The manifest of earlier runs; a damaged one is renamed, and made anew from their results.

  Raises:
    manifest.ForeignError: it is of another program, or of another version's format.
  """
  path = output / manifest.MANIFEST
  try:
    return manifest.read(output) or {"labels": [], "splits": {}}
  except manifest.DamagedError:
    aside = _set_aside(path)
  splits = {}
  for job in sorted(files.matching(output / STATE, "*.job.json")):
    split = job.name.removesuffix(".job.json")
    if (found := _of_split(output, split)) is not None:
      splits[split] = found
  logging.warning(
    "%s: damaged; it is kept as %s, and made anew%s.",
    path,
    aside.name,
    f" with the splits {', '.join(splits)}" if splits else "",
  )
  return {"labels": list(manifest.read_labels(output)), "splits": splits}


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
  """The job of an earlier run; None if there is none, or its file is damaged."""
  try:
    job = files.read_json(path)
  except (OSError, ValueError):
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
