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
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence

from data_pipelines.listing.finding import counted, few
from data_pipelines.listing.video_list import Entry, VideoList, sort_labels
from vssl_jax import files as files_lib
from vssl_jax.errors import UserError

_UCF = re.compile(r"(train|test|val)(idation)?list(\d*)\.txt", re.IGNORECASE)
_HMDB = re.compile(r"(?P<label>.+)_test_split(?P<number>\d)\.txt")
_HMDB_SPLITS = {"0": "", "1": "train", "2": "test"}


_Key = tuple[str, str]  # class, and file name without extension, as published


def _fold(name: str) -> str:
  """A name without capitals, and with one form of accents."""
  return unicodedata.normalize("NFKC", name).casefold()


def _fold_class(name: str) -> str:
  """As `_fold`, without separators: copies of a data set have `Brush Hair` for `brush_hair`."""
  return re.sub(r"[\s_-]+", "", _fold(name))


@dataclasses.dataclass
class _Lists:
  """Content of the list files."""

  splits: dict[_Key, str]  # video -> split; "" for neither
  names: dict[_Key, str]  # video -> file name as published
  numbers: dict[str, int]  # class -> published number

  def index(self) -> _Index:
    """Tables to look up videos."""
    index = _Index({}, {}, {})
    for key in self.splits:
      label, stem = key
      index.classes.setdefault(_fold_class(label), set()).add(label)
      index.labels.setdefault(_fold(stem), set()).add(label)
      index.keys.setdefault((label, _fold(stem)), set()).add(key)
    return index


@dataclasses.dataclass
class _Index:
  """Looks up the videos of the lists, whatever the capitals."""

  classes: dict[str, set[str]]  # folded class -> classes
  labels: dict[str, set[str]]  # folded name -> classes with such a video
  keys: dict[_Key, set[_Key]]  # class, folded name -> videos

  def of(self, folders: Sequence[str]) -> set[str]:
    """The classes that folders are named after."""
    found: set[str] = set()
    for folder in folders:
      same = self.classes.get(_fold_class(folder), set())
      found |= same & {folder} or same
    return found

  def video(self, labels: Collection[str], stem: str) -> set[_Key]:
    """The videos of some classes with a name: those of exactly this name, if there are any."""
    found = {key for label in labels for key in self.keys.get((label, _fold(stem)), ())}
    return {key for key in found if key[1] == stem} or found


@dataclasses.dataclass
class _Matches:
  """Which videos of a folder the lists name."""

  paths: dict[_Key, str]  # listed video -> path
  twice: list[str]  # paths of further copies
  unlisted: list[str]  # paths of videos in no list
  strange: list[str]  # folders of such videos that have the name of no class, beside class folders


def apply(videos: VideoList, files: Sequence[str | os.PathLike]) -> VideoList:
  """Assigns the videos of a folder to splits, as published lists say.

  A video is matched by a folder that it lies in, at any level, and by its file name; if no folder
  at all is named like a class, by file name alone. Capitals, separators and extensions may differ
  (renamed or re-encoded copies). A class without any video in the folder is left out. If a class is
  there but one of its listed videos is not, the video stays in the list, so that it is reported as
  missing. Classes are ordered by their published numbers.

  Args:
    videos: the folder's videos, from `video_list.from_folder`; their labels and splits do not
      matter.
    files: the lists of ONE split.

  Returns:
    The listed videos with split and label; its notes name what the lists and the folder do not
    share, and `left_out` counts the folder's videos that are in no list.

  Raises:
    UserError: a file is not a known list, a line is malformed, a video is in two splits, a file
      name without a class folder belongs to two classes, or no video matches.
  """
  lists = _read(files)
  matches = _match([entry.path for entry in videos.entries], lists)
  if not matches.paths:
    raise UserError(
      f"{videos.root}: none of its videos is in {files[0]} or the other lists: give the folder "
      "that contains the class folders"
    )
  present = {label for label, _ in matches.paths}
  listed = {key: split for key, split in sorted(lists.splits.items()) if key[0] in present}
  entries = tuple(
    Entry(matches.paths.get(key, f"{key[0]}/{lists.names[key]}"), split=split, label=key[0])
    for key, split in listed.items()
    if split
  )
  labels = sort_labels(present)
  if present <= lists.numbers.keys():
    labels = tuple(sorted(present, key=lists.numbers.__getitem__))
  return dataclasses.replace(
    videos,
    entries=entries,
    labels=labels,
    notes=(*videos.notes, *_notes(lists, matches, listed)),
    left_out=len(matches.unlisted) + len(matches.twice),
  )


def _match(paths: Sequence[str], lists: _Lists) -> _Matches:
  """Finds the listed video that each file is."""
  index = lists.index()
  found: dict[_Key, list[str]] = collections.defaultdict(list)
  unlisted, strange = [], set()
  classes = [index.of(path.split("/")[:-1]) for path in paths]
  for path, own in zip(paths, classes, strict=True):
    *folders, name = path.split("/")
    stem = pathlib.PurePosixPath(name).stem
    # Where there are class folders, a video in another folder is no video of the same name.
    keys = index.video(own if any(classes) else index.labels.get(_fold(stem), ()), stem)
    if len(keys) > 1:
      both = " and ".join("/".join(key) for key in sorted(keys))
      raise UserError(f"{path}: may be {both} of the lists: rename it or its folder")
    for key in keys:
      found[key].append(path)
    if not keys:
      unlisted.append(path)
      strange |= {folders[-1]} if any(classes) and folders and not own else set()
  chosen, twice = {}, []
  for key, same in found.items():
    chosen[key] = next((p for p in same if p.endswith(f"{key[0]}/{lists.names[key]}")), same[0])
    twice += [p for p in same if p != chosen[key]]
  return _Matches(chosen, twice, unlisted, sorted(strange))


def _notes(lists: _Lists, matches: _Matches, listed: Mapping[_Key, str]) -> list[str]:
  """What the lists and the folder do not share: named if it is little, else counted."""
  classes = {label for label, _ in lists.splits}
  absent = sorted(classes - {label for label, _ in listed})
  missing = [k for k, split in listed.items() if split and k not in matches.paths]
  neither = [k for k, split in listed.items() if not split]

  def named(keys: Sequence[_Key]) -> list[str]:
    return [f"{key[0]}/{lists.names[key]}" for key in keys]

  texts = []
  if absent:
    which = f"{len(absent)} of the lists' {len(classes)} classes"
    texts.append(f"{which} {'is' if len(absent) == 1 else 'are'} not in the folder: {few(absent)}")
  for names, noun, what in (
    (matches.strange, "folder", "named like no class of the lists"),
    (matches.unlisted, "video", "of the folder in no list"),
    (matches.twice, "video", "left out, a copy of another"),
    (named(missing), "video", "of the lists not in the folder"),
    (named(neither), "video", "in neither split by the lists"),
  ):
    if names:
      texts.append(f"{counted(names, noun)} {what}: {few(names)}")
  return texts


def _read(paths: Sequence[str | os.PathLike]) -> _Lists:
  lists = _Lists(splits={}, names={}, numbers={})
  numbers = set()
  for file in map(files_lib.path, paths):
    try:
      if ucf := _UCF.fullmatch(file.name):
        numbers.add(ucf[3])
        _read_ucf(file, ucf[1].lower(), lists)
      elif hmdb := _HMDB.fullmatch(file.name):
        numbers.add(hmdb["number"])
        _read_hmdb(file, hmdb["label"], lists)
      elif file.name.lower() == "classind.txt":
        _read_classes(file, lists)
      else:
        raise UserError(
          f"{file}: no list is known by this name: UCF101 has trainlistNN.txt, testlistNN.txt and "
          "classInd.txt, HMDB51 has CLASS_test_splitN.txt (for your own splits, use a CSV)"
        )
    except OSError as error:
      raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
  if len(numbers) > 1:
    raise UserError(
      f"split lists with different numbers ({', '.join(sorted(numbers))}): give the lists of one "
      "split number"
    )
  if not lists.splits:
    raise UserError("the split lists name no videos: give trainlistNN.txt and testlistNN.txt")
  return lists


def _read_classes(file: pathlib.Path, lists: _Lists) -> None:
  for number, line in _lines(file):
    fields = line.split()
    if len(fields) != 2 or not fields[0].isdigit():
      raise UserError(f"{file}, line {number}: expected `NUMBER CLASS`, found {line[:80]!r}")
    _set_number(file, number, fields[1], int(fields[0]), lists)


def _read_ucf(file: pathlib.Path, split: str, lists: _Lists) -> None:
  for number, line in _lines(file):
    path, _, code = line.partition(" ")
    label, _, name = path.rpartition("/")
    if not label or (code.strip() and not code.strip().isdigit()):
      raise UserError(
        f"{file}, line {number}: expected `CLASS/VIDEO [NUMBER]`, found {line[:80]!r}"
      )
    if code.strip():
      _set_number(file, number, label, int(code), lists)
    _set_split(file, number, label, name, split, lists)


def _read_hmdb(file: pathlib.Path, label: str, lists: _Lists) -> None:
  for number, line in _lines(file):
    name, _, code = line.rpartition(" ")
    if not name or code not in _HMDB_SPLITS:
      raise UserError(f"{file}, line {number}: expected `VIDEO 0|1|2`, found {line[:80]!r}")
    _set_split(file, number, label, name.strip(), _HMDB_SPLITS[code], lists)


def _lines(file: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Number and text of each line that is not empty."""
  for number, line in enumerate(files_lib.lines(file), start=1):
    if text := line.strip():
      yield number, text


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
