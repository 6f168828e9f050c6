"""Draws features in two dimensions, colored by class: t-SNE, and UMAP if it is installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import numpy as np

from vssl_jax import figure as figure_lib

_MOST = 2000  # at most this many videos in one picture
_LISTED = 20  # with at most this many classes, there is a legend
_NAMED = 60  # with more, but at most this many classes, their names are written among the points
_MARKS = "os^DvpPX<>"


def methods() -> tuple[str, ...]:
  """The available methods: always `t-SNE`, and `UMAP` if umap-learn is installed."""
  return ("t-SNE", "UMAP") if importlib.util.find_spec("umap") else ("t-SNE",)


def sample(label: np.ndarray, seed: int, most: int = _MOST) -> np.ndarray:
  """Positions of the labeled videos to draw: all, or a seeded sample; int `[n]`, ascending."""
  known = np.flatnonzero(np.asarray(label) >= 0)
  return np.sort(np.random.default_rng(seed).permutation(known)[:most])


def project(features: np.ndarray, method: str, seed: int) -> np.ndarray:
  """Projects the unit features `[V, F]` to `[V, 2]`; the same seed gives the same result.

  Args:
    features: float `[V, F]` with V of at least 4; scaled to unit length inside.
    method: one of `methods()`.
    seed: seed of the projection.
  """
  import threadpoolctl

  x = np.asarray(features, np.float32)
  x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
  if method == "UMAP":
    import umap

    near = min(15, len(x) - 1)
    return umap.UMAP(n_neighbors=near, metric="cosine", random_state=seed).fit_transform(x)
  from sklearn.manifold import TSNE

  perplexity = min(30.0, (len(x) - 1) / 3)
  with threadpoolctl.threadpool_limits(1):  # one thread always sums in the same order
    return TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(x)


def draw(
  path: str | os.PathLike[str],
  places: np.ndarray,
  label: np.ndarray,
  label_names: Sequence[str],
  title: str = "",
) -> None:
  """Draws the videos as points.

  Args:
    path: path of the PNG.
    places: float `[V, 2]`.
    label: int `[V]`, all known.
    label_names: names of the classes.
    title: title above the picture.
  """
  classes = np.unique(label)
  listed = len(classes) <= _LISTED
  figure = figure_lib.new(7.2 if listed else 6.0, 5.4)
  axis = figure.subplots()
  for i, (c, color) in enumerate(zip(classes, figure_lib.colors(len(classes)), strict=True)):
    own = places[label == c]
    axis.scatter(
      *own.T,
      s=22,
      color=color,
      marker=_MARKS[i % len(_MARKS)],
      linewidths=0.3,
      edgecolors="white",
      label=figure_lib.short(label_names[c]),
    )
    if not listed and len(classes) <= _NAMED:
      axis.text(
        *np.median(own, axis=0),
        figure_lib.short(label_names[c], 14),
        fontsize=6,
        ha="center",
        parse_math=False,
      )
  axis.set_xticks([])
  axis.set_yticks([])
  axis.set_title(title, fontsize=10, loc="left")
  if listed:
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
  figure_lib.save(figure, path)
