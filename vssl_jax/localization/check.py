"""Finds problems in a data set of feature sequences before training."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.files import local, read_npy
from vssl_jax.localization.annotations import Annotations


class Problem(NamedTuple):
  """One finding.

  Attributes:
    video: name of the video.
    message: what is wrong.
    fatal: True if training cannot or should not continue; False for a note.
  """

  video: str
  message: str
  fatal: bool


def find_problems(
  annotations: Annotations,
  folder: pathlib.Path | str | Mapping[str, pathlib.Path],
  *,
  step_seconds: float | None = None,
  label_names: Collection[str] | None = None,
  labeled: bool = True,
  width: int | None = None,
  slack: float = 0.1,
) -> list[Problem]:
  """Checks the annotations and one `.npy` file `[L, D]` per video.

  Fatal: a file that is missing, empty or unreadable; a shape other than `[L, D]`, or a D other than
  that of the first file; NaN or infinity; an unknown label; a video without labels, if labels are
  required; a video whose actions are all before 0 or after its end (perhaps other units). Notes: a
  segment that starts before 0 or after the end, or ends more than a step after it (THUMOS14's own
  annotation has eight of them), or has no length; features that are longer or shorter than the
  video.

  Args:
    annotations: the videos to check.
    folder: contains `<video>.npy`; or the file of each video, by its name.
    step_seconds: time from one feature to the next; None if it varies or is unknown.
    label_names: the classes of training; None to accept any class.
    labeled: whether each video must have an action, as for training.
    width: D of the features of the training videos; None for that of the first file here.
    slack: a difference in length up to this share of the duration plus two steps is accepted.

  Returns:
    Findings, in the order of the videos.
  """
  problems: list[Problem] = []
  files = _files(folder, annotations)
  others = "the first video" if width is None else "the training videos"

  def found(message: str, *, fatal: bool = True) -> None:
    problems.append(Problem(name, message, fatal))

  for name, video in annotations.items():
    shape = _look(files[name], found)
    if shape is not None:
      width = shape[1] if width is None else width
      if shape[1] != width:
        found(f"features are {shape[1]} wide, those of {others} {width}")
    if labeled and not video.segments:
      found("has no annotated action")
    known = video.labels if label_names is None else label_names
    for label in sorted(set(video.labels) - set(known)):
      found(f"label {label!r} is none of the {len(known)} classes of training")
    step = step_seconds or 0.0
    covered = shape[0] * step if shape and step else None
    duration = covered if video.duration is None else video.duration
    if covered and duration is not None and abs(covered - duration) > slack * duration + 2 * step:
      found(f"features cover {covered:.1f} s of a video of {duration:.1f} s", fatal=False)
    end = math.inf if duration is None else duration
    outside = all((s.start < 0 and s.end <= 0) or s.start >= end for s in video.segments)
    for s in video.segments:
      what = f"segment {s.start:g} to {s.end:g} s ({s.label})"
      if s.end == s.start:
        found(f"{what} has no length", fatal=False)
      if s.start < 0:
        found(f"{what} starts before 0", fatal=outside)
      elif s.start >= end:
        found(f"{what} starts past the end, {end:.1f} s", fatal=outside)
      if s.start < end < s.end - step:
        found(f"{what} ends past the end, {end:.1f} s", fatal=False)
  return problems


def _files(
  folder: pathlib.Path | str | Mapping[str, pathlib.Path], names: Iterable[str]
) -> Mapping[str, pathlib.Path]:
  if isinstance(folder, Mapping):
    return folder
  where = local(folder)
  return {name: where / f"{name}.npy" for name in names}


def streams_differ(files: Mapping[str, Sequence[pathlib.Path]]) -> list[Problem]:
  """Checks that the streams of each video are equally long; one feature more or less is accepted.

  Fatal if one is shorter than the longest by a tenth or more: the rest would be lost.

  Args:
    files: the files of each video, one per stream.
  """
  problems = []
  for name, parts in files.items():
    try:
      lengths = [len(read_sequence(f, mapped=True)) for f in parts]
    except UserError:  # `find_problems` names it
      continue
    if max(lengths) - min(lengths) > 1:
      problems.append(Problem(name, _differ(parts, lengths), _too_short(lengths)))
  return problems


def _differ(files: Sequence[pathlib.Path], lengths: Sequence[int]) -> str:
  each = ", ".join(f"{f} {n}" for f, n in zip(files, lengths, strict=True))
  return f"the streams differ in their number of features: {each}"


def _too_short(lengths: Sequence[int]) -> bool:
  lost = max(lengths) - min(lengths)
  return lost > 1 and lost >= 0.1 * max(lengths)


def read_streams(files: Sequence[pathlib.Path]) -> np.ndarray:
  """Reads the streams of one video and joins them along D; the longer ones are cut at the end.

  Raises:
    UserError: as `read_sequence`, or `streams_differ` finds a fatal difference.
  """
  parts = [read_sequence(f) for f in files]
  lengths = [len(p) for p in parts]
  if _too_short(lengths):
    raise UserError(f"{_differ(files, lengths)}; extract them again.")
  return np.concatenate([p[: min(lengths)] for p in parts], axis=1) if len(parts) > 1 else parts[0]


def read_sequence(path: pathlib.Path, *, mapped: bool = False) -> np.ndarray:
  """Reads the features of one video, `[L ≥ 1, D ≥ 1]`, as stored.

  Axes of length 1 between these two, as public extractors of I3D features leave them
  (`[L, 1, 1, D]`), are dropped.

  Args:
    path: path of the `.npy` file.
    mapped: memory-map the file: features stay on disk until they are used.

  Raises:
    UserError: the file is missing or unreadable, or holds something else.
  """
  features = read_npy(path, mapped=mapped)
  if features.ndim > 2 and set(features.shape[1:-1]) == {1}:
    features = features.reshape(len(features), -1)
  if features.ndim != 2 or not features.shape[1] or features.dtype.kind not in "fiu":
    raise UserError(f"{path} holds {features.dtype} {list(features.shape)}, not numbers [L, D]")
  if not len(features):
    raise UserError(f"{path} has no features")
  return features


def width_of(folder: pathlib.Path | Mapping[str, pathlib.Path], names: Iterable[str]) -> int | None:
  """D of the first video whose features can be read; None if no features can be read."""
  names = list(names)
  files = _files(folder, names)
  for name in names:
    try:
      return read_sequence(files[name], mapped=True).shape[1]
    except UserError:
      continue
  return None


def _look(path: pathlib.Path, found) -> tuple[int, int] | None:
  try:
    features = read_sequence(path, mapped=True)
  except UserError as e:
    return found(str(e))
  bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
  if len(bad):
    found(f"{path} has NaN or infinity in {len(bad)} of {len(features)} rows, first {bad[0]}")
  return features.shape


def require(problems: list[Problem]) -> None:
  """Raises an error if a finding is fatal.

  Raises:
    UserError: one line with the first fatal finding and the number of others.
  """
  fatal = [p for p in problems if p.fatal]
  if fatal:
    more = f" (and {len(fatal) - 1} more problems)" if len(fatal) > 1 else ""
    raise UserError(f"video {fatal[0].video!r}: {fatal[0].message}{more}.")


def report(problems: list[Problem], most: int | None = None) -> str:
  """The first `most` findings as lines of text, fatal ones first, and the number of the others."""
  ordered = sorted(problems, key=lambda p: not p.fatal)
  shown = ordered[:most]
  lines = [f"{'error' if p.fatal else 'note'}: {p.video}: {p.message}\n" for p in shown]
  if len(ordered) > len(shown):
    lines.append(f"note: {len(ordered) - len(shown)} more findings like these\n")
  return "".join(lines)
