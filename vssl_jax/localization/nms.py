"""Non-maximum suppression of segments in time, class by class.

Libraries suppress boxes (torchvision, on PyTorch), none segments.
"""

from __future__ import annotations

import math

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.localization.proposals import Proposals
from vssl_jax.localization.segments import tiou


def nms(segment: np.ndarray, score: np.ndarray, threshold: float) -> np.ndarray:
  """Keeps the best segment, drops those that overlap with it by `threshold` or more, and so on.

  Args:
    segment: float `[P, 2]`, starts and ends, seconds.
    score: float `[P]`; of equals the first comes first.
    threshold: tIoU in (0, 1]; 1 drops duplicates alone.

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
  """Keeps the best segment, lowers the rest by exp(−tIoU² / σ), and so on (Bodla et al. 2017).

  Args:
    segment: float `[P, 2]`, starts and ends, seconds.
    score: float `[P]`; a score that is not positive is left as it is.
    sigma: width of the decay, above 0.
    least: segments of a lower score are dropped.

  Returns:
    kept: int64 indices, best first.
    scores: float64, theirs after decay, falling.

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
  """Suppresses each class of one video by itself.

  Args:
    proposals: as `proposals.propose` makes them.
    threshold: of `nms`; of no use where sigma is given.
    sigma: of `soft_nms`, which takes the place of `nms`; None for `nms`.
    least: final scores below are dropped.

  Returns:
    What is left, best first.
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
