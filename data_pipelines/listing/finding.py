"""Finds the videos below a folder: the one rule for `prepare`, `extract` and all that read folders.

A file is a video by its extension. Hidden files and folders, whose names begin with a dot, are left
out, and so are the `._*` files that macOS writes beside each file on foreign disks.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence

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
ARRAYS = frozenset({".npy", ".npz"})  # of `data_pipelines.arrays`
FEW = 6  # how many names a note lists; of more, it gives the number


@dataclasses.dataclass(frozen=True)
class Found:
  """What lies below a folder.

  Attributes:
    root: the folder; its path is never taken for an address of a bucket unless it is one.
    paths: paths of the videos relative to the folder, with forward slashes, sorted.
    notes: one line for each kind of file that was left out.
    sizes: size of each video in bytes, by path, if listing the files has told it.
    lost: the note on folders that cannot be listed, so that their videos are missing; else "".
  """

  root: pathlib.Path
  paths: tuple[str, ...]
  notes: tuple[str, ...]
  sizes: Mapping[str, int]
  lost: str = ""

  def files(self) -> list[pathlib.Path]:
    """Path of each video, or its address; one that only looks like an address is made absolute."""
    if files.is_remote(self.root):  # `/` of its path would take `cam:/a.mp4` for an address
      return [files.path(f"{str(self.root).rstrip('/')}/{path}") for path in self.paths]
    found = [self.root / path for path in self.paths]
    return [pathlib.Path(os.path.abspath(p)) if files.is_address(p) else p for p in found]


def find(
  folder: str | os.PathLike | pathlib.Path, extensions: Collection[str] = EXTENSIONS
) -> Found:
  """Lists the videos below a folder, here or in a bucket; links to folders are followed.

  Args:
    folder: where to look.
    extensions: which files are videos, by their extensions in small letters.

  Raises:
    UserError: there is no such folder, or it has no videos.
  """
  root = files.path(str(folder))
  if not root.is_dir():
    raise UserError(f"{folder}: no such folder or .csv file: give a folder of videos or a CSV")
  if not files.is_remote(root) and files.is_address(root):
    root = pathlib.Path(os.path.abspath(root))  # a folder named `gs:`
  names, sizes, closed = _in_bucket(root) if files.is_remote(root) else _on_disk(root)
  lost = f"{counted(closed, 'folder')} cannot be read: {few(closed)}" if closed else ""
  notes = [lost] if lost else []
  ignored = collections.Counter(e for e in map(_extension, names) if e not in extensions)
  if ignored:
    kinds = ", ".join(f"{n} {kind or 'without extension'}" for kind, n in sorted(ignored.items()))
    notes.append(f"files left out because their extension is not of a video: {kinds}")
  paths = tuple(sorted(name for name in names if _extension(name) in extensions))
  if not paths:
    more = lost and f"; {lost}"
    if ARRAYS & ignored.keys() and extensions is EXTENSIONS:
      more += "; videos as arrays need no preparing, they are read by config.data.source=arrays"
    kinds = "*.mp4, *.avi, *.mkv, …" if extensions is EXTENSIONS else _named(extensions)
    raise UserError(f"{folder}: contains no videos (no file named {kinds}){more}")
  known = {path: sizes[path] for path in paths if path in sizes}
  return Found(root, paths, tuple(notes), known, lost)


def _named(extensions: Collection[str]) -> str:
  return ", ".join(f"*{e}" for e in sorted(extensions))


def few(names: Sequence[str]) -> str:
  """The first few names, and how many more there are."""
  more = len(names) - FEW
  return ", ".join(names[:FEW]) + (f" and {more} more" if more > 0 else "")


def counted(names: Sequence[str], noun: str) -> str:
  """Number and noun, as in "1 video" or "3 videos"; the plural of "class" is "classes"."""
  ending = "" if len(names) == 1 else "es" if noun.endswith("s") else "s"
  return f"{len(names)} {noun}{ending}"


def _extension(name: str) -> str:
  return os.path.splitext(name)[1].lower()


def _on_disk(root: pathlib.Path) -> tuple[list[str], dict[str, int], list[str]]:
  """Paths of all files that are not hidden, no sizes, and the folders that cannot be listed."""
  names, closed, visited = [], [], set()
  walk = os.walk(root, followlinks=True, onerror=lambda e: closed.append(str(e.filename)))
  for folder, folders, inside in walk:
    try:
      status = os.stat(folder)
    except OSError:  # it cannot be entered, or is gone
      closed.append(folder)
      folders.clear()
      continue
    if (status.st_dev, status.st_ino) in visited:  # a link to a folder above
      folders.clear()
      continue
    visited.add((status.st_dev, status.st_ino))
    folders[:] = sorted(f for f in folders if not f.startswith("."))
    here = pathlib.Path(folder).relative_to(root)
    names += [(here / name).as_posix() for name in inside if not name.startswith(".")]
  return names, {}, closed


def _in_bucket(root: pathlib.Path) -> tuple[list[str], dict[str, int], list[str]]:
  """As `_on_disk`; a bucket also tells the sizes of its objects."""
  sizes = files.tree(root)
  names = [n for n in sizes if not any(part.startswith(".") for part in n.split("/"))]
  return names, sizes, []
