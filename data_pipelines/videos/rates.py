"""Frame rates: measuring them, sampling frames at them, and what counts as a gap in a video."""

from __future__ import annotations

import collections
import fractions
import itertools
from collections.abc import Iterable, Iterator, Sequence

import av

CLOCK = 2e-3  # tolerance, seconds; some containers round time stamps to milliseconds
# Seconds between two frames above which nothing was recorded in between, or very slowly.
LONG_GAP = 60.0
MISSING = 1.5  # median gaps, above which frames are missing in between
UNKNOWN = 25.0  # frames per second, where nothing tells
_SAME = 0.01  # relative difference of two gaps that count as equal
Timed = tuple[float, av.VideoFrame]  # seconds from the beginning of the video, frame


class Gaps:
  """The seconds from each frame to the next, of one video.

  Args:
    tick: unit of the time stamps, seconds; each may be off by half of it.

  Attributes:
    count: number of gaps.
  """

  def __init__(self, tick: fractions.Fraction = fractions.Fraction(1, 1_000_000)):
    self._tick = tick
    self._counts: collections.Counter[int] = collections.Counter()  # by length, ticks
    self._median = 0
    self._measured = 0  # gaps that `_median` is of
    self.count = 0

  def add(self, seconds: float) -> None:
    """Adds a gap."""
    self._counts[round(seconds / self._tick)] += 1
    self.count += 1

  def median(self) -> float:
    """The median gap, seconds; 0 if there is none."""
    return float(self._middle() * self._tick)

  def even(self) -> bool:
    """Whether nine of ten gaps are as long as the median, but for rounding."""
    middle = self._middle()
    like = sum(n for gap, n in self._counts.items() if abs(gap - middle) <= self._near(middle))
    return like >= 0.9 * self.count

  def missing(self) -> int:
    """Number of frames that would fill the gaps which are longer than others, long ones aside."""
    middle = self._middle()
    if not middle:
      return 0
    most = LONG_GAP / self._tick
    return sum(
      n * (round(gap / middle) - 1)
      for gap, n in self._counts.items()
      if MISSING * middle < gap <= most
    )

  def rate(self, declared: float) -> float:
    """Frames per second, by the median gap, which single long gaps do not change.

    Args:
      declared: frames per second by the header; it is taken if it agrees with the median gap to
        within 1 % or the rounding of time stamps. 0 if there is none.
    """
    middle = self._middle()
    if not middle:
      return declared or UNKNOWN
    if declared > 0 and abs(1 / declared / self._tick - middle) <= max(_SAME * middle, 0.51):
      return declared
    # 33, 33 and 34 ms are 30 frames per second: the mean of the gaps that rounding makes unequal.
    near = self._near(middle)
    like = {gap: n for gap, n in self._counts.items() if abs(gap - middle) <= near}
    return float(sum(like.values()) / (sum(gap * n for gap, n in like.items()) * self._tick))

  def _middle(self) -> int:
    if self._measured != self.count:
      seen = 0
      for gap, times in sorted(self._counts.items()):
        seen += times
        if 2 * seen >= self.count:
          self._median = gap
          break
      self._measured = self.count
    return self._median

  def _near(self, middle: int) -> float:
    return max(_SAME * middle, 1.0 if middle >= 4 else 0.0)


def of_times(times: Sequence[float], declared: float) -> float:
  """Frames per second of stored frames: their mean, or, if there is a long gap, their median.

  Args:
    times: seconds of each frame, increasing.
    declared: frames per second by the header, 0 if there are none; taken if it predicts the number
      of frames to within 1 % or the rounding of time stamps.
  """
  steps, seconds = len(times) - 1, times[-1] - times[0]
  if declared > 0 and abs(seconds * declared - steps) <= max(_SAME * steps, CLOCK * declared):
    return declared
  if steps <= 0 or seconds <= 0:
    return declared or UNKNOWN
  gaps = Gaps(fractions.Fraction(1, 1000))
  for a, b in itertools.pairwise(times):
    gaps.add(b - a)
  longest = max(b - a for a, b in itertools.pairwise(times))
  return gaps.rate(declared) if longest > LONG_GAP else steps / seconds


def between(frames: Iterable[Timed], start: float, end: float) -> Iterator[Timed]:
  """The frames from `start` to before `end`, seconds."""
  for time, frame in frames:
    if time >= end - CLOCK:
      return
    if time >= start - CLOCK:
      yield time, frame


def at_rate(frames: Iterable[Timed], fps: float) -> Iterator[Timed]:
  """The frame visible at every 1/fps second; frames may be repeated or left out.

  A gap of more than `LONG_GAP` is not filled: sampling begins again behind it.
  """
  origin = last = 0.0
  previous: av.VideoFrame | None = None
  shown = count = 0

  def rest() -> Iterator[Timed]:
    """What is left of the last frame before a gap or the end."""
    nonlocal shown
    assert previous is not None
    interval = (last - origin) / (count - 1) if count > 1 else 0.0
    while shown == 0 or origin + shown / fps < last + interval - CLOCK:
      yield origin + shown / fps, previous
      shown += 1

  for time, frame in frames:
    if previous is not None and time - last > LONG_GAP:
      yield from rest()
      previous, shown, count = None, 0, 0
    if previous is None:
      origin = time
    else:
      while origin + shown / fps < time - CLOCK:
        yield origin + shown / fps, previous
        shown += 1
    last, previous, count = time, frame, count + 1
  if previous is not None:
    yield from rest()
