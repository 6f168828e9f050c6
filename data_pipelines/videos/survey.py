"""Finds out which videos can be read, and how many frames they have; what is found is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av

from data_pipelines.videos import decode, seek_index, wanted, workers
from data_pipelines.videos.damage import UnreadableError
from vssl_jax import files
from vssl_jax.cli import progress
from vssl_jax.errors import UserError

_FORMAT = 2
_GROUP = 32  # most videos of a task
_AT_ONCE = 32  # files that are asked for their size at the same time


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known about a span of a video.

  Attributes:
    parts: number of frames and frames per second of each part.
    error: why it cannot be read; "" if it can.
    notes: what is wrong with it, though not enough to leave it out.
    size: of the file, bytes; −1 without one.
    lost: whether its process crashed or exceeded the time limit, or the storage failed, so that the
      next run tries again.
  """

  parts: tuple[tuple[int, float], ...] = ()
  error: str = ""
  notes: tuple[str, ...] = ()
  size: int = -1
  lost: bool = False


@dataclasses.dataclass(frozen=True)
class _Group:
  """A task: some spans, of which some are known to crash, with the reason."""

  numbers: tuple[int, ...]
  spans: tuple[wanted.Span, ...]
  crashed: Mapping[int, str] = dataclasses.field(default_factory=dict)


def cache_folder(given: str) -> pathlib.Path:
  """The folder of the indices, which is made: the given one, or one in the user's cache.

  Raises:
    UserError: it cannot be made.
  """
  base = os.environ.get("XDG_CACHE_HOME", "") or os.path.join(os.path.expanduser("~"), ".cache")
  folder = files.local(given or os.path.join(base, "vssl_jax", "videos"))
  try:
    return pathlib.Path(os.path.abspath(files.make_folder(folder)))
  except UserError as error:
    raise UserError(f"config.data.videos.cache: {error}") from None


def survey(
  spans: Sequence[wanted.Span], folder: pathlib.Path, *, processes: int, timeout: float
) -> list[Facts]:
  """The facts of each span; videos that are not in the cache yet are read, which takes a while.

  Args:
    spans: the videos.
    folder: the cache.
    processes: number of worker processes.
    timeout: seconds that a video may take; 0 sets no limit.

  Raises:
    UserError: the cache cannot be written.
  """
  with ThreadPoolExecutor(_AT_ONCE) as pool:
    stamps = list(pool.map(_stamp, [span.path for span in spans]))
  own = folder / f"{_key(spans)}.json"
  stored = _stored(own, stamps)
  found = [Facts(lost=True)] * len(spans) if stored is None else list(stored)
  if again := [number for number, facts in enumerate(found) if facts.lost]:
    seen = _look_at_all([spans[number] for number in again], processes, timeout)
    for number, facts in zip(again, seen, strict=True):
      found[number] = facts
    if found != stored:  # else the cache may be one that cannot be written
      _store(own, stamps, found)
  sizes = [-1 if stamp is None else stamp[0] for stamp in stamps]
  return [dataclasses.replace(f, size=size) for f, size in zip(found, sizes, strict=True)]


def _stamp(path: str) -> tuple[int, int] | None:
  with contextlib.suppress(UnreadableError):
    return seek_index.stamp(path)
  return None


def _key(spans: Sequence[wanted.Span]) -> str:
  digest = hashlib.sha256()
  for span in spans:
    how = decode.described(span.settings)
    place = [files.absolute(span.path), span.start, span.end, how]
    digest.update(json.dumps(place, sort_keys=True).encode() + b"\n")
  return digest.hexdigest()[:40]


def _stored(own: pathlib.Path, stamps: Sequence[Any]) -> list[Facts] | None:
  try:
    text = own.read_bytes()
    body, _, digest = text.rpartition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
      return None
    about = json.loads(body)
    now = [None if stamp is None else list(stamp) for stamp in stamps]
    if (about["format"], about["stamps"]) != (_FORMAT, now):
      return None
    other = about["decoder"] != av.__version__  # which may read what this one could not
    return [
      Facts(
        tuple((int(n), float(fps)) for n, fps in parts),
        error,
        tuple(notes),
        lost=bool(lost or (other and error)),
      )
      for parts, error, notes, lost in about["facts"]
    ]
  except (OSError, ValueError, KeyError, TypeError):  # it is made anew
    return None


def _store(own: pathlib.Path, stamps: Sequence[Any], found: Sequence[Facts]) -> None:
  facts = [(f.parts, f.error, f.notes, f.lost) for f in found]
  about = {"format": _FORMAT, "decoder": av.__version__, "stamps": stamps, "facts": facts}
  body = json.dumps(about).encode()
  try:
    files.write_atomic(own, body + b"\n" + hashlib.sha256(body).hexdigest().encode())
  except OSError as error:
    raise UserError(
      f"config.data.videos.cache: {own.parent} cannot be written ({error.strerror or error}); set "
      "it to a folder that can be."
    ) from None


def _look_at_all(spans: Sequence[wanted.Span], processes: int, timeout: float) -> list[Facts]:
  found: dict[int, Facts] = {}
  size = max(1, min(_GROUP, -(-len(spans) // processes)))
  tasks = [
    _Group(tuple(range(i, min(i + size, len(spans)))), tuple(spans[i : i + size]))
    for i in range(0, len(spans), size)
  ]
  at: dict[int, int] = {}  # where each task is, by its first number
  outside: set[int] = set()  # spans at which something else killed the process
  with progress.bar("indexing, once", len(spans)) as bar:

    def on_report(task: _Group, place: int) -> None:
      at[task.numbers[0]] = place

    def on_crash(task: _Group, crash: workers.Crash) -> _Group:
      place = at.get(task.numbers[0], 0)
      number = task.numbers[place]
      if crash.outside and number not in outside:
        outside.add(number)
        return task
      return dataclasses.replace(task, crashed={**task.crashed, place: crash.reason})

    running = workers.run(
      _look,
      tasks,
      workers=processes,
      timeout=timeout,
      on_report=on_report,
      on_crash=on_crash,
    )
    with contextlib.closing(running):
      for task, facts in running:
        found.update(zip(task.numbers, facts, strict=True))
        bar.update(len(facts))
  return [found[i] for i in range(len(spans))]


def _look(group: _Group, report: workers.Report) -> list[Facts]:
  found = []
  for place, span in enumerate(group.spans):
    report(place)
    if (reason := group.crashed.get(place)) is not None:
      found.append(Facts(error=reason, lost=True))
      continue
    try:
      index = span.index()
      parts = tuple((len(p.numbers), p.fps) for p in wanted.cut(span, index))
      found.append(Facts(parts, notes=index.notes))
    except UnreadableError as error:
      found.append(Facts(error=str(error), lost=error.passing))
  return found
