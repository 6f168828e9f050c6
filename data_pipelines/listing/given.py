"""Lists the videos of what a user gives: a folder, a CSV, or text files with a video per line."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection, Sequence

from data_pipelines.listing import layout, split_lists, video_list
from data_pipelines.listing.finding import EXTENSIONS
from data_pipelines.listing.video_list import Entry, VideoList
from vssl_jax import files
from vssl_jax.errors import UserError

_INSTEAD = "save it in UTF-8, with a video per line"


def videos(
  path: str | os.PathLike,
  *,
  split: str = "train",
  split_column: str | None = None,
  split_list: Sequence[str | os.PathLike] = (),
  root: str | os.PathLike | None = None,
  flat: bool = False,
  extensions: Collection[str] = EXTENSIONS,
) -> VideoList:
  """The videos of a folder, a CSV or text files; the same arguments always give the same list.

  Args:
    path: a folder, a CSV (see `video_list.from_csv`), or text files (see `from_text`), several
      separated by commas.
    split: name of the split if no column, list, folder or file name gives one.
    split_column: column of the CSV with each video's split.
    split_list: official lists of one split of UCF101 or HMDB51, for a folder.
    root: folder that the relative paths of a CSV or text file start from; by default its own.
    flat: take all videos of a folder as unlabeled, of one split.
    extensions: which files of a folder are videos, and what a line of a text file names.

  Raises:
    UserError: an argument does not fit the others, or the list is wrong.
  """
  whole = "," not in str(path) or files.path(path).exists()  # a name may have commas
  texts = [files.path(part) for part in ([str(path)] if whole else str(path).split(","))]
  if all(part.suffix.lower() == ".txt" and not part.is_dir() for part in texts):
    if split_list or flat or split_column:
      flag = "split_list" if split_list else "flat" if flat else "split_column"
      raise UserError(f"{path}: a list of videos, for which {flag} has no meaning; leave it out")
    return from_text(texts, root=root, split=split, extensions=extensions)
  where = files.path(path)
  if where.is_file():
    if split_list or flat:
      flag = "split_list" if split_list else "flat"
      raise UserError(
        f"{path} is a file: {flag} needs a folder; in a CSV, give the splits in a column"
      )
    return video_list.from_csv(where, root=root, split=split, split_column=split_column)
  if split_column or root:
    flag = "split_column" if split_column else "root"
    raise UserError(f"{path} is not a CSV file: {flag} needs a CSV")
  if split_list:  # they say what the folders say, and more
    return split_lists.apply(video_list.unsorted(where, extensions), split_list)
  return video_list.from_folder(where, split=split, flat=flat, extensions=extensions)


def from_text(
  paths: Sequence[pathlib.Path],
  *,
  root: str | os.PathLike | None = None,
  split: str = "train",
  extensions: Collection[str] = EXTENSIONS,
) -> VideoList:
  """Reads lists with one video per line, or `VIDEO LABEL`, as many published lists have it.

  A label is one word after the extension of the video, such as `a b.mp4 12`. Empty lines are left
  out.

  Args:
    paths: the text files; a file named like a split (`val.txt`, `kinetics_train_list.txt`) lists
      the videos of this split.
    root: folder that relative paths start from; by default that of the first file.
    split: name of the split for the other files.
    extensions: what a line names.

  Raises:
    UserError: a file or one of its lines is too large (see `files.lines`), a file cannot be read
      or lists no videos, or a line names no video.
  """
  entries: list[Entry] = []
  for path in paths:
    own = layout.parse(path.stem).split or split
    try:
      found = [
        _entry(f"{path}, line {number}", line.strip(), own, extensions)
        for number, line in enumerate(files.lines(path, instead=_INSTEAD), start=1)
        if line.strip()
      ]
    except OSError as error:
      raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not found:
      raise UserError(f"{path}: lists no videos; add at least one")
    entries += found
  where = files.path(root) if root is not None else paths[0].parent
  return video_list.checked(where, entries)


def _entry(where: str, line: str, split: str, extensions: Collection[str]) -> Entry:
  for path, label in ((line, ""), (line.rpartition(" ")[0].strip(), line.rpartition(" ")[2])):
    if os.path.splitext(path)[1].lower() in extensions:
      video_list.check_label(where, label)
      return Entry(path, split, label)
  raise UserError(
    f"{where}: expected a video, or `VIDEO LABEL`, found {line[:80]!r}; a video has an extension "
    f"such as {'.mp4' if extensions is EXTENSIONS else min(extensions)}"
  )
