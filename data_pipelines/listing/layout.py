"""Reads split and class of each video from its folders.

A folder may be named like a split in many ways (`train`, `Val`, `videos_test`, `train_256`,
`UCF_train` beside `UCF_test`), lie at any depth, and hold videos or class folders. A class may have
such a word in its name, too (Kinetics has `training dog`). What can be read in two ways is refused:
a split that is silently taken for a class would be the label of a whole data set.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping, Sequence

from data_pipelines.listing.finding import counted, few
from vssl_jax.errors import UserError

# Names of splits, and what they are called here.
_WORDS = {"training": "train", "testing": "test", "heldout": "holdout"} | {
  word: word
  for word in (
    *("train", "val", "valid", "validation", "test", "trainval", "minitrain", "minival"),
    *("dev", "eval", "evaluation", "holdout", "replacement"),
  )
}
_GERUNDS = ("training", "testing")  # of a class, at the end of its name: `battle rope training`
# As a part of a longer name these are ordinary nouns (`knee replacement`).
_WEAK = frozenset({"replacement", "dev", "eval", "evaluation", "holdout"})
# Words that say nothing of a class, beside the name of a split.
_NEUTRAL = (
  "videos?|vids?|clips?|data|datasets?|sets?|subsets?|splits?|lists?|files?|frames?|parts?|folders?|"
  "raw|full|all|images?|rgb|flow|mp4|avi|mkv|webm|resized|compress(?:ed)?|final|new|mini|tiny|small|"
  "(?:un)?labell?ed|kinetics|ucf|hmdb|ssv|px|fps|for|of|the|and|corrupted"
)
_SPLIT = re.compile(f"(?:{_NEUTRAL})*({'|'.join(_WORDS)})(?:{_NEUTRAL})*")
_FILLER = re.compile(f"(?:{_NEUTRAL})+")
_NUMBERED = re.compile(r"(?:data)?[ _-]?(?:fold|split|partition)[ _-]?\d+")
# Parts of a name: capitals, a word that may begin with a capital, letters of other scripts, digits.
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
_WAY_OUT = (
  "pass --flat to take all videos as unlabeled, --split_list for official lists, or list the "
  "videos in a CSV with columns path, label and split"
)


@dataclasses.dataclass(frozen=True)
class Name:
  """What a folder's name says.

  Attributes:
    split: the split that it names; "" if it has no such word.
    rest: its words that neither name a split nor are neutral, in small letters.
    last: whether the word of the split is the last one that is not neutral, and is no gerund.
  """

  split: str
  rest: tuple[str, ...]
  last: bool = False


@functools.lru_cache(maxsize=1 << 16)
def parse(name: str) -> Name:
  """Looks for the name of a split in the name of a folder."""
  lower = name.lower()
  if whole := _SPLIT.fullmatch(lower):
    return Name(_WORDS[whole[1]], (), True)
  if _NUMBERED.fullmatch(lower):
    return Name(re.sub(r"[ _-]", "", lower), (), True)
  splits, rest, last = [], [], False
  for part in map(str.lower, _PARTS.findall(name)):
    if found := _SPLIT.fullmatch(part):
      splits.append(_WORDS[found[1]])
      last = found[1] not in _GERUNDS
    elif len(part) > 1 and not part.isdigit() and not _FILLER.fullmatch(part):
      rest.append(part)
      last = False
  return Name("_".join(dict.fromkeys(splits)), tuple(rest), last)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a video belongs: its split, "" if no folder says it, and its class, "" if unlabeled."""

  split: str
  label: str


def read(paths: Sequence[str], where: str) -> tuple[list[Place], list[str]]:
  """Reads split and class of each video from its folders.

  Args:
    paths: paths of the videos, relative to the folder, with forward slashes.
    where: name of the folder, for errors.

  Returns:
    The place of each video, and notes on what was not evident.

  Raises:
    UserError: the folders can be read in more than one way.
  """
  folders = [tuple(path.split("/")[:-1]) for path in paths]
  splits, notes = _splits(folders, where)
  if not splits:
    return [Place("", f[0] if f else "") for f in folders], [*notes, *_plain(folders, where)]
  rows = [_cut(parts, splits, where) for parts in folders]
  if outside := [path for path, row in zip(paths, rows, strict=True) if row is None]:
    named = sorted({splits[p] for p in splits})
    raise UserError(
      f"{where}: has folders of the splits {few(named)}, but {counted(outside, 'video')} outside "
      f"of them, the first is {outside[0]}: move them into one, or {_WAY_OUT}"
    )
  places, more = _labels([row for row in rows if row is not None], where)
  return places, [*notes, *more]


def splits_of(paths: Sequence[str]) -> list[str]:
  """Names of the splits that folders of these videos are evidently named like, sorted."""
  names = {part for path in paths for part in path.split("/")[:-1]}
  return sorted({parse(n).split for n in names if parse(n).split and not parse(n).rest})


def _plain(folders: Sequence[tuple[str, ...]], where: str) -> list[str]:
  """Notes on class folders; stops if there are videos beside them."""
  depths = {len(f) for f in folders}
  if 0 in depths and len(depths) > 1:
    raise UserError(
      f"{where}: videos both directly in the folder and in sub-folders: pass --flat to take all "
      "videos as unlabeled, or move the videos in the folder itself into class folders"
    )
  deep = max(depths, default=0) > 1
  return ["class folders have sub-folders: the first folder below INPUT is the label"] * deep


def _splits(
  folders: Sequence[tuple[str, ...]], where: str
) -> tuple[dict[tuple[str, ...], str], list[str]]:
  """The folders that are splits, and their names; notes on classes that are named like one."""
  inside: dict[tuple[str, ...], set[str]] = collections.defaultdict(set)
  for parts in set(folders):
    for depth, name in enumerate(parts):
      inside[parts[:depth]].add(name)
  splits: dict[tuple[str, ...], str] = {}
  odd: list[str] = []
  for parent in sorted(inside, key=lambda p: (len(p), p)):
    # What is below a class folder is no label, whatever its name.
    level = not parent or parent in splits
    of_level, classes = _of_level(sorted(inside[parent]), "/".join((where, *parent)), level)
    splits |= {(*parent, name): split for name, split in of_level.items()}
    odd += ["/".join((*parent, name)) for name in classes]
  if not odd:
    return splits, []
  return splits, [f"class folders, though a split is in their names: {few(odd)}"]


def _of_level(
  names: Sequence[str], where: str, level: bool
) -> tuple[Mapping[str, str], Sequence[str]]:
  """Which of the folders in one folder are splits, and which are classes with such a word.

  Args:
    names: the folders.
    where: the folder that they are in.
    level: whether they would be labels if they are no splits.
  """
  parsed = {name: parse(name) for name in names}
  splits = {n: p.split for n, p in parsed.items() if p.split and not p.rest}
  # `UCF_train` and `UCF_test`: what they share is the name of the data set.
  families: dict[tuple[str, ...], dict[str, str]] = collections.defaultdict(dict)
  for name, p in parsed.items():
    if p.split and p.rest:
      families[p.rest][name] = p.split
  for family in families.values():
    if len(set(family.values())) > 1:
      splits |= family
  odd = [n for n, p in parsed.items() if p.split and p.split not in _WEAK and n not in splits]
  plain = [n for n in names if n not in splits and n not in odd]
  if splits and (odd or plain):
    raise UserError(
      f"{where}: {few(sorted(splits))} {'is' if len(splits) == 1 else 'are'} named like a split, "
      f"but not {few([*plain, *odd])} beside it: put class folders into the folder of their split, "
      f"or {_WAY_OUT}"
    )
  twice = [s for s, n in collections.Counter(splits.values()).items() if n > 1]
  if twice:
    both = [n for n, split in splits.items() if split == twice[0]]
    raise UserError(
      f"{where}: {few(both)} would all be split {twice[0]!r}: merge or rename them, or {_WAY_OUT}"
    )
  if level and odd:
    classes = {parsed[n].rest or (n.lower(),) for n in plain}
    unclear = [n for n in odd if parsed[n].last or parsed[n].rest in classes or not plain]
    if unclear:
      raise UserError(
        f"{where}: {few(unclear)} may be a split or a class: name the folder after its split "
        f"alone, such as {parsed[unclear[0]].split}, or {_WAY_OUT}"
      )
    return splits, odd
  return splits, []


@dataclasses.dataclass(frozen=True)
class _Row:
  """The folders of a video: those above its split, the split, and those below it."""

  above: tuple[str, ...]
  split: str
  below: tuple[str, ...]


def _cut(parts: tuple[str, ...], splits: Mapping[tuple[str, ...], str], where: str) -> _Row | None:
  depths = [d for d in range(len(parts)) if parts[: d + 1] in splits]
  if not depths:
    return None
  names = list(dict.fromkeys(splits[parts[: d + 1]] for d in depths))
  if len(names) > 1:
    raise UserError(
      f"{where}/{'/'.join(parts)}: lies in folders of the splits {' and '.join(names)}: rename one "
      f"of them, or {_WAY_OUT}"
    )
  return _Row(parts[: depths[0]], names[0], parts[depths[-1] + 1 :])


def _labels(rows: Sequence[_Row], where: str) -> tuple[list[Place], list[str]]:
  """Finds the level of the class folders: below the splits, or else above them."""
  above = sorted({r.above for r in rows})
  flat = {r.split for r in rows if not r.below}
  nested = {r.split for r in rows if r.below}
  if mixed := sorted(flat & nested):
    raise UserError(
      f"{where}: split {mixed[0]!r} has videos both directly in its folder and in sub-folders: "
      f"move the former into class folders, or {_WAY_OUT}"
    )
  if nested and len(above) > 1:
    raise UserError(
      f"{where}: folders both above the splits ({few([_shown(a) for a in above])}) and below them "
      f"may be the classes: {_WAY_OUT}"
    )
  if nested:
    notes = [f"split {split!r} has no class folders: its videos are unlabeled" for split in flat]
    if any(len(r.below) > 1 for r in rows):
      notes.append("class folders have sub-folders: the first folder below a split is the label")
    return [Place(r.split, r.below[0] if r.below else "") for r in rows], sorted(notes)
  if len(above) == 1:
    return [Place(r.split, "") for r in rows], ["no class folders in the splits: no labels"]
  columns = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*above, strict=False))
  shared = len(list(columns))
  if any(len(a) == shared for a in above):
    raise UserError(
      f"{where}: folders of splits lie at different depths, in {few([_shown(a) for a in above])}: "
      f"{_WAY_OUT}"
    )
  note = "the splits are within the class folders: the folder above a split is the label"
  return [Place(r.split, r.above[shared]) for r in rows], [note]


def _shown(parts: tuple[str, ...]) -> str:
  return "/".join(parts) or "the folder itself"
