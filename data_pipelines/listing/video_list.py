"""Lists the videos to prepare, with label, time span and split, from a folder or a CSV."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import hashlib
import json
import math
import os
import pathlib
import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

from data_pipelines.listing import csv_table, finding, layout
from data_pipelines.listing.finding import EXTENSIONS as EXTENSIONS
from data_pipelines.listing.finding import counted, few
from vssl_jax import files
from vssl_jax.errors import UserError

_SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PATH_COLUMNS = ("path", "video_path")
_COLUMNS = (*_PATH_COLUMNS, "label", "split", "start", "end", "caption")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


@dataclasses.dataclass(frozen=True)
class Entry:
  """One video to prepare, or one span of it.

  Attributes:
    path: path of the file with forward slashes, absolute or relative to the root, or its address,
      as listed.
    split: name of the split.
    label: class name; empty if unknown.
    start: start of the span, seconds; 0 for the beginning.
    end: end of the span (exclusive), seconds; infinity for the end of the video.
    caption: free text; empty if none.
  """

  path: str
  split: str = "train"
  label: str = ""
  start: float = 0.0
  end: float = math.inf
  caption: str = ""


@dataclasses.dataclass(frozen=True)
class VideoList:
  """The entries of one job.

  Attributes:
    root: folder that relative paths start from.
    entries: what to prepare.
    labels: class names; the position of a name is its class index.
    notes: one line for each kind of video or file that was left out, with the reason.
    sizes: size of each file in bytes, by path, if listing the files has told it.
    left_out: number of videos of the folder that are no entries, though nothing asked for that.
  """

  root: pathlib.Path
  entries: tuple[Entry, ...]
  labels: tuple[str, ...]
  notes: tuple[str, ...] = ()
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  left_out: int = 0


def locate(root: str | os.PathLike, path: str) -> str:
  """Path or address of an entry's file; `cam:/a.mp4`, with one slash, lies in a folder `cam:`."""
  if files.is_address(path) and "://" in path:
    return path
  if os.path.isabs(path):
    return path
  if not files.is_address(str(root)):
    return os.path.join(root, path)
  scheme, _, key = str(root).partition("://")
  return f"{scheme}://{posixpath.normpath(posixpath.join(key, path))}"


def sort_labels(names: Iterable[str]) -> tuple[str, ...]:
  """The sorted class names without the empty one; by value if every name is a number."""
  names = set(names) - {""}
  if all(_NUMBER.fullmatch(n) for n in names):
    return tuple(sorted(names, key=lambda n: (decimal.Decimal(n), n)))
  return tuple(sorted(names))


def shuffled(entries: Iterable[Entry]) -> list[Entry]:
  """Entries in the order of their hashes, which is that of the records that `prepare` writes.

  It does not depend on the order of the entries or on the machine.
  """

  def key(entry: Entry):
    place = json.dumps([entry.path, entry.start, entry.end])
    return hashlib.sha256(place.encode()).digest(), tuple(vars(entry).values())

  return sorted(entries, key=key)


def from_folder(
  folder: str | os.PathLike,
  *,
  split: str = "train",
  flat: bool = False,
  extensions: Collection[str] = EXTENSIONS,
) -> VideoList:
  """Lists the videos below a folder, by their extensions.

  Videos directly in the folder are unlabeled; the label of a video in a sub-folder is the name of
  the first sub-folder. Folders named like splits are splits, at any depth; see `layout`.

  Args:
    folder: where to look.
    split: name of the split for videos that no such folder puts in one.
    flat: take every video at any depth as unlabeled, all in one split.
    extensions: which files are videos.

  Raises:
    UserError: the folder does not exist, has no videos, or its sub-folders can be read in more than
      one way; or the name of a class folder contains a control character.
  """
  found = finding.find(folder, extensions)
  notes = list(found.notes)
  if flat:
    entries = [Entry(path, split) for path in found.paths]
    if named := layout.splits_of(found.paths):
      notes.append(f"--flat: all videos are of split {split!r}, also those of {', '.join(named)}")
  else:
    places, more = layout.read(found.paths, str(folder))
    notes += more
    entries = [
      Entry(path, split=place.split or split, label=place.label)
      for path, place in zip(found.paths, places, strict=True)
    ]
  own = layout.parse(found.root.name)
  other = found.root.name.isalpha() and not own.rest and own.split not in ("", split)
  if other and {entry.split for entry in entries} == {split}:
    notes.append(f"--split: the videos of {found.root.name} become split {split!r}")
  for label in sorted({entry.label for entry in entries}):
    check_label(f"{folder}, class folder", label)
  return dataclasses.replace(checked(found.root, entries, notes), sizes=found.sizes)


def unsorted(folder: str | os.PathLike, extensions: Collection[str] = EXTENSIONS) -> VideoList:
  """All videos below a folder, for lists that say their splits and classes; see `finding.find`."""
  found = finding.find(folder, extensions)
  entries = tuple(map(Entry, found.paths))
  return VideoList(found.root, entries, (), notes=found.notes, sizes=found.sizes)


def from_csv(
  path: str | os.PathLike,
  *,
  root: str | os.PathLike | None = None,
  split: str = "train",
  split_column: str | None = None,
) -> VideoList:
  """Reads a CSV with a header line; see `csv_table` for its form.

  Columns: `path` (or `video_path`, as in DMVR's generate_from_file.py), and optionally `label`,
  `start` and `end` in seconds, `caption`, and any number of columns with splits.

  Args:
    path: the CSV.
    root: folder that relative paths start from; by default the folder of the CSV.
    split: name of the split if there is no split column.
    split_column: column with each video's split; by default the column `split`, if there is one.
      Videos without a value in it are left out.

  Raises:
    UserError: the file is unreadable, a column is missing or a value is bad; names the line.
  """
  path = files.path(path)
  if path.suffix.lower() in EXTENSIONS | finding.ARRAYS:
    raise UserError(f"{path} is a video: give its folder or a CSV that lists it instead")
  table = csv_table.read(path, _COLUMNS)
  column = next((c for c in _PATH_COLUMNS if c in table.columns), None)
  if column is None:
    raise UserError(
      f"{path}: its first line must name the columns, including `path` (or `video_path`); it is "
      f"{','.join(table.columns)[:80]!r}"
    )
  split_column = table.column(split_column or "split", required=split_column is not None)
  entries, lines, unused = [], [], []
  for line, row in table.rows:
    entry = _entry(f"{path}, line {line}", row, column, split, split_column)
    if entry.split:
      entries.append(entry)
      lines.append(line)
    else:
      unused.append(entry.path)
  if not entries:
    raise UserError(f"{path}: lists no videos; add at least one")
  notes = []
  if unused:
    notes.append(f"{counted(unused, 'video')} without a split in {split_column!r}: {few(unused)}")
  unread = [c for c in table.columns if c and c not in (*_COLUMNS[2:], column, split_column)]
  if unread:
    notes.append(f"columns that are not read: {few(unread)}")
  where = files.path(root) if root is not None else path.parent
  _check_addresses(path, where, entries, lines)
  return checked(where, entries, [*notes, *_repeated(entries, lines)])


def _entry(
  where: str, row: Mapping[str, str], column: str, split: str, split_column: str | None
) -> Entry:
  if not row[column]:
    raise UserError(f"{where}: empty {column!r}")
  start = _seconds(where, "start", row.get("start"), 0.0)
  end = _seconds(where, "end", row.get("end"), math.inf)
  if end <= start:
    raise UserError(f"{where}: end ({end:g} s) is not after start ({start:g} s)")
  label = row.get("label", "")
  if not label.isprintable():  # quick; also false for characters that a label may have
    check_label(f"{where}, field 'label'", label)
  return Entry(
    path=row[column],
    split=row[split_column] if split_column else split,
    label=label,
    start=start,
    end=end,
    caption=row.get("caption", ""),
  )


def check_label(where: str, label: str) -> None:
  """Checks that a class name fits into a line of `labels.txt`; raises `UserError` if not."""
  if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in label):
    raise UserError(
      f"{where}: {label!r} contains a line break or another control character, but labels.txt has "
      "one label per line: rename it"
    )


def _seconds(where: str, name: str, text: str | None, default: float) -> float:
  if not text:
    return default
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not (0 <= value < math.inf):
    raise UserError(f"{where}: {name} must be seconds, 0 or more, but is {text!r}")
  return value


def _same(path: str) -> str:
  """One spelling for all spellings of a path, such as `./a.mp4` and `a.mp4`."""
  return path if "://" in path else posixpath.normpath(path)


def _check_addresses(
  path: pathlib.Path, root: pathlib.Path, entries: Sequence[Entry], lines: Sequence[int]
) -> None:
  """Stops at `gs:/bucket/a.mp4`, where a slash is missing and no such file exists."""
  for entry, line in zip(entries, lines, strict=True):
    bad = files.is_address(entry.path) and "://" not in entry.path
    if bad and not files.is_remote(root) and not (root / entry.path).exists():
      raise UserError(
        f"{path}, line {line}: {entry.path!r} is neither a file in {root} nor an address: write "
        "addresses as scheme://bucket/name, with two slashes"
      )


def _repeated(entries: Sequence[Entry], lines: Sequence[int]) -> list[str]:
  """Notes on videos that are listed more than once with the same span."""
  spans = [(_same(entry.path), entry.start, entry.end) for entry in entries]
  count = collections.Counter(spans)
  rows, names = collections.defaultdict(list), collections.defaultdict(set)
  for span, entry, line in zip(spans, entries, lines, strict=True):
    if count[span] < 2:
      continue
    rows[span, entry.split].append(str(line))
    names[span].add(entry.label)
  twice = [f"{k[0][0]} (lines {' and '.join(n[:3])})" for k, n in rows.items() if len(n) > 1]
  labels = [
    f"{k[0]} ({' and '.join(map(repr, sorted(n)))})" for k, n in names.items() if len(n) > 1
  ]
  notes = []
  if twice:
    notes.append(f"{counted(twice, 'video')} listed more than once: {few(twice)}")
  if labels:
    notes.append(f"{counted(labels, 'video')} with more than one label: {few(labels)}")
  return notes


def _alike(names: Iterable[str]) -> list[tuple[str, ...]]:
  """Groups of names that differ by capitals, spaces at the ends or the form of accents only."""
  groups = collections.defaultdict(set)
  for name in names:
    groups[unicodedata.normalize("NFKC", name).strip().casefold()].add(name)
  return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def checked(root: pathlib.Path, entries: Sequence[Entry], notes: Sequence[str] = ()) -> VideoList:
  """The list of some entries, with their labels and with notes on what is odd.

  Raises:
    UserError: a split's name cannot be part of a file name, or differs from another by capitals;
      or a path has a NUL, as no file has.
  """
  splits = collections.defaultdict(set)
  for entry in entries:
    if "\0" in entry.path:
      raise UserError(f"{root}: the listed path {entry.path[:80]!r} has a NUL, which no file has")
    if not _SPLIT_NAME.fullmatch(entry.split):
      raise UserError(
        f"split name {entry.split!r} (of {entry.path}): use only letters, digits, '_', '.', '-'"
      )
    splits[_same(entry.path)].add(entry.split)
  if alike := _alike({entry.split for entry in entries}):
    raise UserError(
      f"split names {' and '.join(map(repr, alike[0]))} differ only by capitals: use one of them"
    )
  shared = sorted(path for path, names in splits.items() if len(names) > 1)
  if shared:
    notes = [*notes, f"{counted(shared, 'video')} in more than one split: {few(shared)}"]
  labels = sort_labels(e.label for e in entries)
  if alike := _alike(labels):
    shown = [" and ".join(map(repr, group)) for group in alike]
    notes = [
      *notes,
      f"labels that differ only by capitals or accents are different classes: {few(shown)}",
    ]
  if "-1" in labels:
    notes = [
      *notes,
      "label -1 is a class like any other; leave the label of unlabeled videos empty",
    ]
  return VideoList(root=root, entries=tuple(entries), labels=labels, notes=tuple(notes))
