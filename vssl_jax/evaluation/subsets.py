"""Class-balanced subsets of a training split, for few labels; stored as files to share."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.probes.too_few_videos import TooFewVideos

_HEADER = "video\tclass\tname"


def balanced(label: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Picks a fraction of the labeled videos, the same number of each class and at least one.

  A class with fewer videos gives all of them. With the same seed, a smaller subset lies within
  every larger one.

  Args:
    label: int `[V]`; negative means unknown, and such videos are never picked.
    fraction: in (0, 1).
    seed: seed of the choice.

  Returns:
    int64 `[n]`, ascending positions in `label`.

  Raises:
    UserError: `fraction` is not between 0 and 1.
    TooFewVideos: there are fewer than two classes, or the subset would be the whole split.
  """
  percent = f"{100 * fraction:g} %"
  if not 0 < fraction < 1:
    raise UserError(f"--fractions: {fraction:g} is not between 0 and 1; 1 % is 0.01.")
  label = np.asarray(label)
  classes, videos = np.unique(label[label >= 0], return_counts=True)
  if len(classes) < 2:
    raise TooFewVideos(
      f"--fractions: the training videos have labels of {len(classes)} class(es); a subset needs "
      "two."
    )
  each = max(1, math.floor(fraction * videos.sum() / len(classes) + 0.5))
  if each >= videos.max():
    raise TooFewVideos(
      f"--fractions: {percent} is {each} video(s) per class, which is the whole training split: "
      "too few videos for a subset; give a smaller fraction, or leave out semi_supervised."
    )
  picked = []
  for c in classes:
    members = np.flatnonzero(label == c)
    picked.append(np.random.default_rng([seed, int(c)]).permutation(members)[:each])
  return np.sort(np.concatenate(picked))


def write(
  path: str | os.PathLike[str],
  videos: Sequence[int],
  labels: Sequence[int],
  names: Sequence[str],
  label_names: Sequence[str],
) -> None:
  """Writes a subset as tab-separated text: index in the split, class, name; one video per line.

  Args:
    path: the file; its folder is created if missing.
    videos: indices of the videos in their split.
    labels: their class indices.
    names: their names, "" for a video without a name.
    label_names: names of the classes.
  """
  rows = zip(videos, labels, names, strict=True)
  lines = [_HEADER, *(f"{int(v)}\t{label_names[y]}\t{name}" for v, y, name in rows)]
  files.write_atomic(path, ("\n".join(lines) + "\n").encode())


def _tails(name: str) -> list[tuple[str, ...]]:
  """The last two parts of a path, and its last part."""
  parts = pathlib.PurePosixPath(name).parts
  return [parts[-n:] for n in (2, 1) if len(parts) >= n]


def read(path: str | os.PathLike[str], names: Sequence[str], count: int) -> np.ndarray:
  """Reads a file from `write`, or a plain list of names, and finds its videos in the given split.

  A video is found by its name if the split has names and only one video has this name, else by its
  index. A name that is a path may start with other folders than in the split: if the split does not
  have the full name, the class folder and file name are compared, then the file name alone. Such a
  match counts only if it is unique.

  Args:
    path: the file.
    names: names of the split's videos by index, or () if there are none.
    count: number of videos in the split.

  Returns:
    int64 `[n]`, ascending indices of videos.

  Raises:
    UserError: the file cannot be read, names a video that is not in the split, or names no video.
  """
  try:
    lines = files.read_text(path, strict=True).splitlines()
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(f"{path}: this subset file cannot be read ({e}).") from None
  places: dict[str, list[int]] = {}
  for i, name in enumerate(names):
    places.setdefault(name, []).append(i)
  tails: dict[tuple[str, ...], list[int]] = {}
  for i, name in enumerate(names):
    for parts in _tails(name):
      tails.setdefault(parts, []).append(i)
  found = []
  for n, line in enumerate(lines, start=1):
    if not line.strip() or line == _HEADER:
      continue
    fields = line.split("\t")
    name, number = fields[-1], fields[0] if len(fields) > 1 else ""
    own = places.get(name, []) if name else []
    own = own or next((tails[t] for t in _tails(name) if len(tails.get(t, ())) == 1), [])
    if len(own) == 1:
      found.append(own[0])
    elif number.isdigit() and int(number) < count and (not own or int(number) in own):
      if name and names and not own:
        raise UserError(f"{path}: line {n}: no video {name!r} in the training split.")
      found.append(int(number))
    else:
      raise UserError(
        f"{path}: line {n}: {line!r} does not match exactly one video of the training split."
      )
  if not found:
    raise UserError(f"{path}: names no video.")
  return np.unique(np.array(found, np.int64))
