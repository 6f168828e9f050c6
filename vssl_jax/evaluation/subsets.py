"""Few labels: class-balanced subsets of a training split, kept as files that others can use."""

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
  """Picks as many videos of each class, at least one, a fraction of the labelled ones in all.

  Of a class that has fewer, all. Of one seed, a smaller subset lies within every larger one.

  Args:
    label: int `[V]`; negative ones are unknown and never picked.
    fraction: in (0, 1).
    seed: of the choice.

  Returns:
    int64 `[n]`, ascending positions in `label`.

  Raises:
    UserError: no fraction.
    TooFewVideos: fewer than two classes, or too few videos for a subset to be one.
  """
  percent = f"{100 * fraction:g} %"
  if not 0 < fraction < 1:
    raise UserError(f"--fractions: {fraction:g} is not between 0 and 1; 1 % is 0.01.")
  label = np.asarray(label)
  classes, videos = np.unique(label[label >= 0], return_counts=True)
  if len(classes) < 2:
    raise TooFewVideos(
      f"--fractions: {len(classes)} class(es) of labelled training videos: a subset needs two."
    )
  each = max(1, math.floor(fraction * videos.sum() / len(classes) + 0.5))
  if each >= videos.max():
    raise TooFewVideos(
      f"--fractions: {percent} is {each} video(s) a class, all that the training split has: too "
      "few videos for a subset; give a smaller fraction, or leave out semi_supervised."
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
  """Writes a subset as tab-separated text: number in the split, class, name; one video per line.

  Args:
    path: the file; its folder is made.
    videos: numbers of the videos in their split.
    labels: their classes.
    names: their names, "" where they have none.
    label_names: of the classes.
  """
  rows = zip(videos, labels, names, strict=True)
  lines = [_HEADER, *(f"{int(v)}\t{label_names[y]}\t{name}" for v, y, name in rows)]
  files.write_atomic(path, ("\n".join(lines) + "\n").encode())


def _tails(name: str) -> list[tuple[str, ...]]:
  """The last two parts of a path, and the last."""
  parts = pathlib.PurePosixPath(name).parts
  return [parts[-n:] for n in (2, 1) if len(parts) >= n]


def read(path: str | os.PathLike[str], names: Sequence[str], count: int) -> np.ndarray:
  """Reads what `write` wrote, or a plain list of names, for a split at hand.

  A video is found by its name where the split has names and the name is one video's alone, else by
  its number. Names that are paths may begin in another way: of a name that the split lacks the
  class folder and the file count, or the file alone, where just one video has them.

  Args:
    path: the file.
    names: of the split's videos by number, or () where there are none.
    count: videos of the split.

  Returns:
    int64 `[n]`, ascending numbers of videos.

  Raises:
    UserError: no such file, a video that the split lacks, or no video at all.
  """
  try:
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(f"{path}: a subset cannot be read there ({e}).") from None
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
      raise UserError(f"{path}: line {n}: no single video of the training split is {line!r}.")
  if not found:
    raise UserError(f"{path}: names no video.")
  return np.unique(np.array(found, np.int64))
