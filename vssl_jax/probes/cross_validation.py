"""Cross-validation of features in the training split, to choose recipes without the test split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from vssl_jax.probes import logistic, retrieval

FOLDS = 5


def check(
  label: np.ndarray, *, groups: Sequence[str] | None = None, folds: int = FOLDS, seed: int = 0
) -> None:
  """Checks that the training part of every fold can itself be split into folds, to choose C.

  Args:
    label: see `evaluate`.
    groups: see `evaluate`.
    folds: see `evaluate`.
    seed: see `evaluate`.

  Raises:
    TooFewVideos: a class has too few videos.
  """
  known = np.flatnonzero(label >= 0)
  y, names = label[known], None if groups is None else np.asarray(groups)[known]
  for fit, _ in logistic.check(y, names, seed, folds):
    logistic.check(y[fit], None if names is None else names[fit], seed)


def evaluate(
  features: np.ndarray,
  label: np.ndarray,
  *,
  groups: Sequence[str] | None = None,
  folds: int = FOLDS,
  seed: int = 0,
  solver: str = "auto",
  mesh: Mesh | None = None,
) -> dict[str, Any]:
  """Scores logistic regression and nearest neighbors; each fold is held out once.

  Args:
    features: float `[V, F]`, one row per video.
    label: int `[V]`; videos with a negative label are left out.
    groups: one group name per video. All videos of a group stay in the same fold, also in the inner
      folds that choose C.
    folds: number of folds; fewer if every class has fewer videos or groups.
    seed: seed of the folds.
    solver: see `logistic.evaluate`.
    mesh: see `logistic.evaluate`.

  Returns:
    `top1` and `R@1` as fractions of all videos; `by_fold`, the same for each fold; `folds`;
    `grouped`.

  Raises:
    TooFewVideos: a class has too few videos.
  """
  known = np.flatnonzero(label >= 0)
  x, y = np.asarray(features)[known], np.asarray(label)[known]
  names = None if groups is None else np.asarray(groups)[known]
  rows = []
  for fit, held in logistic.split(y, names, folds, seed):
    own = None if names is None else list(names[fit])
    found = logistic.evaluate(
      x[fit], y[fit], x[held], y[held], groups=own, seed=seed, solver=solver, mesh=mesh
    )
    near = retrieval.evaluate(
      x[fit], y[fit], x[held], y[held], recalls=(1,), mean_average_precision=False
    )
    rows.append({"videos": len(held), "top1": found.accuracy.top1, "R@1": near["R@1"]})
  videos = [r["videos"] for r in rows]
  pooled = {k: float(np.average([r[k] for r in rows], weights=videos)) for k in ("top1", "R@1")}
  return pooled | {"by_fold": rows, "folds": len(rows), "grouped": names is not None}
