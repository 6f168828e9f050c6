"""Reads the official split lists of UCF101 and HMDB51 as they are published.

UCF101: `trainlist01.txt` (lines `Class/video.avi 1`), `testlist01.txt` (lines `Class/video.avi`)
and `classInd.txt` (lines `1 Class`). HMDB51: `<class>_test_split1.txt`, one file per class, with
lines `video.avi CODE`; code 1 is the training split, 2 the test split, 0 neither.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from data_pipelines.videos.video_list import Entry, VideoList, sort_labels
from vssl_jax import files as files_lib
from vssl_jax.errors import UserError

_UCF = re.compile(r"(train|test|val)(idation)?list(\d*)\.txt", re.IGNORECASE)
_HMDB = re.compile(r"(?P<label>.+)_test_split(?P<number>\d)\.txt")
_HMDB_SPLITS = {"0": "", "1": "train", "2": "test"}


@dataclasses.dataclass
class _Lists:
  """Content of the list files; a video is identified by (class, file name without extension)."""

  splits: dict[tuple[str, str], str]  # video -> split; "" for neither
  names: dict[tuple[str, str], str]  # video -> file name as published
  numbers: dict[str, int]  # class -> published number


def apply(videos: VideoList, files: Sequence[str | os.PathLike]) -> VideoList:
  """Assigns the videos of a folder to splits, as published lists say.

  Videos are matched by class folder and file name; in a flat folder, by file name alone.
  Extensions may differ (re-encoded copies). A class without any video in the folder is left out.
  If a class is there but one of its listed videos is not, the video stays in the list, so that it
  is reported as missing. Classes are ordered by their published numbers.

  Args:
    videos: the folder's videos, from `video_list.from_folder`.
    files: the lists of ONE split.

  Returns:
    The listed videos with split and label.

  Raises:
    UserError: a file is not a known list, a line is malformed, a video is in two splits, or no
      video matches.
  """
  lists = _read(files)
  classes = collections.defaultdict(set)
  for label, stem in lists.splits:
    classes[stem].add(label)
  found: dict[tuple[str, str], str] = {}
  for entry in videos.entries:
    stem = pathlib.PurePosixPath(entry.path).stem
    own = {entry.label} if entry.label else classes[stem]
    found |= {(label, stem): entry.path for label in own}
  present = {label for label, _ in found} & {label for label, _ in lists.splits}
  if not present:
    raise UserError(
      f"{videos.root}: none of its videos is in {files[0]} or the other lists: give the folder "
      "that contains the class folders"
    )
  listed = {key: split for key, split in sorted(lists.splits.items()) if key[0] in present}
  entries = tuple(
    Entry(found.get(key, f"{key[0]}/{lists.names[key]}"), split=split, label=key[0])
    for key, split in listed.items()
    if split
  )
  absent = {label for label, _ in lists.splits} - present
  counts = {
    f"of the lists' {len(absent | present)} classes are not in the folder": len(absent),
    "videos are in neither split by the lists": sum(not split for split in listed.values()),
    "videos of the folder are in no list": len(found.keys() - lists.splits.keys()),
  }
  labels = sort_labels(present)
  if present <= lists.numbers.keys():
    labels = tuple(sorted(present, key=lists.numbers.__getitem__))
  notes = (*videos.notes, *(f"{count} {text}" for text, count in counts.items() if count))
  return dataclasses.replace(videos, entries=entries, labels=labels, notes=notes)


def _read(paths: Sequence[str | os.PathLike]) -> _Lists:
  lists = _Lists(splits={}, names={}, numbers={})
  numbers = set()
  for file in map(files_lib.path, paths):
    try:
      lines = files_lib.read_text(file).splitlines()
    except OSError as error:
      raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    if ucf := _UCF.fullmatch(file.name):
      numbers.add(ucf[3])
      _read_ucf(file, lines, ucf[1].lower(), lists)
    elif hmdb := _HMDB.fullmatch(file.name):
      numbers.add(hmdb["number"])
      _read_hmdb(file, lines, hmdb["label"], lists)
    elif file.name.lower() == "classind.txt":
      for number, line in _lines(lines):
        fields = line.split()
        if len(fields) != 2 or not fields[0].isdigit():
          raise UserError(f"{file}, line {number}: expected `NUMBER CLASS`, found {line!r}")
        _set_number(file, number, fields[1], int(fields[0]), lists)
    else:
      raise UserError(
        f"{file}: no list is known by this name: UCF101 has trainlistNN.txt, testlistNN.txt and "
        "classInd.txt, HMDB51 has CLASS_test_splitN.txt (for your own splits, use a CSV)"
      )
  if len(numbers) > 1:
    raise UserError(
      f"split lists with different numbers ({', '.join(sorted(numbers))}): give the lists of one "
      "split number"
    )
  if not lists.splits:
    raise UserError("the split lists name no videos: give trainlistNN.txt and testlistNN.txt")
  return lists


def _read_ucf(file: pathlib.Path, lines: list[str], split: str, lists: _Lists) -> None:
  for number, line in _lines(lines):
    path, _, code = line.partition(" ")
    label, _, name = path.rpartition("/")
    if not label or (code.strip() and not code.strip().isdigit()):
      raise UserError(f"{file}, line {number}: expected `CLASS/VIDEO [NUMBER]`, found {line!r}")
    if code.strip():
      _set_number(file, number, label, int(code), lists)
    _set_split(file, number, label, name, split, lists)


def _read_hmdb(file: pathlib.Path, lines: list[str], label: str, lists: _Lists) -> None:
  for number, line in _lines(lines):
    name, _, code = line.rpartition(" ")
    if not name or code not in _HMDB_SPLITS:
      raise UserError(f"{file}, line {number}: expected `VIDEO 0|1|2`, found {line!r}")
    _set_split(file, number, label, name.strip(), _HMDB_SPLITS[code], lists)


def _lines(lines: list[str]) -> list[tuple[int, str]]:
  return [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]


def _set_split(file, number: int, label: str, name: str, split: str, lists: _Lists) -> None:
  key = (label, pathlib.PurePosixPath(name).stem)
  lists.names.setdefault(key, name)
  if lists.splits.setdefault(key, split) != split:
    raise UserError(f"{file}, line {number}: {label}/{name} is in two splits")


def _set_number(file, number: int, label: str, value: int, lists: _Lists) -> None:
  if lists.numbers.setdefault(label, value) != value:
    raise UserError(
      f"{file}, line {number}: class {label} has number {value}, but earlier it had "
      f"{lists.numbers[label]}"
    )
