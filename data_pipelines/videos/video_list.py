"""Lists the videos to prepare, with label, time span and split, from a folder or a CSV."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import math
import os
import pathlib
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from vssl_jax import files
from vssl_jax.errors import UserError

EXTENSIONS = frozenset(
  f".{extension}"
  for line in (
    "3g2 3gp asf avi divx dv f4v flv gif h264 h265 hevc ivf m1v m2t m2ts m2v m4v mjpeg mjpg mkv",
    "mov mp4 mpe mpeg mpg mpv mts mxf nut ogm ogv qt rm rmvb ts vob webm wmv y4m",
  )
  for extension in line.split()
)
_SPLIT_FOLDERS = frozenset({"train", "val", "valid", "validation", "test"})
_SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PATH_COLUMNS = ("path", "video_path")
_HEAD = 1 << 12  # number of first bytes that are checked to see whether a file is text


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
  """

  root: pathlib.Path
  entries: tuple[Entry, ...]
  labels: tuple[str, ...]
  notes: tuple[str, ...] = ()
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


def locate(root: str | os.PathLike, path: str) -> str:
  """Path or address of an entry's file."""
  if files.is_address(path):
    return path
  if os.path.isabs(path):
    return path
  if not files.is_address(str(root)):
    return os.path.join(root, path)
  scheme, _, key = str(root).partition("://")
  return f"{scheme}://{posixpath.normpath(posixpath.join(key, path))}"


def sort_labels(names: Iterable[str]) -> tuple[str, ...]:
  """The sorted class names without the empty one; by value if every name is a whole number."""
  names = set(names) - {""}
  if all(re.fullmatch(r"\d+", n) for n in names):
    return tuple(sorted(names, key=lambda n: (int(n), n)))
  return tuple(sorted(names))


def from_folder(
  folder: str | os.PathLike, *, split: str = "train", flat: bool = False
) -> VideoList:
  """Lists the videos below a folder, by their extensions.

  Videos directly in the folder are unlabeled; the label of a video in a sub-folder is the name of
  the first sub-folder. Sub-folders named train, val, test, … with class folders in them are splits.

  Args:
    folder: where to look.
    split: name of the split for videos that no such folder puts in one.
    flat: take every video at any depth as unlabeled.

  Raises:
    UserError: the folder does not exist, has no videos, or has videos both directly in it and in
      sub-folders; or the name of a class folder contains a control character.
  """
  root = files.path(folder)
  if not root.is_dir():
    raise UserError(f"{folder}: no such folder or .csv file: give a folder of videos or a CSV")
  paths, ignored, sizes = _walk_bucket(root) if files.is_remote(root) else _walk(root)
  if not paths:
    raise UserError(f"{folder}: contains no videos (no file named *.mp4, *.avi, *.mkv, …)")
  notes = []
  if ignored:
    kinds = ", ".join(f"{n} {kind or 'without extension'}" for kind, n in sorted(ignored.items()))
    notes.append(f"files left out because their extension is not of a video: {kinds}")
  parts = [path.split("/") for path in paths]
  depths = {len(p) for p in parts}
  if flat or depths == {1}:
    entries = [Entry(path, split) for path in paths]
  elif 1 in depths:
    raise UserError(
      f"{folder}: videos both directly in the folder and in sub-folders: pass --flat to take all "
      "videos as unlabeled, or move the videos in the folder itself into class folders"
    )
  elif min(depths) > 2 and {p[0] for p in parts} <= _SPLIT_FOLDERS:
    entries = [Entry(path, split=p[0], label=p[1]) for path, p in zip(paths, parts, strict=True)]
  else:
    entries = [Entry(path, split, label=p[0]) for path, p in zip(paths, parts, strict=True)]
    if max(depths) > 2:
      notes.append("class folders have sub-folders: the first folder below INPUT is the label")
  for entry in entries:
    _check_label(f"{folder}, class folder", entry.label)
  return dataclasses.replace(_checked(root, entries, notes), sizes=sizes)


def from_csv(
  path: str | os.PathLike,
  *,
  root: str | os.PathLike | None = None,
  split: str = "train",
  split_column: str | None = None,
) -> VideoList:
  """Reads a CSV with a header line.

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
  if path.suffix.lower() in EXTENSIONS:
    raise UserError(f"{path} is a video: give its folder or a CSV that lists it instead")
  try:
    with files.open_read(path) as file:
      if b"\0" in file.read(_HEAD):
        raise UserError(f"{path}: not a UTF-8 text file: give a folder of videos or a CSV")
      file.seek(0)
      text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
      reader = csv.DictReader(text, skipinitialspace=True)
      columns = [(c or "").strip() for c in reader.fieldnames or ()]
      reader.fieldnames = columns
      rows = [(reader.line_num, row) for row in reader]
  except (OSError, csv.Error) as error:
    raise UserError(f"{path}: cannot be read as CSV ({error})") from None
  column = next((c for c in _PATH_COLUMNS if c in columns), None)
  if column is None:
    raise UserError(
      f"{path}: its first line must name the columns, including `path` (or `video_path`); it is "
      f"{','.join(columns)[:80]!r}"
    )
  if split_column is None and "split" in columns:
    split_column = "split"
  if split_column is not None and split_column not in columns:
    raise UserError(f"{path}: no column {split_column!r}; it has {', '.join(columns)}")
  entries, unused = [], 0
  for line, row in rows:
    row = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    entry = _entry(f"{path}, line {line}", row, column, split, split_column)
    if entry.split:
      entries.append(entry)
    else:
      unused += 1
  notes = [f"{unused} videos have no value in column {split_column!r}"] if unused else []
  if not entries:
    raise UserError(f"{path}: lists no videos; add at least one")
  return _checked(files.path(root) if root is not None else path.parent, entries, notes)


def _entry(
  where: str, row: Mapping[str, str], column: str, split: str, split_column: str | None
) -> Entry:
  if not row[column]:
    raise UserError(f"{where}: empty {column!r}")
  start = _seconds(where, "start", row.get("start"), 0.0)
  end = _seconds(where, "end", row.get("end"), math.inf)
  if end <= start:
    raise UserError(f"{where}: end ({end:g} s) is not after start ({start:g} s)")
  _check_label(f"{where}, field 'label'", row.get("label", ""))
  return Entry(
    path=row[column],
    split=row[split_column] if split_column else split,
    label=row.get("label", ""),
    start=start,
    end=end,
    caption=row.get("caption", ""),
  )


def _check_label(where: str, label: str) -> None:
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


_Found = tuple[list[str], collections.Counter[str], dict[str, int]]


def _walk(root: pathlib.Path) -> _Found:
  """Finds all videos; returns their sorted relative paths and counts of other extensions."""
  ignored: collections.Counter[str] = collections.Counter()
  paths, visited = [], set()
  for folder, folders, names in os.walk(root, followlinks=True):
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in visited:  # a link to a folder above
      folders.clear()
      continue
    visited.add((status.st_dev, status.st_ino))
    folders[:] = sorted(f for f in folders if not f.startswith("."))
    for name in names:
      extension = os.path.splitext(name)[1].lower()
      if name.startswith("."):
        continue
      if extension in EXTENSIONS:
        paths.append(pathlib.Path(folder, name).relative_to(root).as_posix())
      else:
        ignored[extension] += 1
  return sorted(paths), ignored, {}


def _walk_bucket(root: pathlib.Path) -> _Found:
  """As `_walk`; a bucket also tells the sizes of its objects."""
  ignored: collections.Counter[str] = collections.Counter()
  sizes = {}
  for name, size in files.tree(root).items():
    extension = os.path.splitext(name)[1].lower()
    if any(part.startswith(".") for part in name.split("/")):
      continue
    if extension in EXTENSIONS:
      sizes[name] = size
    else:
      ignored[extension] += 1
  return sorted(sizes), ignored, sizes


def _checked(root: pathlib.Path, entries: Sequence[Entry], notes: Sequence[str]) -> VideoList:
  splits = collections.defaultdict(set)
  for entry in entries:
    if not _SPLIT_NAME.fullmatch(entry.split):
      raise UserError(
        f"split name {entry.split!r} (of {entry.path}): use only letters, digits, '_', '.', '-'"
      )
    splits[entry.path].add(entry.split)
  shared = sorted(path for path, names in splits.items() if len(names) > 1)
  if shared:
    notes = [*notes, f"{len(shared)} videos are in more than one split, the first is {shared[0]}"]
  labels = sort_labels(e.label for e in entries)
  return VideoList(root=root, entries=tuple(entries), labels=labels, notes=tuple(notes))
