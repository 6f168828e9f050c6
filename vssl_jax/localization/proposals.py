"""Turns a temporal class activation sequence (T-CAS) into scored segments, in seconds.

This is the inference of BaS-Net's released code (Lee et al. 2020). For each class that is predicted
for the video, the sequence is divided by its range over time and up-sampled; activation below 0
stays below 0 in this, so that a run ends where the line between two steps crosses the threshold. At
each of several thresholds, the runs above the threshold are proposals. The score of a run is the
mean activation inside, minus the mean just outside of it (outer-inner contrast, Shou et al. 2018),
plus γ times the probability of the class in the video. (BaS-Net's code adds the constant γ, because
it makes the probability binary before.)

If no predicted class is active anywhere in the video, proposals are made for the most likely class,
from its activation relative to its minimum. If that activation is constant, the proposal is the
whole video. The scores of these segments are lowered by 1, so that they rank after active ones.
(BaS-Net's code stops there.)

By default a feature is assumed to be at the middle of its step, so that activations before and
after it are treated in the same way. In BaS-Net's code it is at the start (`place="start"`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.signal import savgol_filter

from vssl_jax.errors import UserError
from vssl_jax.localization.annotations import Prediction
from vssl_jax.localization.segments import runs


def evenly_spaced(first: float, last: float, step: float) -> tuple[float, ...]:
  """The thresholds from `first` to `last`, both included, in steps of `step` > 0."""
  count = math.floor(min((last - first) / step, 1e9) + 1e-9) + 1  # 0.3:0.7:0.1 has five
  return tuple((first + step * np.arange(count)).tolist())


@dataclasses.dataclass(frozen=True)
class ProposalSettings:
  """How proposals are made; the defaults are BaS-Net's on THUMOS14 (Lee et al. 2020).

  Attributes:
    class_threshold: proposals are made for classes with at least this probability; if there are
      none, for the most likely class.
    thresholds: thresholds in [0, 1) of the normalized activation; runs reach them and are above 0.
    scale: factor of linear up-sampling.
    outer: λ, length of the outer region on each side of a run, as a share of the run's length.
    gamma: γ, weight of the class probability in the score.
    masked: True: activation below the threshold counts as 0 in the score, as in BaS-Net's code;
      False: only activation below 0 does.
    smooth: window of a Savitzky-Golay filter over the steps, odd; 0 for none. Long, coarsely
      sampled videos (ActivityNet) need it.
    order: order of the polynomials of that filter.
    place: where in its step a feature is assumed: "middle", or "start" as in BaS-Net's code, where
      all segments are half a step earlier.
  """

  class_threshold: float = 0.25
  thresholds: tuple[float, ...] = tuple(np.arange(0, 0.25, 0.025).tolist())
  scale: int = 24
  outer: float = 0.25
  gamma: float = 0.2
  masked: bool = True
  smooth: int = 0
  order: int = 2
  place: str = "middle"

  def __post_init__(self):
    if not self.thresholds or not all(0 <= t < 1 for t in self.thresholds):
      raise UserError(f"proposals: thresholds must be in [0, 1); got {self.thresholds}.")
    if self.scale < 1 or self.outer < 0:
      raise UserError(
        f"proposals: scale must be at least 1, outer not negative; got {self.scale}, {self.outer}."
      )
    if self.place not in ("middle", "start"):
      raise UserError(f"proposals: place is {self.place!r}: choose middle or start.")
    if self.smooth and (self.smooth % 2 == 0 or self.smooth <= self.order):
      raise UserError(
        f"proposals: smooth must be odd and above order {self.order}; got {self.smooth}."
      )


class Proposals(NamedTuple):
  """Scored segments of one video.

  Attributes:
    label: int64 `[P]`, class.
    segment: float64 `[P, 2]`, start and end in seconds.
    score: float64 `[P]`, in [−1, 1 + γ]; lowered by 1 if no class is active.
  """

  label: np.ndarray
  segment: np.ndarray
  score: np.ndarray

  def take(self, index: np.ndarray) -> Proposals:
    """The proposals with these indices."""
    return Proposals(*(x[index] for x in self))

  def predictions(self, label_names: Sequence[str]) -> list[Prediction]:
    """Converts to the type that `annotations.write_predictions` and `detection_map` take."""
    return [
      Prediction(float(s), float(e), label_names[c], float(p))
      for c, (s, e), p in zip(self.label, self.segment, self.score, strict=True)
    ]


def present(probability: np.ndarray, threshold: float) -> np.ndarray:
  """Classes with at least this probability, or else the most likely one; int64, ascending."""
  probability = np.asarray(probability)
  chosen = np.flatnonzero(probability >= threshold)
  return chosen if len(chosen) else np.array([probability.argmax()])


def normalize(cas: np.ndarray) -> np.ndarray:
  """Divides each class of `[T, C]` by its range over time, as BaS-Net's `minmax_norm`.

  The range begins at the minimum, or at 0 if that is higher, and ends at the maximum.

  Returns:
    float64 `[T, C]`, at most 1: at least 0 for a class that is never below 0, and below 0 where
    activation is. A class that is always below 0 keeps its values; a constant above 0 gives 0.
  """
  cas = np.asarray(cas, np.float64)
  low, high = np.maximum(cas.min(axis=0), 0), np.maximum(cas.max(axis=0), 0)
  return (cas - low) / np.where(high > low, high - low, 1)


def _relative(cas: np.ndarray) -> np.ndarray:
  """As `normalize`, but relative to the minimum; constants give 1, which is the whole video."""
  found = normalize(cas - cas.min(axis=0))
  return np.where(found.any(axis=0), found, 1.0)


def upsample(x: np.ndarray, scale: int, place: str = "middle") -> np.ndarray:
  """Interpolates linearly between the steps: `[T, C]` to `[T · scale, C]`.

  Args:
    x: values of the steps.
    scale: samples per step.
    place: "middle": values and samples are at the middles of what they stand for; before the first
      value and after the last, samples are constant. "start": they are at the starts; after the
      last value, the line through the last two goes on, as in BaS-Net's code.
  """
  steps = len(x)
  if steps == 1:
    return np.repeat(np.asarray(x, np.float64), scale, axis=0)
  at = np.arange(steps * scale) / scale
  if place == "middle":
    at = np.clip(at + 0.5 / scale - 0.5, 0, steps - 1)
  left = np.minimum(at.astype(np.int64), steps - 2)
  return x[left] + (at - left)[:, None] * (x[left + 1] - x[left])


def propose(
  cas: np.ndarray,
  probability: np.ndarray,
  *,
  step_seconds: float,
  settings: ProposalSettings | None = None,
  duration: float | None = None,
) -> Proposals:
  """Segments of one video, before non-maximum suppression.

  Args:
    cas: class activation over time `[T, C]`, without padding and background class.
    probability: probability of each class in the video `[C]`, in [0, 1].
    step_seconds: time from one step to the next; step t covers [t, t + 1) times this.
    settings: None for `ProposalSettings()`.
    duration: length of the video in seconds; segments are cut there.

  Returns:
    Proposals, ordered by class, threshold and time. Equal proposals of several thresholds are not
    removed; non-maximum suppression does that.

  Raises:
    UserError: shapes don't fit, a value is NaN or infinite, or the step is not positive.
  """
  settings = settings or ProposalSettings()
  cas, probability = np.asarray(cas, np.float64), np.asarray(probability, np.float64)
  if cas.ndim != 2 or not len(cas) or probability.shape != cas.shape[1:]:
    raise UserError(
      f"propose: needs cas [T, C] and probability [C]; got {cas.shape} and {probability.shape}."
    )
  if not (np.isfinite(cas).all() and np.isfinite(probability).all() and step_seconds > 0):
    raise UserError(
      f"propose: NaN or infinity, or a step of {step_seconds} s; has training diverged?"
    )
  if settings.smooth and len(cas) >= settings.smooth:
    cas = savgol_filter(cas, settings.smooth, settings.order, axis=0)
  classes = present(probability, settings.class_threshold)
  normalized = normalize(cas[:, classes])
  inactive = not (normalized > 0).any()
  if inactive:
    classes = present(probability, np.inf)
    normalized = _relative(cas[:, classes])
  cas = upsample(normalized, settings.scale, settings.place)
  labels, ranges, scores = [], [], []
  for column, c in zip(cas.T, classes, strict=True):
    for threshold in settings.thresholds:
      above = (column >= threshold) & (column > 0)
      found = runs(above)
      kept = np.where(above, column, 0) if settings.masked else np.maximum(column, 0)
      labels.append(np.full(len(found), c))
      ranges.append(found)
      inner_outer = contrast(kept, found, settings.outer) - inactive
      scores.append(inner_outer + settings.gamma * probability[c])
  segment = np.concatenate(ranges) * (step_seconds / settings.scale)
  if duration is not None:
    segment = np.minimum(segment, duration)
  result = Proposals(np.concatenate(labels), segment, np.concatenate(scores))
  return result.take(segment[:, 1] > segment[:, 0])


def contrast(activation: np.ndarray, ranges: np.ndarray, outer: float) -> np.ndarray:
  """Mean activation inside minus the mean on both sides (AutoLoc, Shou et al. 2018, equation 2).

  Args:
    activation: `[T]`.
    ranges: int `[R, 2]`, half-open, not empty.
    outer: length of each side as a share of the length of the range, rounded up on the left and
      down on the right, as in BaS-Net's code; cut at the ends of the video.

  Returns:
    float64 `[R]`. If both sides have length 0, the outer activation counts as 0.
  """
  total = np.concatenate([[0.0], np.cumsum(activation, dtype=np.float64)])
  start, end = np.asarray(ranges).T
  side = (end - start) * outer
  low = np.maximum(start - side, 0).astype(np.int64)
  high = np.minimum((end + side).astype(np.int64), len(activation))
  inner = total[end] - total[start]
  around = total[high] - total[low] - inner
  outside = (high - low) - (end - start)
  return inner / (end - start) - around / np.maximum(outside, 1)
