"""From a temporal class activation sequence (T-CAS) to scored segments, in seconds.

Each class that the video is said to contain has its sequence brought to [0, 1] and up-sampled; at
each of several thresholds the runs above it are proposals. A run scores the mean inside, minus the
mean just outside of it (outer-inner contrast, Shou et al. 2018), plus γ times the probability of
the class in the video: the probability, where BaS-Net's code adds the constant γ, having made p
binary before.

Of a video in which no class that it is said to contain is anywhere active, the likeliest class is
looked for nevertheless, by its activation relative to the least; the whole video, where that is
flat. Such segments score 1 less: they rank after what is active.

A feature is taken to stand at the middle of its step, so that activation before it and after it
are treated alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.signal import savgol_filter

from vssl_jax.errors import UserError
from vssl_jax.localization.annotations import Prediction
from vssl_jax.localization.segments import runs


@dataclasses.dataclass(frozen=True)
class ProposalSettings:
  """How proposals are made; the defaults are BaS-Net's on THUMOS14 (Lee et al. 2020).

  Attributes:
    class_threshold: least probability of a class to be looked for; if none has it, the likeliest
      class is.
    thresholds: in [0, 1), of the class's normalized activation; a run lies strictly above.
    scale: up-sampling factor, linear.
    outer: λ, the length looked at on each side of a run, as a share of its length.
    gamma: γ, the weight of the class's probability in the score.
    masked: whether activation below the threshold counts 0 in the score, as in BaS-Net's code, or
      as it is.
    smooth: window of a Savitzky-Golay filter over the steps, odd; 0 for none. Long, coarsely
      sampled videos (ActivityNet) need it.
    order: of the filter's polynomials.
  """

  class_threshold: float = 0.25
  thresholds: tuple[float, ...] = tuple(np.arange(0, 0.25, 0.025).tolist())
  scale: int = 24
  outer: float = 0.25
  gamma: float = 0.2
  masked: bool = True
  smooth: int = 0
  order: int = 2

  def __post_init__(self):
    if not self.thresholds or not all(0 <= t < 1 for t in self.thresholds):
      raise UserError(f"proposals: thresholds must be in [0, 1); got {self.thresholds}.")
    if self.scale < 1 or self.outer < 0:
      raise UserError(
        f"proposals: scale must be at least 1, outer not negative; got {self.scale}, {self.outer}."
      )
    if self.smooth and (self.smooth % 2 == 0 or self.smooth <= self.order):
      raise UserError(
        f"proposals: smooth must be odd and above order {self.order}; got {self.smooth}."
      )


class Proposals(NamedTuple):
  """Scored segments of one video.

  Attributes:
    label: int64 `[P]`, class.
    segment: float64 `[P, 2]`, start and end, seconds.
    score: float64 `[P]`, in [−1, 1 + γ]; 1 less where no class is active.
  """

  label: np.ndarray
  segment: np.ndarray
  score: np.ndarray

  def take(self, index: np.ndarray) -> Proposals:
    """Some of them."""
    return Proposals(*(x[index] for x in self))

  def predictions(self, label_names: Sequence[str]) -> list[Prediction]:
    """For `annotations.write_predictions` and `detection_map`."""
    return [
      Prediction(float(s), float(e), label_names[c], float(p))
      for c, (s, e), p in zip(self.label, self.segment, self.score, strict=True)
    ]


def present(probability: np.ndarray, threshold: float) -> np.ndarray:
  """Classes of at least that probability, or the likeliest alone; int64, ascending, never empty."""
  probability = np.asarray(probability)
  chosen = np.flatnonzero(probability >= threshold)
  return chosen if len(chosen) else np.array([probability.argmax()])


def normalize(cas: np.ndarray) -> np.ndarray:
  """Brings each class of `[T, C]` to [0, 1] over time: negative counts 0, and flat stays 0."""
  cas = np.maximum(np.asarray(cas, np.float64), 0)
  low, high = cas.min(axis=0), cas.max(axis=0)
  return np.divide(cas - low, high - low, out=np.zeros_like(cas), where=high > low)


def _relative(cas: np.ndarray) -> np.ndarray:
  """As `normalize`, but about its own least value, and where it is flat 1: the whole video."""
  found = normalize(cas - cas.min(axis=0))
  return np.where(found.any(axis=0), found, 1.0)


def upsample(x: np.ndarray, scale: int) -> np.ndarray:
  """Linear between the middles of the steps, constant beyond: `[T, C]` to `[T · scale, C]`."""
  middles = np.arange(len(x)) + 0.5
  at = (np.arange(len(x) * scale) + 0.5) / scale
  return np.stack([np.interp(at, middles, column) for column in x.T], axis=1)


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
    probability: of each class in the video `[C]`, in [0, 1].
    step_seconds: time from one step to the next; step t covers [t, t + 1) times this.
    settings: None for `ProposalSettings()`.
    duration: seconds; segments are cut at it.

  Returns:
    Proposals, class by class, threshold by threshold, the earlier first; equal ones of several
    thresholds are left to suppression.

  Raises:
    UserError: shapes that don't fit, NaN, or a step that is not positive.
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
  inactive = not normalized.any()
  if inactive:
    classes = present(probability, np.inf)
    normalized = _relative(cas[:, classes])
  cas = upsample(normalized, settings.scale)
  labels, ranges, scores = [], [], []
  for column, c in zip(cas.T, classes, strict=True):
    for threshold in settings.thresholds:
      above = column > threshold
      found = runs(above)
      kept = np.where(above, column, 0) if settings.masked else column
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
    outer: length of each side as a share of the range's, rounded down; cut at the ends of time.

  Returns:
    float64 `[R]`. Nothing outside (both sides of length 0) counts as activation 0.
  """
  total = np.concatenate([[0.0], np.cumsum(activation, dtype=np.float64)])
  start, end = np.asarray(ranges).T
  side = ((end - start) * outer).astype(np.int64)
  low, high = np.maximum(start - side, 0), np.minimum(end + side, len(activation))
  inner = total[end] - total[start]
  around = total[high] - total[low] - inner
  outside = (high - low) - (end - start)
  return inner / (end - start) - around / np.maximum(outside, 1)
