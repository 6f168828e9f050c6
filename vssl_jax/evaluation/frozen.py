"""The protocols for a frozen encoder: they do not change it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vssl_jax import parallel
from vssl_jax.evaluation import classifier
from vssl_jax.evaluation.pictures import embedding_plot, gallery
from vssl_jax.evaluation.task import (
  Protocol,
  Result,
  Task,
  check_labels,
  describe_classifier,
  headline,
  training,
)
from vssl_jax.probes import confusion, features, few_shot, knn, logistic, metrics, retrieval
from vssl_jax.probes import cross_validation as folds_lib

_NEIGHBORS = 5  # neighbors shown per query
_TITLES = {"logistic": "logistic regression"}  # titles of pictures


def _scored(task: Task, name: str, found: metrics.Accuracy) -> Result:
  """Scores of a classifier on frozen features; also writes its confusion matrix and table."""
  if task.folder is not None:
    title = _TITLES.get(name, name)
    confusion.write_classes(task.folder / f"{name}.png", title, found, task.label_names)
  return {
    "top1": found.top1,
    "top5": found.top5,
    "mean_class_top1": found.mean_class,
    "per_class": dict(zip(task.label_names, found.per_class.tolist(), strict=True)),
    "videos": task.labeled,
    "read": task.read,
    "videos_a_class": dict(
      zip(task.label_names, found.confusion.sum(axis=1).tolist(), strict=True)
    ),
    "headline": headline(task, found.top1, found.top5),
  }


def _describe_linear(task: Task) -> Result:
  classifier.check_linear(task.config, task.train.num_videos, task.mesh)
  config = classifier.linear_config(task.config, len(task.label_names))
  return {"variant": task.options.linear} | training(config)


def _run_linear(task: Task) -> Result:
  found = classifier.linear(
    task.config, task.variables, task.output, task.mesh, task.train, task.test
  )
  return describe_classifier(found) | {"headline": headline(task, found["top1"], found["top5"])}


def _check_logistic(task: Task) -> None:
  check_labels(task)
  logistic.check(task.bank.label, logistic.recordings(task.bank.names), task.config.seed)


def _describe_logistic(task: Task) -> Result:
  described = {"normalization": "standard", "strengths": logistic.STRENGTHS, "penalty": "L2"}
  return described | _solver(task)


def _solver(task: Task) -> Result:
  """The solver that was asked for; nothing for "auto", as in results from before the option."""
  solver = task.options.solver
  return {} if solver == "auto" else {"solver": solver}


def _run_logistic(task: Task) -> Result:
  names, solver = task.bank.names, task.options.solver
  fitted = logistic.fit(
    task.config, task.train, *task.given, names=names, solver=solver, mesh=task.mesh
  )
  return fitted.summary() | _scored(task, "logistic", fitted.accuracy)


def _describe_knn(task: Task) -> Result:
  k = task.config.knn
  described: Result = {
    "k": k.k,
    "temperature": k.temperature,
    "similarity": "cosine",
    "weight": "exp(cos / T)",
  }
  # What came later is told only where it is used: results of before then stay comparable.
  return described | ({"k_bound": "size of the smallest class"} if k.bound else {})


def _shared(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
  """`function(rows)` row by row, of which each process computes a part."""
  own = rows[parallel.own_share(len(rows))]
  return parallel.gather_rows({"rows": function(own)} if len(own) else {})["rows"]


def _neighbors(task: Task) -> tuple[int, str]:
  return knn.neighbors(task.bank.label, task.config.knn.k, bound=task.config.knn.bound)


def knn_votes(task: Task, queries: np.ndarray) -> np.ndarray:
  """The votes of the nearest training videos.

  Args:
    task: its bank votes; with several processes, all of them call.
    queries: float `[U, F]`.

  Returns:
    float32 `[U, K]`, see `knn.weighted_knn`.
  """
  bank, temperature, classes = task.bank.mean(), task.config.knn.temperature, len(task.label_names)
  used, _ = _neighbors(task)
  return _shared(
    lambda own: knn.weighted_knn(
      bank, task.bank.label, own, classes=classes, k=used, temperature=temperature
    ),
    queries,
  )


def _run_knn(task: Task) -> Result:
  _, _, queries, label = task.given
  used, why = _neighbors(task)
  found = metrics.accuracy(knn_votes(task, queries), label)
  return {"k_used": used} | ({"k_why": why} if why else {}) | _scored(task, "knn", found)


def _describe_cross_validation(task: Task) -> Result:
  described = {"folds": folds_lib.FOLDS, "split": "train"}
  return described | {"C": "by folds inside each training part"} | _solver(task)


def _check_cross_validation(task: Task) -> None:
  groups = logistic.recordings(task.bank.names)
  folds_lib.check(task.bank.label, groups=groups, seed=task.config.seed)


def _run_cross_validation(task: Task) -> Result:
  bank = task.bank
  found = folds_lib.evaluate(
    bank.mean(),
    bank.label,
    groups=logistic.recordings(bank.names),
    seed=task.config.seed,
    solver=task.options.solver,
    mesh=task.mesh,
  )
  headline = {"top-1": found["top1"], "R@1": found["R@1"]}
  return found | {"read": {"train": len(bank.label)}, "headline": headline}


def _describe_retrieval(task: Task) -> Result:
  return {
    "recalls": retrieval.RECALLS,
    "similarity": "cosine",
    "bank": task.config.data.train_split,
    "queries": task.config.data.eval_split,
    "gallery": task.options.gallery,
  }


def _run_retrieval(task: Task) -> Result:
  scores = retrieval.evaluate(*task.given, share=True)
  if task.options.gallery > 0:
    _gallery(task, scores["R@1"])
  return scores | {"videos": task.labeled, "read": task.read, "headline": scores}


def _gallery(task: Task, r1: float) -> None:
  bank, queries = task.bank, task.queries
  rows = gallery.choose(queries.label, task.options.gallery, task.config.seed)
  known = np.flatnonzero(bank.label >= 0)
  cosine, found = gallery.nearest(bank.mean()[known], queries.mean()[rows], _NEIGHBORS)
  found = known[found]
  asked = gallery.frames(task.test, queries.video[rows])
  shown = gallery.frames(task.train, bank.video[found.ravel()])

  def item(split: features.Features, place: int, frames: dict, **more: Any) -> Result:
    name = split.names[place] if split.names else ""
    frame = frames.get(int(split.video[place]))
    return {"frame": frame, "label": task.label_names[split.label[place]], "name": name, **more}

  if not parallel.first():
    return
  pictured = []
  for q, near, cosines in zip(rows, found, cosine, strict=True):
    neighbors = [
      item(bank, n, shown, cosine=float(c), right=bool(bank.label[n] == queries.label[q]))
      for n, c in zip(near, cosines, strict=True)
    ]
    pictured.append({"query": item(queries, q, asked), "neighbors": neighbors})
  title = (
    f"Nearest training videos of random {task.config.data.eval_split} videos; R@1 over all "
    f"{task.labeled['eval']}: {100 * r1:.1f} %\ngreen ✓: the query's class, red ✗: another"
  )
  gallery.draw(task.output / "retrieval.png", pictured, title)


def _describe_few_shot(task: Task) -> Result:
  o = task.options
  return {
    "shots": o.shots,
    "ways": o.ways,
    "queries_a_class": o.queries,
    "episodes": o.episodes,
    "support": task.config.data.train_split,
    "queries": task.config.data.eval_split,
    "classifier": "nearest class mean of unit features, cosine",
  }


def _check_few_shot(task: Task) -> None:
  check_labels(task)
  for shots in task.options.shots:
    few_shot.classes(task.bank.label, task.queries.label, shots)


def _run_few_shot(task: Task) -> Result:
  o = task.options
  rows = [
    few_shot.evaluate(
      *task.given,
      shots=k,
      ways=o.ways,
      per_class=o.queries,
      episodes=o.episodes,
      seed=task.config.seed,
    )
    for k in o.shots
  ]
  headline: dict[str, float] = {}
  for r in rows:
    name = f"{r['ways']}-way {r['shots']}-shot"
    headline |= {name: r["accuracy"], f"{name}, ± (95 %)": r["interval"]}
  return {"rows": rows, "read": task.read, "headline": headline}


def _describe_embedding(task: Task) -> Result:
  return {"methods": embedding_plot.methods(), "split": task.config.data.eval_split}


def _run_embedding(task: Task) -> Result:
  queries, seed = task.queries, task.config.seed
  chosen = embedding_plot.sample(queries.label, seed)
  read = {"eval": len(queries.label)}
  if len(chosen) < 4:
    return {"pictures": [], "read": read, "headline": {}}
  written = []
  for method in embedding_plot.methods():
    name = f"{method.lower().replace('-', '')}.png"
    written.append(name)
    if not parallel.first():
      continue
    places = embedding_plot.project(queries.mean()[chosen], method, seed)
    title = f"{method} of {len(chosen)} {task.config.data.eval_split} videos, unit features"
    embedding_plot.draw(task.output / name, places, queries.label[chosen], task.label_names, title)
  return {"pictures": written, "read": read, "headline": {}}


LOGISTIC = Protocol(
  "logistic regression on frozen features averaged over views; C is chosen by cross-validation on "
  "the training split",
  _describe_logistic,
  _run_logistic,
  check=_check_logistic,
)
CROSS_VALIDATION = Protocol(
  "logistic regression and R@1 by cross-validation within the training split, folds by recording; "
  "use it to choose recipes",
  _describe_cross_validation,
  _run_cross_validation,
  check=_check_cross_validation,
)
KNN = Protocol(
  "nearest training videos vote, weighted by exp(cosine / T)",
  _describe_knn,
  _run_knn,
  check=check_labels,
)
RETRIEVAL = Protocol(
  "evaluation videos query the training videos by cosine; R@k: fraction of queries with a video of "
  "their class among the k nearest",
  _describe_retrieval,
  _run_retrieval,
  check=check_labels,
)
FEW_SHOT = Protocol(
  "few-shot episodes: the nearest class mean of k training videos per class, by cosine",
  _describe_few_shot,
  _run_few_shot,
  check=_check_few_shot,
)
EMBEDDING = Protocol("only pictures of the features", _describe_embedding, _run_embedding)
LINEAR = Protocol(
  "one dense layer trained on the frozen encoder, softmax averaged over views",
  _describe_linear,
  _run_linear,
  check=check_labels,
)
