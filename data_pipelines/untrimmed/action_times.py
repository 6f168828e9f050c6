"""When actions happen in made-up untrimmed videos: lengths and gaps drawn from real ones."""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.source import generator
from vssl_jax.errors import UserError
from vssl_jax.localization.annotations import Annotations, Segment, Video

_DRAW = 2  # purpose of the random numbers, see `source.generator`


@dataclasses.dataclass(frozen=True)
class Lengths:
  """What to draw from, with equal chances.

  Attributes:
    actions: float `[A]`, lengths of actions, seconds.
    gaps: float `[G]`, time from the start or an action's end to the next start, seconds.
    counts: int `[B]`, actions per video.
  """

  actions: np.ndarray
  gaps: np.ndarray
  counts: np.ndarray


def typical() -> Lengths:
  """Log-normal actions of 3 s and gaps of 8 s in the median, 1 to 40 per video, mostly 8."""
  rng = np.random.default_rng(0)
  return Lengths(
    np.clip(np.exp(rng.normal(np.log(3), 0.8, 1000)), 0.7, 40),
    np.clip(np.exp(rng.normal(np.log(8), 1.1, 1000)), 0.7, 120),
    np.clip(np.exp(rng.normal(np.log(8), 1.0, 1000)), 1, 40).astype(np.int64),
  )


def lengths_of(annotations: Annotations) -> Lengths:
  """Those of real videos; where actions overlap, there is no gap.

  Raises:
    UserError: no action has a length.
  """
  actions, gaps, counts = [], [], []
  for video in annotations.values():
    ordered = sorted(s for s in video.segments if s.end > s.start)
    if ordered:
      counts.append(len(ordered))
    actions += [s.end - s.start for s in ordered]
    ends = itertools.accumulate((s.end for s in ordered), max, initial=0.0)
    gaps += [s.start - end for s, end in zip(ordered, ends, strict=False) if s.start > end]
  if not actions:
    raise UserError("no annotated action has a length to draw from.")
  return Lengths(np.array(actions), np.array(gaps or [0.0]), np.array(counts))


def draw(
  lengths: Lengths,
  names: Sequence[str],
  count: int,
  *,
  subset: str,
  seed: int,
  max_seconds: float,
  second_class: float = 0.0,
) -> dict[str, Video]:
  """Made-up videos; video v is a function of (seed, subset, v) alone.

  The main class of video v is v mod C, so that classes are balanced; with a chance of
  `second_class` another joins, and each action is of either. Actions never overlap.

  Args:
    lengths: to draw from.
    names: the C classes.
    count: videos.
    subset: its name, also at the front of the videos' names.
    seed: of this data set.
    max_seconds: no video is longer; an action that would not fit ends the video.
    second_class: chance in [0, 1].

  Raises:
    UserError: a number is out of range.
  """
  if count < 1 or not names or not 0 <= second_class <= 1 or not max_seconds > 0:
    raise UserError(
      f"made-up videos: needs videos, classes, a chance in [0, 1] and seconds above 0; got {count}"
      f", {len(names)}, {second_class}, {max_seconds}."
    )
  part = zlib.crc32(subset.encode())
  videos = {}
  for v in range(count):
    rng = generator(seed, part, v, _DRAW)
    classes = [names[v % len(names)]]
    if len(names) > 1 and rng.random() < second_class:
      classes.append(names[(v + int(rng.integers(1, len(names)))) % len(names)])
    segments, time = [], min(rng.choice(lengths.gaps), max_seconds / 2)
    for i in range(rng.choice(lengths.counts)):
      length = rng.choice(lengths.actions)
      if i == 0:  # there is always one
        length = min(length, max_seconds - time)
      if time + length > max_seconds:
        break
      # The main class comes first: a video never lacks it.
      label = classes[0] if i == 0 else classes[rng.integers(len(classes))]
      segments.append(Segment(float(time), float(time + length), label))
      time += length + rng.choice(lengths.gaps)
    duration = float(min(max(time, segments[-1].end), max_seconds))
    videos[f"{subset}_{v:05d}"] = Video(subset, duration, tuple(segments))
  return videos


def coverage(segment: Segment, steps: int, step_seconds: float) -> tuple[slice, np.ndarray]:
  """How much of each step an action fills.

  Args:
    segment: may reach past the end, where it fills nothing.
    steps: of the video; step t covers [t, t + 1) · step_seconds.
    step_seconds: their length.

  Returns:
    Where the action is, and float64 in [0, 1] for each of these steps.
  """
  first = min(max(math.floor(segment.start / step_seconds), 0), steps)
  last = min(max(math.ceil(segment.end / step_seconds), first), steps)
  edges = np.arange(first, last + 1) * step_seconds
  inside = np.minimum(edges[1:], segment.end) - np.maximum(edges[:-1], segment.start)
  return slice(first, last), np.clip(inside / step_seconds, 0, 1)
