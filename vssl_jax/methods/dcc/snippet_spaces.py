"""Measures how well a feature space separates actions from each other and from background.

The sample is drawn from the snippets of a split: half are background, the other half is spread over
the classes. It is measured in each of several feature spaces. Neighbors are found by cosine and
come from other videos only: within a video the next moment would always be the nearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from vssl_jax.localization.observe import Observed


class Sample(NamedTuple):
  """N snippets.

  Attributes:
    label: int `[N]`, the class, −1 for background.
    video: int `[N]`, the number of the video.
    spaces: features float32 `[N, F]`, by name of the space.
  """

  label: np.ndarray
  video: np.ndarray
  spaces: Mapping[str, np.ndarray]


def draw(seen: Iterable[Observed], count: int, *, seed: int = 0) -> Sample:
  """Draws about `count` snippets from all videos.

  A snippet with several actions counts as its first class. A reservoir per class and for background
  makes one pass over the videos enough.

  Args:
    seen: the videos.
    count: number of snippets, half of them background; a class with too few gives all it has.
    seed: random seed of the draw.
  """
  rng = np.random.default_rng(seed)
  kept: dict[int, list[tuple[float, int, dict[str, np.ndarray]]]] = {}
  classes = 1
  for one in seen:
    classes = one.truth.shape[1]
    label = np.where(one.truth.any(axis=1), one.truth.argmax(axis=1), -1)
    order = rng.random(len(label))
    for value in np.unique(label):
      most = max(1, count // 2 if value < 0 else count // (2 * classes))
      at = np.flatnonzero(label == value)
      at = at[np.argsort(order[at])][:most]
      # Copies: a view would keep the whole video's features alive.
      rows = [(order[i], one.video, {k: x[i].copy() for k, x in one.spaces.items()}) for i in at]
      kept[value] = sorted(kept.get(value, []) + rows, key=lambda row: row[0])[:most]
  rows = [(label, *row[1:]) for label in sorted(kept) for row in kept[label]]
  names = rows[0][2] if rows else {}
  return Sample(
    np.array([r[0] for r in rows], np.int64),
    np.array([r[1] for r in rows], np.int64),
    {k: np.stack([r[2][k] for r in rows]).astype(np.float32) for k in names},
  )


def purity(x: np.ndarray, label: np.ndarray, video: np.ndarray, k: int = 10) -> float:
  """Mean share of equal labels among the k nearest snippets from other videos.

  Args:
    x: `[N, F]`.
    label: `[N]`.
    video: `[N]`.
    k: number of neighbors; fewer if there are not so many.

  Returns:
    In [0, 1]; NaN if no snippet has a neighbor.
  """
  unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  likeness = np.where(video[:, None] == video, -np.inf, unit @ unit.T)
  nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
  exists = np.isfinite(np.take_along_axis(likeness, nearest, axis=1))
  same = (label[nearest] == label[:, None]) & exists
  has = exists.any(axis=1)
  if not has.any():
    return float("nan")
  return float((same.sum(axis=1)[has] / exists.sum(axis=1)[has]).mean())


def silhouette(x: np.ndarray, label: np.ndarray) -> float:
  """Mean silhouette by cosine (Rousseeuw 1987), in [−1, 1]; NaN for fewer than two labels."""
  from sklearn.metrics import silhouette_score

  found = len(np.unique(label))
  if not 2 <= found < len(label):
    return float("nan")
  return float(silhouette_score(x, label, metric="cosine"))


def quality(sample: Sample, k: int = 10) -> dict[str, dict[str, float]]:
  """Silhouette and purity of each space.

  `silhouette` and `knn_purity` use the classes and background as labels. `action_purity` has only
  two labels, action and background. `chance` is the `knn_purity` of randomly drawn neighbors.
  """
  _, counts = np.unique(sample.label, return_counts=True)
  chance = float(np.square(counts / max(len(sample.label), 1)).sum())
  return {
    name: {
      "silhouette": silhouette(x, sample.label),
      "knn_purity": purity(x, sample.label, sample.video, k),
      "action_purity": purity(x, sample.label >= 0, sample.video, k),
      "chance": chance,
    }
    for name, x in sample.spaces.items()
  }


def embed(x: np.ndarray, *, seed: int = 0) -> np.ndarray:
  """Projects to two dimensions by t-SNE (van der Maaten & Hinton 2008), with cosine: `[N, 2]`."""
  from sklearn.manifold import TSNE

  unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  perplexity = min(30.0, max(1.0, (len(x) - 1) / 3))
  return TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(unit)
