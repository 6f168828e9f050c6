"""Draws when actions happen in made-up untrimmed videos, from lengths and gaps of real videos."""

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

_DRAW = 2  # `purpose` of the random numbers, see `source.generator`


@dataclasses.dataclass(frozen=True)
class Lengths:
  """The values to draw from, each with equal probability.

  Attributes:
    actions: lengths of actions, seconds, float `[A]`.
    gaps: time from the start of the video or the end of an action to the start of the next action,
      seconds, float `[G]`.
    counts: number of actions per video, int `[B]`.
  """

  actions: np.ndarray
  gaps: np.ndarray
  counts: np.ndarray


def typical() -> Lengths:
  """Log-normal: medians of 3 s per action, 8 s per gap and 8 actions per video (1 to 40)."""
  rng = np.random.default_rng(0)
  return Lengths(
    np.clip(np.exp(rng.normal(np.log(3), 0.8, 1000)), 0.7, 40),
    np.clip(np.exp(rng.normal(np.log(8), 1.1, 1000)), 0.7, 120),
    np.clip(np.exp(rng.normal(np.log(8), 1.0, 1000)), 1, 40).astype(np.int64),
  )


def lengths_of(annotations: Annotations) -> Lengths:
  """The lengths in annotated videos; overlapping actions give no gap.

  Raises:
    UserError: no action is longer than 0.
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
    raise UserError(
      "annotations: no annotated action is longer than 0 s, so there are no lengths to draw from; "
      "give other annotations."
    )
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
  """Makes up the annotations of videos; video v depends on (seed, subset, v) alone.

  The main class of video v is v mod C, so that classes are balanced. With probability
  `second_class` the video has a second class, and each action is of one of the two. Actions never
  overlap.

  Args:
    lengths: the values to draw from.
    names: names of the C classes.
    count: number of videos.
    subset: name of the subset; the videos' names begin with it (":" becomes "_").
    seed: seed of the data set.
    max_seconds: longest video; the video ends before the first action that does not fit.
    second_class: probability of a second class, in [0, 1].

  Raises:
    UserError: a number is out of range.
  """
  if count < 1 or not names or not 0 <= second_class <= 1 or not max_seconds > 0:
    raise UserError(
      "made-up videos: the number of videos, the number of classes and max_seconds must be above "
      f"0, second_class in [0, 1]; got {count}, {len(names)}, {max_seconds}, {second_class}."
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
      if i == 0:  # shortened if necessary, so that every video has an action
        length = min(length, max_seconds - time)
      if time + length > max_seconds:
        break
      # The first action is of the main class, so that every video has it.
      label = classes[0] if i == 0 else classes[rng.integers(len(classes))]
      segments.append(Segment(float(time), float(time + length), label))
      time += length + rng.choice(lengths.gaps)
    duration = float(min(max(time, segments[-1].end), max_seconds))
    videos[f"{subset.replace(':', '_')}_{v:05d}"] = Video(subset, duration, tuple(segments))
  return videos


def coverage(segment: Segment, steps: int, step_seconds: float) -> tuple[slice, np.ndarray]:
  """The steps that overlap with an action, and the share of each that the action covers.

  Args:
    segment: the action; a part behind the last step is ignored.
    steps: number of steps in the video; step t covers [t, t + 1) · step_seconds.
    step_seconds: length of a step.

  Returns:
    A slice of the overlapping steps, and their shares, float64 in [0, 1].
  """
  first = min(max(math.floor(segment.start / step_seconds), 0), steps)
  last = min(max(math.ceil(segment.end / step_seconds), first), steps)
  edges = np.arange(first, last + 1) * step_seconds
  inside = np.minimum(edges[1:], segment.end) - np.maximum(edges[:-1], segment.start)
  return slice(first, last), np.clip(inside / step_seconds, 0, 1)
