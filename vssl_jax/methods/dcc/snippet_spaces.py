"""How well a space of snippet features tells actions from each other and from background.

A sample of a split's snippets, half of them background and the other half spread over the classes,
in each of several spaces; neighbours are by cosine and never of the snippet's own video, where the
next moment would always be the nearest.
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
    video: int `[N]`.
    spaces: float32 `[N, F]` by name.
  """

  label: np.ndarray
  video: np.ndarray
  spaces: Mapping[str, np.ndarray]


def draw(seen: Iterable[Observed], count: int, *, seed: int = 0) -> Sample:
  """Draws about `count` snippets of all videos; with several actions at once, the first.

  Of each class and of the background a reservoir is kept, so that one pass suffices.

  Args:
    seen: the videos.
    count: half of them background; a class of fewer snippets gives what it has.
    seed: of the draw.
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
  """Share of equal labels among each snippet's k nearest of other videos, averaged.

  Args:
    x: `[N, F]`.
    label: `[N]`.
    video: `[N]`.
    k: neighbours, at most those there are.

  Returns:
    In [0, 1]; NaN where no snippet has a neighbour.
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
  """Mean silhouette by cosine (Rousseeuw 1987), in [−1, 1]; NaN of fewer than two labels."""
  from sklearn.metrics import silhouette_score

  found = len(np.unique(label))
  if not 2 <= found < len(label):
    return float("nan")
  return float(silhouette_score(x, label, metric="cosine"))


def quality(sample: Sample, k: int = 10) -> dict[str, dict[str, float]]:
  """For each space: silhouette and purity of classes and background, and purity of whether.

  `action_purity` asks of neighbours only whether they are an action too; `chance` is what purity
  is where neighbours are drawn at random.
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
  """Two dimensions by t-SNE (van der Maaten & Hinton 2008), by cosine, `[N, 2]`."""
  from sklearn.manifold import TSNE

  unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  perplexity = min(30.0, max(1.0, (len(x) - 1) / 3))
  return TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(unit)
