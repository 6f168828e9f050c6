"""Reads and writes ground truth and predictions in the format of ActivityNet's JSON files.

Ground truth: `{"database": {video: {"subset": …, "duration": seconds, "annotations": [{"segment":
[start, end], "label": …}]}}}`; predictions: `{"results": {video: [{"segment": [start, end],
"label": …, "score": …}]}}`. Times are in seconds. Numbers may be text, such as "18.6", as in the
`gt.json` that BaS-Net's authors published. Other fields are ignored when reading; the fields that
ActivityNet's evaluator requires are written.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.files import check_name, lines, local, parse_json, read_text, write_atomic
from vssl_jax.localization.segments import covers

_VERSION = "VERSION 1.3"
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.ASCII | re.IGNORECASE)
_LONGEST = 60  # characters of a value in a message


class Segment(NamedTuple):
  """One action: seconds from the video's start, start ≤ end. See `odd_times` for what may be."""

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
      have no duration in the JSON file; an empty duration is unknown.

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
    given = entry.get("duration")
    duration = known.get(name) if given is None else _duration(given, where)
    videos[name] = Video(subset, duration, segments)
  return videos


def odd_times(annotations: Annotations, predictions: Predictions | None = None) -> str:
  """Tells of times that are read as they are, although no video has them.

  Args:
    annotations: the videos.
    predictions: tells of these segments, in place of the annotated ones.

  Returns:
    One line with the number of segments that start before 0 or end past the end of their video, as
    far as its duration is known, and the first of them; "" if there are none.
  """
  odd, total = [], 0
  for name, video in annotations.items():
    listed = video.segments if predictions is None else predictions.get(name, ())
    end = math.inf if video.duration is None else video.duration
    total += len(listed)
    odd += [(name, s, end) for s in listed if s.start < 0 or s.end > end]
  if not odd:
    return ""
  name, s, end = odd[0]
  why = "starts before 0" if s.start < 0 else f"ends past the end, {end:g} s"
  return (
    f"{len(odd)} of {total} segments start before 0 s or end past the end of their video; the "
    f"first: video {name!r}, {s.start:g} to {s.end:g} s ({s.label}) {why}"
  )


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
      score = _number(entry.get("score"))
      if score is None:
        raise UserError(f"{where}: score {_shown(entry.get('score'))} is not a number.")
      predictions[name].append(Prediction(*segment, score))
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


def _number(value: Any) -> float | None:
  """A finite number, also one that is written as text; None for anything else."""
  if isinstance(value, str) and _NUMBER.fullmatch(value):
    value = float(value)
  if not isinstance(value, int | float) or isinstance(value, bool):
    return None
  try:
    return float(value) if math.isfinite(value) else None
  except OverflowError:  # an integer that is too large for a float
    return None


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _duration(value: Any, where: str) -> float:
  seconds = _number(value)
  if seconds is None or seconds <= 0:
    raise UserError(f"{where}: duration {_shown(value)} is not a positive number of seconds.")
  return seconds


def _segment(entry: Any, where: str) -> tuple[float, float, str]:
  label = _field(entry, "label", str, where)
  segment = _field(entry, "segment", list, where)
  times = [_number(t) for t in segment[:3]]
  if len(times) != 2 or times[0] is None or times[1] is None:
    raise UserError(f"{where}: segment {_shown(segment)} is not [start, end] in seconds.")
  if times[1] < times[0]:
    raise UserError(f"{where}: segment {_shown(segment)} ends before it starts.")
  return times[0], times[1], label


def _read_durations(path: str | os.PathLike[str]) -> dict[str, float]:
  known = {}
  try:
    table = csv.reader(lines(local(path), strict=True))
    heads = [head.strip().lower() for head in next(table, ())]
    name_at, duration_at = heads.index("video_id"), heads.index("duration_s")
    for row in filter(any, table):
      name, value = row[name_at].strip(), row[duration_at].strip()
      check_name(name, f"{path}, line {table.line_num}")
      if value:
        known[name] = _duration(value, f"{path}, line {table.line_num}: video {name!r}")
  except UserError:
    raise
  except OSError as e:
    raise UserError(f"{path}: cannot be read ({e.strerror}).") from None
  except (IndexError, ValueError, csv.Error):
    raise UserError(
      f"{path}: needs columns 'video_id' and 'duration_s', the latter in seconds."
    ) from None
  return known
