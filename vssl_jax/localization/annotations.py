"""Reads and writes ground truth and predictions in the format of ActivityNet's JSON files.

Ground truth: `{"database": {video: {"subset": …, "duration": seconds, "annotations": [{"segment":
[start, end], "label": …}]}}}`; predictions: `{"results": {video: [{"segment": [start, end],
"label": …, "score": …}]}}`. Times are in seconds. Other fields are ignored when reading; the fields
that ActivityNet's evaluator requires are written.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.files import check_name, local, parse_json, read_text, write_atomic
from vssl_jax.localization.segments import covers

_VERSION = "VERSION 1.3"


class Segment(NamedTuple):
  """One action: seconds from the video's start, start ≤ end."""

  start: float
  end: float
  label: str


class Prediction(NamedTuple):
  """One detected action; a higher score means more certain."""

  start: float
  end: float
  label: str
  score: float


@dataclasses.dataclass(frozen=True)
class Video:
  """The annotation of a video.

  Attributes:
    subset: name of the split.
    duration: length in seconds; None if unknown.
    segments: the actions, in the order of the file.
  """

  subset: str
  duration: float | None
  segments: tuple[Segment, ...]

  @property
  def labels(self) -> tuple[str, ...]:
    """The classes of the video, each once, sorted: the labels for weak supervision."""
    return tuple(sorted({s.label for s in self.segments}))


Annotations = Mapping[str, Video]
Predictions = Mapping[str, Sequence[Prediction]]


def of_subset(annotations: Annotations, subset: str) -> dict[str, Video]:
  """The videos of one split, in the original order.

  Raises:
    UserError: there are no such videos.
  """
  found = {name: v for name, v in annotations.items() if v.subset == subset}
  if not found:
    there = ", ".join(sorted({v.subset for v in annotations.values()})) or "no videos at all"
    raise UserError(f"no annotated video is of subset {subset!r}; the annotations have {there}.")
  return found


def label_names(annotations: Annotations) -> tuple[str, ...]:
  """All classes of all splits, sorted, so that a class keeps its number in every split."""
  return tuple(sorted({s.label for v in annotations.values() for s in v.segments}))


def truth(video: Video, names: Sequence[str], steps: int, step_seconds: float) -> np.ndarray:
  """Annotated actions of each step, bool `[T, C]`; classes that are not in `names` are left out."""
  result = np.zeros((steps, len(names)), bool)
  place = {name: i for i, name in enumerate(names)}
  known = [s for s in video.segments if s.label in place]
  held = covers(np.array([s[:2] for s in known]), steps, step_seconds)
  for segment, at in zip(known, held, strict=True):
    result[at, place[segment.label]] = True
  return result


def multi_hot(videos: Iterable[Video], names: Sequence[str]) -> np.ndarray:
  """Video labels, float32 `[V, C]`: 1 where the class occurs in the video.

  Raises:
    UserError: a label is not among the names.
  """
  place = {name: i for i, name in enumerate(names)}
  rows = [v.labels for v in videos]
  unknown = sorted({label for row in rows for label in row if label not in place})
  if unknown:
    raise UserError(f"label {unknown[0]!r} is not among the {len(names)} classes in use.")
  result = np.zeros((len(rows), len(names)), np.float32)
  for i, row in enumerate(rows):
    result[i, [place[label] for label in row]] = 1
  return result


def read_annotations(
  path: str | os.PathLike[str], *, durations: str | os.PathLike[str] | None = None
) -> dict[str, Video]:
  """Reads ground truth.

  Args:
    path: path of the JSON file.
    durations: path of a CSV file with columns `video_id` and `duration_s`, used for videos that
      have no duration in the JSON file.

  Returns:
    Videos by name, in the order of the file.

  Raises:
    UserError: a file is missing or malformed; the message names the video and the entry.
  """
  database = _field(_load(path), "database", dict, str(path))
  known = {} if durations is None else _read_durations(durations)
  videos = {}
  for name, entry in database.items():
    where = f"{path}: video {name!r}"
    check_name(name, str(path))  # it becomes the name of a file of features
    subset = _field(entry, "subset", str, where)
    listed = _field(entry, "annotations", list, where)
    places = (f"{where}, annotation {i}" for i in range(len(listed)))
    segments = tuple(Segment(*_segment(*pair)) for pair in zip(listed, places, strict=True))
    duration = entry.get("duration")
    duration = known.get(name) if duration is None else duration
    if duration is not None and not (_is_number(duration) and duration > 0):
      raise UserError(f"{where}: duration {duration!r} is not a positive number of seconds.")
    videos[name] = Video(subset, None if duration is None else float(duration), segments)
  return videos


def write_annotations(path: str | os.PathLike[str], annotations: Annotations) -> None:
  """Writes ground truth that ActivityNet's tools can read; the file is written atomically."""
  database = {}
  for name, video in annotations.items():
    entry: dict[str, Any] = {"subset": video.subset}
    if video.duration is not None:
      entry["duration"] = video.duration
    entry["annotations"] = [{"segment": [s.start, s.end], "label": s.label} for s in video.segments]
    database[name] = entry
  root = {"nodeId": 0, "nodeName": "Root", "parentId": None, "parentName": None}
  leaves = [
    {"nodeId": i, "nodeName": name, "parentId": 0, "parentName": "Root"}
    for i, name in enumerate(label_names(annotations), start=1)
  ]
  _dump(path, {"version": _VERSION, "taxonomy": [root, *leaves], "database": database})


def read_predictions(path: str | os.PathLike[str]) -> dict[str, list[Prediction]]:
  """Reads predictions, by name of the video.

  Raises:
    UserError: the file is missing or malformed; the message names the video and the entry.
  """
  results = _field(_load(path), "results", dict, str(path))
  predictions: dict[str, list[Prediction]] = {}
  for name, listed in results.items():
    check_name(name, str(path))
    if not isinstance(listed, list):
      raise UserError(f"{path}: video {name!r} has no list of predictions.")
    predictions[name] = []
    for i, entry in enumerate(listed):
      where = f"{path}: video {name!r}, prediction {i}"
      segment = _segment(entry, where)
      score = entry.get("score")
      if not _is_number(score):
        raise UserError(f"{where}: score {score!r} is not a number.")
      predictions[name].append(Prediction(*segment, float(score)))
  return predictions


def write_predictions(path: str | os.PathLike[str], predictions: Predictions) -> None:
  """Writes predictions that ActivityNet's evaluator accepts; the file is written atomically.

  Raises:
    UserError: a time or score is not finite.
  """
  results = {}
  for name, listed in predictions.items():
    for p in listed:
      if not all(map(math.isfinite, (p.start, p.end, p.score))):
        raise UserError(f"predictions of video {name!r}: {p} is not finite.")
    results[name] = [
      {"segment": [float(p.start), float(p.end)], "label": p.label, "score": float(p.score)}
      for p in listed
    ]
  _dump(path, {"version": _VERSION, "results": results, "external_data": {"used": False}})


def _load(path: str | os.PathLike[str]) -> Any:
  def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
      twice = next(k for k, n in collections.Counter(k for k, _ in pairs).items() if n > 1)
      raise UserError(f"{path}: the key {twice!r} occurs twice in one object; keep one.")
    return tree

  try:
    return parse_json(read_text(local(path), strict=True), object_pairs_hook=unique)
  except UserError:
    raise
  except OSError as e:
    raise UserError(f"{path}: cannot be read ({e.strerror}).") from None
  except ValueError as e:
    raise UserError(f"{path}: is not valid JSON ({e}).") from None


def _dump(path: str | os.PathLike[str], tree: Any) -> None:
  write_atomic(path, (json.dumps(tree, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _field(tree: Any, key: str, kind: type, where: str) -> Any:
  value = tree.get(key) if isinstance(tree, dict) else None
  if not isinstance(value, kind):
    raise UserError(f"{where}: has no {key!r} ({kind.__name__}), which ActivityNet's format needs.")
  return value


def _is_number(value: Any) -> bool:
  if not isinstance(value, int | float) or isinstance(value, bool):
    return False
  try:
    return math.isfinite(value)
  except OverflowError:  # an integer that is too large for a float
    return False


def _segment(entry: Any, where: str) -> tuple[float, float, str]:
  label = _field(entry, "label", str, where)
  segment = _field(entry, "segment", list, where)
  if len(segment) != 2 or not all(map(_is_number, segment)) or segment[1] < segment[0]:
    raise UserError(f"{where}: segment {segment} is not [start, end] in seconds, start ≤ end.")
  return float(segment[0]), float(segment[1]), label


def _read_durations(path: str | os.PathLike[str]) -> dict[str, float]:
  try:
    with open(path, newline="", encoding="utf-8-sig") as f:
      rows = list(csv.DictReader(f))
    found = {row["video_id"]: float(row["duration_s"]) for row in rows}
  except OSError as e:
    raise UserError(f"{path}: cannot be read ({e.strerror}).") from None
  except (KeyError, TypeError, ValueError, csv.Error):
    raise UserError(
      f"{path}: needs columns 'video_id' and 'duration_s', the latter in seconds."
    ) from None
  for name in found:
    check_name(name, str(path))
  return found
