"""Retrieval for videos represented as Gaussians: by their means, or by a distance of Gaussians."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax.errors import UserError
from vssl_jax.ops import bhattacharyya, gaussian, tiles
from vssl_jax.ops.mining import Rule
from vssl_jax.ops.sphere import l2_normalize
from vssl_jax.probes import features, retrieval, views


@dataclasses.dataclass(frozen=True)
class Videos:
  """V videos; each is a Gaussian with the mean and variance of the mixture of its views.

  Attributes:
    mean: float32 `[V, D]`, μ(V).
    variance: float32 `[V, D]`, σ²(V) > 0.
    label: int32 `[V]`, −1 if unknown.
    video: int `[V]`, index of each video in its split, ascending; None if not needed. Videos that
      could not be read are missing.
  """

  mean: np.ndarray
  variance: np.ndarray
  label: np.ndarray
  video: np.ndarray | None = None

  @property
  def uncertainty(self) -> np.ndarray:
    """Σ_d σ_d² of each video, `[V]`: `predicted` and `spread` together."""
    return self.variance.sum(axis=1)

  @property
  def spread(self) -> np.ndarray:
    """The part of `uncertainty` between the means of the views, 1 − ‖μ(V)‖², `[V]`."""
    return 1.0 - np.square(self.mean).sum(axis=1)

  @property
  def predicted(self) -> np.ndarray:
    """The part of `uncertainty` that the head predicts, the mean over views of Σ_d σ_nd², `[V]`."""
    return self.uncertainty - self.spread

  @property
  def numbers(self) -> np.ndarray:
    """`video`, or 0 … V − 1 if it is None, `[V]`."""
    return np.arange(len(self.mean)) if self.video is None else self.video

  def labeled(self, split: str) -> Videos:
    """The videos with a label; raises `UserError`, naming the split, if there is none."""
    known = np.asarray(self.label) >= 0
    if not known.any():
      raise UserError(f"no video of the {split} split has a label: retrieval needs labels")
    return self.take(np.flatnonzero(known))

  def take(self, places: np.ndarray) -> Videos:
    """The videos at the given positions, in that order."""
    label = np.asarray(self.label)[places]
    video = None if self.video is None else self.video[places]
    return Videos(self.mean[places], self.variance[places], label, video)


def extract(
  apply: features.Apply,
  variables: features.Variables,
  source: Source,
  config: ConfigDict,
  *,
  mesh: Mesh | None = None,
  progress: str = "",
) -> Videos:
  """The Gaussians of all videos of a split, from the views that `config.data.eval` describes.

  Args:
    apply: `(variables, clips uint8 [B, T, H, W, C]) -> [B, 2D]`, μ and then log σ² of each clip.
    variables: the variables that `apply` reads.
    source: the split.
    config: the field `data.eval` is read.
    mesh: the devices to run on; by default all.
    progress: text of the progress bar; "" for none.
  """
  found = features.extract(
    apply,
    variables,
    views.eval_batches(source, config),
    mesh=mesh,
    progress=progress,
    total=source.num_videos,
  )
  means, log_variances = np.split(found.features, 2, axis=-1)
  mean, variance = gaussian.mixture(jnp.asarray(means), jnp.asarray(log_variances))
  return Videos(np.asarray(mean), np.asarray(variance), found.label, found.video)


def evaluate(
  bank: Videos,
  queries: Videos,
  *,
  recalls: Sequence[int] = retrieval.RECALLS,
) -> dict[str, Any]:
  """R@k of the queries in the bank by two rankings, and the uncertainty of hits and misses.

  Args:
    bank: the training videos; those without a label are left out.
    queries: the evaluation videos; those without a label are left out.
    recalls: values of k.

  Returns:
    `mean`: R@k and mAP by the cosine of μ(V). `bhattacharyya`: R@k by the Bhattacharyya distance of
    N(μ(V), σ²(V)), always with λ = ¼ and in D dimensions, even if training mined pairs by another
    rule. `uncertainty`: the mean Σ_d σ_d² over all queries (`all`), over those whose first
    neighbor in `mean` has their class (`hit`), and over the others (`miss`); None without queries.

  Raises:
    UserError: the bank or the queries have no labeled video.
  """
  bank, queries = bank.labeled("training"), queries.labeled("evaluation")
  labels = (bank.label, queries.label)
  by_mean = retrieval.evaluate(bank.mean, labels[0], queries.mean, labels[1], recalls=recalls)
  order = nearest(queries, bank, min(max(recalls), len(labels[0])), Rule())
  right = labels[0][order] == labels[1][:, None]
  first = hits(bank, queries)
  mean = lambda x: float(np.mean(x)) if len(x) else None  # noqa: E731
  return {
    "mean": by_mean,
    "bhattacharyya": {f"R@{r}": float(right[:, :r].any(axis=1).mean()) for r in recalls},
    "uncertainty": {
      "all": mean(queries.uncertainty),
      "hit": mean(queries.uncertainty[first]),
      "miss": mean(queries.uncertainty[~first]),
    },
  }


def hits(bank: Videos, queries: Videos) -> np.ndarray:
  """Whether each query's nearest bank video, by the cosine of μ(V), has its class, bool `[Q]`.

  Args:
    bank: videos, all with a label.
    queries: videos, all with a label.
  """
  q, b = (l2_normalize(jnp.asarray(v.mean)) for v in (queries, bank))
  found = np.asarray(tiles.nearest(q, b, 1)[1])[:, 0]
  return bank.label[found] == queries.label


def nearest(
  queries: Videos, bank: Videos, k: int, rule: Rule, *, block_size: int = 128
) -> np.ndarray:
  """Indices of the k bank videos with the smallest distance to each query, nearest first.

  Args:
    queries: Q videos.
    bank: V videos.
    k: 1 ≤ k ≤ V.
    rule: the rule that defines the distance.
    block_size: side of the tiles of the distance matrix; one tile is in memory at a time.

  Returns:
    int32 `[Q, k]`; for equal distances the lowest index comes first.
  """
  scale = np.mean(np.log(bank.variance))
  q, b = (
    bhattacharyya.gaussians(jnp.asarray(v.mean), jnp.asarray(v.variance), log_unit=scale)
    for v in (queries, bank)
  )
  shape = (len(queries.mean), k)

  def step(carry, rows, cols, mask):
    apart = jnp.where(mask, rule.distance(rows.take(q), cols.take(b)), jnp.inf)
    found = jnp.broadcast_to(cols.index, apart.shape)
    old_apart, old_found = rows.take(carry)
    # Put older candidates first, because top_k prefers the first of equal values.
    top, at = jax.lax.top_k(-jnp.concatenate([old_apart, apart], axis=1), k)
    found = jnp.take_along_axis(jnp.concatenate([old_found, found], axis=1), at, axis=1)
    return rows.put(carry, (-top, found))

  start = (jnp.full(shape, jnp.inf), jnp.zeros(shape, jnp.int32))
  walk = jax.jit(
    lambda: tiles.fold_tiles(step, start, shape[0], len(bank.mean), block_size=block_size)
  )
  return np.asarray(walk()[1])
