"""Finds the feature files of a data set of untrimmed videos, one `[L, D]` array per video.

A data set is a folder in one of these forms, where `<stream>` is `rgb` or `flow`, in any letter
case, or a folder that the user names:

* `<video>.npy`
* `<stream>/<video>.npy`
* `<split>/<video>.npy` or `<split>/<stream>/<video>.npy`
* any of these in a folder `features`; BaS-Net (Lee et al. 2020) and the methods that follow it
  distribute `features/{train,test}/{rgb,flow}/<video>.npy`.

The annotations are `annotations.json` or `gt.json`, in the folder or beside `features`. Next to
them, `split_<subset>.txt` may list the videos of a subset, one per line, as in BaS-Net.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping

from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.localization.annotations import Video

STREAMS = ("rgb", "flow")  # in the order in which they are joined
ANNOTATIONS = ("annotations.json", "gt.json")  # the first that there is
_FEATURES = "features"
_LISTS = "split_*.txt"


@dataclasses.dataclass(frozen=True)
class FeatureFolder:
  """Where the features of a data set are.

  Attributes:
    path: the folder that the user named.
    root: the folder that the folders of splits, of streams, or the files are in.
    splits: names of the folders of splits; () if there are none.
    streams: names of the folders of streams, in the order in which they are joined; () if the
      features of a video are in one file.
  """

  path: pathlib.Path
  root: pathlib.Path
  splits: tuple[str, ...]
  streams: tuple[str, ...]

  def split(self, name: str) -> str | None:
    """The folder of a split, whatever its letter case; None if there is none."""
    same = [s for s in self.splits if s.lower() == name.lower()]
    return name if name in same else next(iter(same), None)

  def files(self, video: str, split: str = "") -> list[pathlib.Path]:
    """The files of a video, one per stream, whether or not they exist.

    Args:
      video: its name.
      split: its split; a video that is not in the folder of this split may be in another one.

    Raises:
      UserError: the video is in the folders of several splits, and none is that of its split.
    """
    own = self.split(split)
    name = f"{video}.npy"
    held = [s for s in self.splits if (self._places(s)[0] / name).exists()]
    if len(held) > 1 and own not in held:
      raise UserError(
        f"{self.root}: video {video!r} is in several folders, {', '.join(held)}; name one of them "
        "as the subset of the video, or remove all but one."
      )
    chosen = own if own in held or not held else held[0]
    return [p / name for p in self._places(chosen or next(iter(self.splits), ""))]

  def videos(self, split: str = "") -> list[str]:
    """Names of all videos of a split, sorted; "" for all splits.

    Raises:
      UserError: there are folders of splits, but none for this one.
    """
    parts = self.splits or ("",)
    if split and self.splits:
      own = self.split(split)
      if own is None:
        there = ", ".join(self.splits)
        raise UserError(f"{self.root}: has no folder of split {split!r}; it has {there}.")
      parts = (own,)
    return sorted({f.stem for s in parts for f in _arrays(self._places(s)[0])})

  def annotations(self) -> pathlib.Path | None:
    """The annotations in the folder, or beside `features`; None if there are none."""
    here = self.path.absolute()
    above = [p.parent for p in (here, here.parent) if p.name == _FEATURES]
    places = (folder / name for folder in (self.path, *above) for name in ANNOTATIONS)
    return next((p for p in places if p.is_file()), None)

  def _places(self, split: str) -> list[pathlib.Path]:
    """The folders with the files of a split, one per stream."""
    return [self.root / split / stream for stream in self.streams or ("",)]


def find(path: pathlib.Path, streams: tuple[str, ...] = ()) -> FeatureFolder:
  """Looks at a folder.

  Args:
    path: the folder of a data set.
    streams: names of the folders of streams; () for those of `STREAMS` that there are.
  """
  root = path
  if not _arrays(path) and not _streams(path, streams) and (path / _FEATURES).is_dir():
    root = path / _FEATURES
  if _arrays(root) and not streams:
    return FeatureFolder(path, root, (), ())
  if found := _streams(root, streams):
    return FeatureFolder(path, root, (), found)
  inside = {d.name: _streams(d, streams) for d in _folders(root)}
  with_streams = {name: found for name, found in inside.items() if found}
  if with_streams:
    most = max(with_streams.values(), key=len)
    return FeatureFolder(path, root, tuple(with_streams), most)
  if streams:
    return FeatureFolder(path, root, (), streams)
  return FeatureFolder(path, root, tuple(d.name for d in _folders(root) if _arrays(d)), ())


def are_streams(names: Iterable[str]) -> bool:
  """Whether folders are those of streams, in any letter case, and so not of classes."""
  found = {name.lower() for name in names}
  return bool(found) and found <= set(STREAMS)


def by_lists(videos: Mapping[str, Video], annotations: pathlib.Path) -> dict[str, Video]:
  """The videos that the lists beside the annotations name, each in the subset of its list.

  Args:
    videos: all annotated videos.
    annotations: their file.

  Returns:
    For a subset with a list, the videos of the list, in its order; the other subsets as they are.

  Raises:
    UserError: a list cannot be read, or names a video that is not annotated or is listed twice.
  """
  listed: dict[str, Video] = {}
  subsets = set()
  for path in sorted(annotations.parent.glob(_LISTS)):
    subset = path.stem.partition("_")[2]
    try:
      names = files.read_text(path, strict=True).split("\n")
    except UserError:
      raise
    except (OSError, ValueError) as e:
      raise UserError(f"{path}: cannot be read ({e}).") from None
    subsets.add(subset)
    for line, name in enumerate(map(str.strip, names), start=1):
      if name and name not in videos:
        raise UserError(f"{path}, line {line}: video {name!r} is not annotated in {annotations}.")
      if name in listed:
        raise UserError(f"{path}, line {line}: video {name!r} is listed twice; remove one line.")
      if name:
        listed[name] = dataclasses.replace(videos[name], subset=subset)
  kept = {n: v for n, v in videos.items() if n not in listed and v.subset not in subsets}
  return kept | listed


def _streams(folder: pathlib.Path, given: tuple[str, ...]) -> tuple[str, ...]:
  """The folders of streams in a folder: all given ones, or those of `STREAMS`; () if none."""
  there = {d.name for d in _folders(folder)}
  if given:
    return given if there & set(given) else ()
  by_case = {name.lower(): name for name in sorted(there)}
  return tuple(by_case[s] for s in STREAMS if s in by_case)


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
  if not folder.is_dir():
    return []
  return sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))


def _arrays(folder: pathlib.Path) -> list[pathlib.Path]:
  """The arrays directly in a folder, without hidden files such as `._video.npy`."""
  return [f for f in folder.glob("*.npy") if not f.name.startswith(".")]
