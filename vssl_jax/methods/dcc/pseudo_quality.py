"""Precision and recall of pseudo-labels against the annotation, before and after denoising."""

from __future__ import annotations

import numpy as np

from vssl_jax.localization.observe import Observed

_SIDES = ("action", "background")
_WAYS = ("before", "after", "agreeing")


class PseudoQuality:
  """Precision and recall over all steps of all videos, one count per step and class of the video.

  * before: every pseudo-label counts 1.
  * after: every pseudo-label counts its confidence S, as in DCC's regions.
  * agreeing: pseudo-labels with S ≥ ½ count 1, the others 0. With S ≥ ½, at least half of the
    cluster agrees.

  Without denoising there is only `before`. The pseudo-label "action" is correct where the action is
  annotated, the pseudo-label "background" where it is not.
  """

  def __init__(self):
    self._sums = {side: {way: np.zeros(2) for way in _WAYS} for side in _SIDES}  # right, all
    self._true = {side: 0.0 for side in _SIDES}
    self._ways: tuple[str, ...] = _WAYS

  def add(self, seen: Observed) -> None:
    """Counts one video."""
    actual = seen.truth[:, seen.classes]
    for side, chosen, right in (
      ("action", seen.pseudo, actual),
      ("background", ~seen.pseudo, ~actual),
    ):
      self._true[side] += right.sum()
      weights: list[np.ndarray] = [np.ones(chosen.shape)]
      if seen.trust is None:
        self._ways = _WAYS[:1]
      else:
        weights += [seen.trust, seen.trust >= 0.5]
      for way, weight in zip(self._ways, weights, strict=True):
        self._sums[side][way] += (weight * chosen * right).sum(), (weight * chosen).sum()

  def result(self) -> dict[str, dict[str, float | dict[str, float]]]:
    """Scores for "action" and "background".

    Each has `share`, the true share of the steps (the precision of random guesses), and `precision`
    and `recall` for each way of counting, in [0, 1]; NaN if nothing was counted.
    """
    total = max(sum(self._true.values()), 1.0)
    return {
      side: {
        "share": self._true[side] / total,
        **{
          way: {"precision": _ratio(right, every), "recall": _ratio(right, self._true[side])}
          for way, (right, every) in ways.items()
          if way in self._ways
        },
      }
      for side, ways in self._sums.items()
    }


def _ratio(a: float, b: float) -> float:
  return float(a / b) if b > 0 else float("nan")
