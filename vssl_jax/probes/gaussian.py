"""Retrieval where videos are Gaussians: by their means, or by the distance of distributions."""

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
  """V videos, each the Gaussian with the moments of the mixture of its views.

  Attributes:
    mean: float32 `[V, D]`, μ(V).
    variance: float32 `[V, D]`, σ²(V) > 0.
    label: int32 `[V]`, −1 unknown.
    video: int `[V]`, each one's number in its split, ascending; None where that does not matter.
      Videos that could not be read are missing.
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
    """The part of it that lies between the views' means, 1 − ‖μ(V)‖², `[V]`."""
    return 1.0 - np.square(self.mean).sum(axis=1)

  @property
  def predicted(self) -> np.ndarray:
    """The part that the head says, the mean over views of Σ_d σ_nd², `[V]`."""
    return self.uncertainty - self.spread

  @property
  def numbers(self) -> np.ndarray:
    """`video`, or each one's place where that is None, `[V]`."""
    return np.arange(len(self.mean)) if self.video is None else self.video

  def labelled(self, split: str) -> Videos:
    """Those with a label; `UserError`, naming the split, where there is none."""
    known = np.asarray(self.label) >= 0
    if not known.any():
      raise UserError(f"no video of the {split} split has a label: retrieval needs labels")
    return self.take(np.flatnonzero(known))

  def take(self, places: np.ndarray) -> Videos:
    """Those at some places, in that order."""
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
  """The Gaussians of a split's videos, from the views that `config.data.eval` describes.

  Args:
    apply: `(variables, clips uint8 [B, T, H, W, C]) -> [B, 2D]`, μ and then log σ² of each clip.
    variables: what `apply` reads.
    source: the split.
    config: `data.eval` is read.
    mesh: where to run; by default every device.
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
  """R@k of the queries among the bank, by two rankings, and how uncertain hits and misses are.

  Args:
    bank: the training videos; those without a label are left out, here and below.
    queries: the evaluation videos.
    recalls: values of k.

  Returns:
    `mean`: R@k and mAP by the cosine of μ(V). `bhattacharyya`: R@k by the distance of N(μ(V),
    σ²(V)), λ = ¼ and in D dimensions whatever training mined by. `uncertainty`: the mean Σ_d σ_d²
    of all queries and of those that `mean` finds at 1 (`hit`) or does not (`miss`); None where
    there are none.

  Raises:
    UserError: the bank or the queries have no labelled video.
  """
  bank, queries = bank.labelled("training"), queries.labelled("evaluation")
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
  """Whether each query's nearest bank video by the cosine of μ(V) is of its class, bool `[Q]`.

  Args:
    bank: all with a label.
    queries: all with a label.
  """
  q, b = (l2_normalize(jnp.asarray(v.mean)) for v in (queries, bank))
  found = np.asarray(tiles.nearest(q, b, 1)[1])[:, 0]
  return bank.label[found] == queries.label


def nearest(
  queries: Videos, bank: Videos, k: int, rule: Rule, *, block_size: int = 128
) -> np.ndarray:
  """Indices of the k bank videos at the smallest distance of each query, nearest first.

  Args:
    queries: Q videos.
    bank: V videos.
    k: 1 ≤ k ≤ V.
    rule: whose distance it is.
    block_size: side of the tiles that exist at a time.

  Returns:
    int32 `[Q, k]`; among equal distances the lowest index comes first.
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
    # Older candidates first: top_k prefers the first of equals.
    top, at = jax.lax.top_k(-jnp.concatenate([old_apart, apart], axis=1), k)
    found = jnp.take_along_axis(jnp.concatenate([old_found, found], axis=1), at, axis=1)
    return rows.put(carry, (-top, found))

  start = (jnp.full(shape, jnp.inf), jnp.zeros(shape, jnp.int32))
  walk = jax.jit(
    lambda: tiles.fold_tiles(step, start, shape[0], len(bank.mean), block_size=block_size)
  )
  return np.asarray(walk()[1])
