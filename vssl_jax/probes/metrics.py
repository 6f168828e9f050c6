"""Accuracy of predictions, as fractions in [0, 1].

Among equal scores the lower class index wins, as in `argmax` and in the confusion matrix;
scikit-learn's `top_k_accuracy_score` takes the higher one.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """The accuracy of class scores.

  Attributes:
    top1: fraction of videos whose class has the highest score.
    top5: fraction of videos whose class is among the five highest (1 with at most five classes).
    per_class: float64 [K], top-1 within each class; NaN for a class without videos.
    confusion: int64 [K, K], number of videos by true class (row) and predicted class (column).
  """

  top1: float
  top5: float
  per_class: np.ndarray
  confusion: np.ndarray

  @property
  def mean_class(self) -> float:
    """Mean of `per_class` over the classes that have videos."""
    return float(np.nanmean(self.per_class))


def accuracy(scores: np.ndarray, label: np.ndarray) -> Accuracy:
  """The accuracy of a set of predictions.

  Args:
    scores: float [V, K], higher is more likely; for equal scores the lower class index wins.
    label: int [V]; videos with a negative label are left out.

  Raises:
    UserError: no video has a label, a label is not below K, or a score is not a number.
  """
  known = label >= 0
  if not known.any():
    raise UserError("no video of the evaluation split has a label: this protocol needs labels")
  scores, label = scores[known], label[known]
  classes = scores.shape[1]
  if label.max() >= classes:
    raise UserError(
      f"a video has label {label.max()} but there are scores for {classes} classes only: "
      "the training and the evaluation split must have the same label map"
    )
  if np.isnan(scores).any():
    raise UserError("the network's outputs are NaN: use an earlier checkpoint")
  own = scores[np.arange(len(label)), label][:, None]
  earlier = np.arange(classes) < label[:, None]
  rank = np.sum((scores > own) | ((scores == own) & earlier), axis=1)
  confusion = np.zeros((classes, classes), np.int64)
  np.add.at(confusion, (label, np.argmax(scores, axis=1)), 1)
  with np.errstate(invalid="ignore"):
    per_class = np.diag(confusion) / confusion.sum(axis=1)
  return Accuracy(float(np.mean(rank < 1)), float(np.mean(rank < 5)), per_class, confusion)
