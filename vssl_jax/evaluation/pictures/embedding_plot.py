"""Features on a plane: t-SNE, and UMAP where it is installed, colored by class."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import numpy as np

from vssl_jax import figure as figure_lib

_MOST = 2000  # videos in one picture
_LISTED = 20  # up to so many classes have a legend
_NAMED = 60  # up to so many are named in the picture
_MARKS = "os^DvpPX<>"


def methods() -> tuple[str, ...]:
  """What can be drawn here: always `t-SNE`; `UMAP` where umap-learn is installed."""
  return ("t-SNE", "UMAP") if importlib.util.find_spec("umap") else ("t-SNE",)


def sample(label: np.ndarray, seed: int, most: int = _MOST) -> np.ndarray:
  """Labelled videos to draw: all, or a seeded choice of them; int `[n]`, ascending."""
  known = np.flatnonzero(np.asarray(label) >= 0)
  return np.sort(np.random.default_rng(seed).permutation(known)[:most])


def project(features: np.ndarray, method: str, seed: int) -> np.ndarray:
  """Unit features `[V, F]` to places on a plane `[V, 2]`, the same for the same seed.

  Args:
    features: V of at least 4.
    method: one of `methods()`.
    seed: of the projection.
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
  with threadpoolctl.threadpool_limits(1):  # sums in one order
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
    path: the PNG.
    places: float `[V, 2]`.
    label: int `[V]`, all known.
    label_names: of the classes.
    title: above the picture.
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
