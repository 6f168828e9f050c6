"""Shows which pairs of videos ProViCo mines as positives, and which are the hardest negatives."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vssl_jax import former
from vssl_jax.errors import UserError
from vssl_jax.methods.base import PairMining
from vssl_jax.ops import bhattacharyya, gaussian, mining
from vssl_jax.probes.gaussian import Videos


class Pair(NamedTuple):
  """A neighbor of an anchor.

  Attributes:
    video: its position among the videos.
    distance: the distance that mining uses. If the loss takes distances of samples, this one does
      too, which adds λ D on average.
    positive: whether it was mined as a positive.
  """

  video: int
  distance: float
  positive: bool


def mine(videos: Videos, settings: PairMining, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Distances and positives of all pairs of the videos, mined as if they were one batch.

  Args:
    videos: N videos; all N² distances are in memory.
    settings: how the loss of the run mines pairs.
    seed: seed of the samples, if distances are between samples.

  Returns:
    Distances float32 `[N, N]`, and bool `[N, N]`, False on the diagonal.
  """
  mean, variance = jnp.asarray(videos.mean), jnp.asarray(videos.variance)
  samples = None
  if settings.distance_on == "samples":
    keys = jax.random.split(jax.random.key(seed), len(mean))
    noise = gaussian.noise(keys, settings.samples, mean.shape[1])
    samples = gaussian.sample(noise, mean, variance)

  @jax.jit
  def pairs(mean: jax.Array, variance: jax.Array, samples: jax.Array | None):
    g = bhattacharyya.gaussians(mean, variance, samples)
    threshold = mining.thresholds(g, settings.rule)
    apart = settings.rule.distance(g, g)
    return apart, settings.rule.positive(apart, threshold, threshold)

  apart, positive = map(np.array, pairs(mean, variance, samples))
  np.fill_diagonal(positive, False)
  return apart, positive


def neighbors(
  apart: np.ndarray, positive: np.ndarray, anchor: int, count: int
) -> tuple[list[Pair], list[Pair]]:
  """The nearest positives of a video and its hardest (nearest) negatives.

  Args:
    apart: distances `[N, N]`.
    positive: bool `[N, N]`.
    anchor: position of the video.
    count: at most this many positives, and as many negatives.

  Returns:
    Positives and negatives, each with the nearest first; fewer if there are not enough.

  Raises:
    UserError: there is no such video.
  """
  if not 0 <= anchor < len(apart):
    raise UserError(f"video {anchor}: there are {len(apart)}, counted from 0")
  order = [int(j) for j in np.argsort(apart[anchor], kind="stable") if j != anchor]
  pairs = [Pair(j, float(apart[anchor, j]), bool(positive[anchor, j])) for j in order]
  mined = [p for p in pairs if p.positive]
  return mined[:count], [p for p in pairs if not p.positive][:count]


def evenly_spaced(uncertainty: np.ndarray, count: int) -> list[int]:
  """Positions of `count` videos, evenly spaced by rank from lowest to highest uncertainty."""
  order = np.argsort(uncertainty, kind="stable")
  ranks = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
  return [int(order[r]) for r in ranks]


__getattr__ = former.names(__name__)
