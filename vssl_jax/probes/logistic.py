"""Logistic regression on extracted features: a fast version of the linear probe.

Small problems are solved by scikit-learn in float64. Large ones are solved on the devices, in
float32, by `vssl_jax.ops.softmax_regression`, which minimizes the same function.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import parallel
from vssl_jax.cli import progress
from vssl_jax.errors import UserError
from vssl_jax.ops import softmax_regression
from vssl_jax.probes import metrics
from vssl_jax.probes.too_few_videos import TooFewVideos

NORMALIZATIONS = ("standard", "l2", "none")
STRENGTHS = tuple(10.0**e for e in range(-4, 3))  # values of C to try, strongest penalty first
SOLVERS = ("auto", "sklearn", "device")
# Videos x features x classes, the multiplications of a gradient, from which accelerators solve, by
# arithmetic, and libraries use several threads.
LARGE = 10**8
# On CPUs both take about as long, as measured by us (benchmarks/README.md), but scikit-learn copies
# the features of each fold as float64: from here on the devices solve there, too.
LARGE_ON_CPUS = 10**10
_MAX_ITERATIONS = 2000
_LEAST = 1e-12  # probability, in the loss of held-out videos
_BLOCK = 1 << 14  # videos that are converted at a time


@dataclasses.dataclass(frozen=True)
class Result:
  """The scores of a fitted classifier on the evaluation split.

  Attributes:
    accuracy: see `metrics.Accuracy`.
    probabilities: float64 [V, K].
    strength: the value of C that was used.
    normalization: normalization of the features, one of `NORMALIZATIONS`.
    folds: number of folds of the cross-validation that chose C; 0 if C was given.
    grouped: whether each group of videos stayed within one fold.
    converged: whether the last fit reached the solver's tolerance.
    optimizer: what fitted it, in words.
  """

  accuracy: metrics.Accuracy
  probabilities: np.ndarray
  strength: float
  normalization: str
  folds: int
  grouped: bool
  converged: bool
  optimizer: str

  def summary(self) -> dict:
    """A JSON-able dict: the numbers, and how they were obtained."""
    chosen = "given"
    if self.folds:
      kind = "grouped" if self.grouped else "stratified"
      chosen = f"{self.folds} {kind} folds of the training split, log-loss"
    return {
      "top1": self.accuracy.top1,
      "top5": self.accuracy.top5,
      "C": self.strength,
      "C_chosen_by": chosen,
      "normalization": self.normalization,
      "optimizer": f"{self.optimizer}, L2 penalty on weights",
      "converged": self.converged,
    }


def evaluate(
  train: np.ndarray,
  train_label: np.ndarray,
  test: np.ndarray,
  test_label: np.ndarray,
  *,
  num_classes: int = 0,
  normalization: str = "standard",
  strength: float | None = None,
  folds: int = 5,
  groups: Sequence[str] | None = None,
  seed: int = 0,
  solver: str = "auto",
  mesh: Mesh | None = None,
) -> Result:
  """Fits multinomial logistic regression on one split and scores another.

  Minimizes Σ_i log-loss_i + ‖W‖²/(2C) (scikit-learn's C; the bias has no penalty). C is given, or
  chosen on the training split alone: values of `STRENGTHS` are tried in order until the loss rises
  twice, and the one with the lowest log-loss on the held-out folds is taken. The evaluation split
  plays no part in this choice. If there are more features than videos, the features are first
  projected onto the span of the training videos, which changes no prediction and saves time.

  Args:
    train: float [V, F], one row per video (the mean over its views).
    train_label: int [V]; videos with a negative label are left out.
    test: float [U, F].
    test_label: int [U]; videos with a negative label are left out.
    num_classes: K; 0 takes the highest label of both splits plus one.
    normalization: "standard" (zero mean and unit variance on the training split), "l2" (each row
      to unit length) or "none".
    strength: a fixed C, or None to choose it.
    folds: folds of the cross-validation; fewer if every class has fewer videos or groups.
    groups: one group name per training video. Videos of one group (cut from one recording) stay in
      the same fold; otherwise C would be chosen on near-duplicates.
    seed: seed of the folds.
    solver: "sklearn"; "device" (see `vssl_jax.ops.softmax_regression`); or "auto", which takes the
      devices if V x F x K is at least `LARGE`, or `LARGE_ON_CPUS` on CPUs.
    mesh: the devices; None takes all of this process. With several processes, all of them call with
      the same arrays.

  Raises:
    UserError: the normalization or the solver is unknown.
    TooFewVideos: there are fewer than two classes, or no folds can be made to choose C.
  """
  import threadpoolctl

  if solver not in SOLVERS:
    raise UserError(f"solver {solver!r} is unknown: use {', '.join(SOLVERS)}")
  known = train_label >= 0
  _require_classes(train_label[known])
  group_of = np.asarray(groups)[known] if groups is not None else None
  train, train_label = np.asarray(train)[known], train_label[known]
  classes = num_classes or int(max(train_label.max(), test_label.max())) + 1
  size = train.size * classes
  large = size >= LARGE
  least = LARGE_ON_CPUS if parallel.platform(mesh) == "cpu" else LARGE
  on_devices = solver == "device" or (solver == "auto" and size >= least)
  with threadpoolctl.threadpool_limits(None if large else 1):
    dtype = np.float32 if on_devices else np.float64
    train, test = _normalize(train, np.asarray(test), normalization, dtype)
    train, test = _span(train, test)
    problem: _Sklearn | _Device
    if on_devices:
      problem = _Device(train, train_label, classes, mesh)
    else:
      problem = _Sklearn(train, train_label, classes)
    parts = []
    if strength is None:
      parts = split(train_label, group_of, folds, seed)
      strength = _choose(problem, parts)
    model = problem.fit(None, strength)
    probabilities = problem.predict(model, test)
  return Result(
    accuracy=metrics.accuracy(probabilities, np.asarray(test_label)),
    probabilities=probabilities,
    strength=float(strength),
    normalization=normalization,
    folds=len(parts),
    grouped=bool(parts) and groups is not None,
    converged=problem.converged(model),
    optimizer=problem.optimizer,
  )


def check(
  label: np.ndarray, groups: Sequence[str] | np.ndarray | None, seed: int, folds: int = 5
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Checks that there are enough training videos to fit a classifier and to choose C.

  Args:
    label: int `[V]`; videos with a negative label are left out.
    groups: one group name per video, or None.
    seed: seed of the folds.
    folds: see `evaluate`.

  Returns:
    The folds, see `split`.

  Raises:
    TooFewVideos: there are not enough.
  """
  known = np.asarray(label) >= 0
  _require_classes(label[known])
  return split(label[known], None if groups is None else np.asarray(groups)[known], folds, seed)


def _require_classes(label: np.ndarray) -> None:
  if len(np.unique(label)) < 2:
    raise TooFewVideos("logistic regression needs training videos of at least two labeled classes")


def recordings(names: Sequence[str]) -> list[str] | None:
  """The recording that each video was cut from, derived from its name.

  If all names look like UCF101's `v_Class_g01_c02`, the recording is their group (`g01`). Otherwise
  videos with the same name are parts of one recording, because `data_pipelines.prepare` cuts long
  videos into several.

  Returns:
    One group name per video, or None if there are no names or all names differ.
  """
  found = [re.search(r"(v_[^/]+_g\d+)_c\d+", name) for name in names]
  groups = [m[1] for m in found if m]
  if groups and len(groups) == len(found):
    return groups
  named = [name for name in names if name]
  if len(set(named)) == len(named):
    return None
  return [name or f"unnamed {i}" for i, name in enumerate(names)]


class _Sklearn:
  """Fits on parts of the training videos with scikit-learn."""

  optimizer = "L-BFGS (scikit-learn, float64)"

  def __init__(self, x: np.ndarray, label: np.ndarray, classes: int):
    self._x, self._label, self._classes = x, label, classes

  def fit(self, rows: np.ndarray | None, strength: float, start: Any = None) -> Any:
    """Fits on the videos with the numbers `rows` (None: all), from another fit."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS, warm_start=start is not None)
    if start is not None:
      model.coef_, model.intercept_, model.classes_ = start.coef_, start.intercept_, start.classes_
    x, label = (self._x, self._label) if rows is None else (self._x[rows], self._label[rows])
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # `Result.converged` says if it did not converge
      return model.fit(x, label)

  def loss(self, model: Any, rows: np.ndarray) -> float:
    """The sum of the log-losses of the videos `rows`."""
    own = self.predict(model, self._x[rows])[np.arange(len(rows)), self._label[rows]]
    return -float(np.log(np.maximum(own, _LEAST)).sum())

  def predict(self, model: Any, x: np.ndarray) -> np.ndarray:
    """The probabilities of the classes, float64 `[U, K]`."""
    probabilities = np.zeros((len(x), self._classes))
    probabilities[:, model.classes_] = model.predict_proba(x)
    return probabilities

  def converged(self, model: Any) -> bool:
    """Whether a fit reached the tolerance."""
    return bool(np.max(model.n_iter_) < _MAX_ITERATIONS)


class _Device:
  """The same on the devices, which hold the features once: a fold is a weight of each video."""

  optimizer = "preconditioned L-BFGS (on the devices, float32)"

  def __init__(self, x: np.ndarray, label: np.ndarray, classes: int, mesh: Mesh | None):
    self._videos = len(x)
    self._rows = softmax_regression.Rows(x, label, classes=classes, mesh=mesh)

  def fit(self, rows: np.ndarray | None, strength: float, start: Any = None) -> Any:
    used = None
    if rows is not None:
      used = np.zeros(self._videos, bool)
      used[rows] = True
    return self._rows.fit(strength, used=used, start=start)

  def loss(self, model: Any, rows: np.ndarray) -> float:
    own = self._rows.log_likelihood(model)[rows]
    return -float(np.maximum(own, np.log(_LEAST)).sum())

  def predict(self, model: Any, x: np.ndarray) -> np.ndarray:
    return self._rows.probabilities(model, x)

  def converged(self, model: Any) -> bool:
    return bool(model.converged)


def _choose(problem: _Sklearn | _Device, parts: list[tuple[np.ndarray, np.ndarray]]) -> float:
  """The C with the lowest held-out log-loss; each fit starts from the one with the smaller C."""
  models, losses = [None] * len(parts), []
  fits = len(STRENGTHS) * len(parts)  # at most
  with progress.bar("logistic regression", fits, unit="fit", shown=parallel.first()) as bar:
    for strength in STRENGTHS:
      loss = 0.0
      for i, (fit_on, held) in enumerate(parts):
        models[i] = problem.fit(fit_on, strength, models[i])
        loss += problem.loss(models[i], held)
        bar.update()
      losses.append(loss)
      if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
        break
  return STRENGTHS[int(np.argmin(losses))]


def _normalize(
  train: np.ndarray, test: np.ndarray, how: str, dtype: type
) -> tuple[np.ndarray, np.ndarray]:
  """Normalizes in float64, by blocks, so that no large array is there in float64 on the way."""

  def convert(x: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    out: np.ndarray = np.empty(x.shape, dtype)
    for i in range(0, len(x), _BLOCK):
      out[i : i + _BLOCK] = change(x[i : i + _BLOCK].astype(np.float64))
    return out

  def total(change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    blocks = (train[i : i + _BLOCK].astype(np.float64) for i in range(0, len(train), _BLOCK))
    return functools.reduce(np.add, (change(x).sum(axis=0) for x in blocks))

  if how == "standard":
    mean = total(lambda x: x) / len(train)
    std = np.sqrt(total(lambda x: np.square(x - mean)) / len(train))
    std = np.where(std > 1e-12 * np.maximum(np.abs(mean), 1.0), std, 1.0)  # constant features
    change = lambda x: (x - mean) / std  # noqa: E731
  elif how == "l2":
    tiny = np.finfo(np.float64).tiny
    change = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), tiny)  # noqa: E731
  elif how == "none":
    # The bias makes up for a shift, which saves float32's digits.
    shift = total(lambda x: x) / len(train) if dtype == np.float32 else 0.0
    change = lambda x: x - shift  # noqa: E731
  else:
    raise UserError(f"normalization {how!r} is unknown: use {', '.join(NORMALIZATIONS)}")
  return convert(train, change), convert(test, change)


def _span(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Projects onto the span of the training rows, which contains the optimal weights."""
  if train.shape[1] <= train.shape[0]:
    return train, test
  basis = np.linalg.qr(train.T.astype(np.float64))[0].astype(train.dtype)  # [F, V]
  return train @ basis, test @ basis


def split(
  label: np.ndarray, groups: np.ndarray | None, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Stratified folds whose training parts have at least two classes each.

  Args:
    label: int `[V]`.
    groups: one group name per video `[V]`, or None; a group is never split over folds.
    folds: number of folds; fewer if every class has fewer videos or groups.
    seed: seed of the shuffle.

  Returns:
    For each fold, the rows to fit on and the held-out rows.

  Raises:
    TooFewVideos: two folds cannot be made.
  """
  from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

  units = label if groups is None else np.unique(np.stack([label.astype(str), groups]), axis=1)[0]
  most = int(np.bincount(np.unique(units, return_inverse=True)[1]).max())
  folds = min(folds, most)
  few = TooFewVideos(
    f"too few training {'videos' if groups is None else 'recordings'} per class for the "
    "cross-validation that chooses C; it needs two"
  )
  if folds < 2:
    raise few
  kind = StratifiedKFold if groups is None else StratifiedGroupKFold
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # classes with fewer members than folds
    splits = kind(folds, shuffle=True, random_state=seed).split(label, label, groups)
    parts = [(a, b) for a, b in splits if len(np.unique(label[a])) > 1 and len(b)]
  if not parts:
    raise few
  return parts


def fit(
  config: ConfigDict,
  source_train: Source,
  train: np.ndarray,
  train_label: np.ndarray,
  test: np.ndarray,
  test_label: np.ndarray,
  names: Sequence[str],
  *,
  solver: str = "auto",
  mesh: Mesh | None = None,
) -> Result:
  """Fits logistic regression on features, one row per video; C is chosen with folds by recording.

  Args:
    config: the field `seed` is read.
    source_train: gives the classes.
    train: float `[V, F]`.
    train_label: int `[V]`.
    test: float `[U, F]`.
    test_label: int `[U]`.
    names: names of the V training videos, or ().
    solver: see `evaluate`.
    mesh: see `evaluate`.
  """
  return evaluate(
    train,
    train_label,
    test,
    test_label,
    num_classes=len(source_train.label_names),
    groups=recordings(names),
    seed=config.seed,
    solver=solver,
    mesh=mesh,
  )
