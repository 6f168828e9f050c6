"""Non-maximum suppression of segments in time, class by class.

Libraries such as torchvision can only suppress boxes, not segments in time.
"""

from __future__ import annotations

import math

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.localization.proposals import Proposals
from vssl_jax.localization.segments import tiou


def nms(segment: np.ndarray, score: np.ndarray, threshold: float) -> np.ndarray:
  """Repeatedly keeps the best segment and drops those that overlap it by `threshold` or more.

  Args:
    segment: float `[P, 2]`, starts and ends in seconds.
    score: float `[P]`; among equal scores the first comes first.
    threshold: tIoU in (0, 1]; 1 drops only duplicates.

  Returns:
    int64 indices of those kept, best first.

  Raises:
    UserError: the threshold is out of range.
  """
  if not 0 < threshold <= 1:
    raise UserError(f"nms: the threshold must be in (0, 1]; got {threshold}.")
  segment = np.asarray(segment, np.float64).reshape(-1, 2)
  left, kept = np.argsort(-np.asarray(score), kind="stable"), []
  while len(left):
    best, left = left[0], left[1:]
    kept.append(best)
    left = left[tiou(segment[best], segment[left])[0] < threshold]
  return np.array(kept, np.int64)


def soft_nms(
  segment: np.ndarray, score: np.ndarray, *, sigma: float = 0.3, least: float = 1e-3
) -> tuple[np.ndarray, np.ndarray]:
  """Repeatedly keeps the best segment and multiplies the other scores by exp(−tIoU² / σ).

  Soft-NMS, Bodla et al. 2017.

  Args:
    segment: float `[P, 2]`, starts and ends in seconds.
    score: float `[P]`; scores that are not positive do not change.
    sigma: width of the decay, above 0.
    least: segments with a lower score are dropped.

  Returns:
    kept: int64 indices, best first.
    scores: float64, the scores after the decay, descending.

  Raises:
    UserError: sigma is not positive.
  """
  if not sigma > 0:
    raise UserError(f"soft_nms: sigma must be positive; got {sigma}.")
  segment = np.asarray(segment, np.float64).reshape(-1, 2)
  score = np.array(score, np.float64)
  left, order = np.arange(len(score)), []
  while len(left):
    at = left[score[left].argmax()]
    if score[at] < least:
      break
    order.append(at)
    left = left[left != at]
    decay = np.exp(-np.square(tiou(segment[at], segment[left])[0]) / sigma)
    score[left] *= np.where(score[left] > 0, decay, 1)
  kept = np.array(order, np.int64)
  return kept, score[kept]


def suppress(
  proposals: Proposals,
  *,
  threshold: float = 0.7,
  sigma: float | None = None,
  least: float = -math.inf,
) -> Proposals:
  """Suppresses overlapping proposals of one video, separately for each class.

  Args:
    proposals: the result of `proposals.propose`.
    threshold: threshold of `nms`; ignored if sigma is given.
    sigma: width of `soft_nms`, which then replaces `nms`; None for `nms`.
    least: proposals with a lower final score are dropped.

  Returns:
    The remaining proposals, best first.
  """
  parts = []
  for c in np.unique(proposals.label):
    part = proposals.take(proposals.label == c)
    if sigma is None:
      part = part.take(nms(part.segment, part.score, threshold))
    else:
      kept, score = soft_nms(part.segment, part.score, sigma=sigma, least=least)
      part = part.take(kept)._replace(score=score)
    parts.append(part)
  if not parts:
    return proposals
  whole = Proposals(*(np.concatenate(x) for x in zip(*parts, strict=True)))
  order = np.argsort(-whole.score, kind="stable")
  return whole.take(order[whole.score[order] >= least])
