"""Checks the labels of records against the class names in `labels.txt`, before any is used.

The manifest of `prepare` tells the classes of a split. For records of other programs, which have no
such manifest, the labels are read from the beginnings of the records.
"""

from __future__ import annotations

import concurrent.futures
import os
from typing import Any

import numpy as np

from data_pipelines.records import manifest, sequence_example
from data_pipelines.records.index import Index
from vssl_jax import files
from vssl_jax.errors import UserError

_SAMPLE = 64  # records of a bucket whose labels are read: each is a request
_AT_ONCE = 16  # shards


def occurring(
  folder: str | os.PathLike[str],
  split: str,
  where: Index,
  names: tuple[str, ...],
  stored: dict[str, Any] | None = None,
) -> frozenset[int] | None:
  """The classes that a split's videos have; checks that each has a name, the one it was made with.

  Args:
    folder: folder of the records.
    split: name of the split.
    where: index of the split.
    names: the class names, from `labels.txt`; () if there is no such file.
    stored: the manifest, if it was read before; opening the index has compared its shards.

  Returns:
    Class indices; None if they are unknown: there are no names, too many records in a bucket, or
    records whose label is not in their first bytes, or no whole number.

  Raises:
    UserError: a label has no name, or `labels.txt` has other names than the manifest.
  """
  path = files.path(folder) / manifest.LABELS
  stored = stored or manifest.known(folder)
  if stored and split in stored["splits"]:
    return _from_manifest(path, stored, split, names)
  if not names:
    return None
  label, complete = _read(where)
  if wrong := np.flatnonzero(label >= len(names)).tolist():
    file, offset, _ = where.place_of(wrong[0])
    raise UserError(
      f"{path}: names {len(names)} classes, but the record at byte {offset} of {file} has label "
      f"{label[wrong[0]]}: add the missing names, one per line, in the order of the labels"
    )
  return frozenset(label[label >= 0].tolist()) if complete else None


def _from_manifest(
  path: Any, stored: dict[str, Any], split: str, names: tuple[str, ...]
) -> frozenset[int]:
  made = tuple(stored["labels"])
  numbers = {name: number for number, name in enumerate(made)}
  found = frozenset(numbers[c] for c in stored["splits"][split]["classes"] if c in numbers)
  for line, (name, before) in enumerate(zip(names, made, strict=False), start=1):
    if name != before and name in numbers:
      raise UserError(
        f"{path}, line {line}: class {name!r}, but the records were made with {before!r} as number "
        f"{line - 1} ({manifest.MANIFEST}): put the lines back in order, or prepare the data again"
      )
  if found and max(found) >= len(names):
    raise UserError(
      f"{path}: names {len(names)} classes, but videos of split {split!r} have label {max(found)} "
      f"({made[max(found)]!r}): copy the names from `labels` in {manifest.MANIFEST}, one per line"
    )
  return found


def _read(where: Index) -> tuple[np.ndarray, bool]:
  """Labels int64 `[n]`, −1 where unlabeled or unknown, and whether all are known."""
  remote = any(map(files.is_address, where.files))
  chosen = np.arange(len(where))
  if remote and len(where) > _SAMPLE:
    chosen = np.unique(np.linspace(0, len(where) - 1, _SAMPLE).astype(np.int64))
  label, known = np.full(len(where), -1, np.int64), np.zeros(len(where), bool)
  groups = np.split(chosen, np.searchsorted(chosen, where.starts[1:-1]))

  def read(rows: np.ndarray) -> None:
    if len(rows):
      with files.ranges(where.place_of(int(rows[0]))[0]) as read_range:
        for i in rows.tolist():
          _, offset, length = where.place_of(i)
          head = read_range(offset, min(length, sequence_example.HEAD))
          if (found := sequence_example.label_of(head)) is not None:
            label[i], known[i] = found, True

  try:
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
      list(pool.map(read, groups))
  except OSError as error:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror or error})") from None
  return label, bool(known.all())
