"""Scores of a frozen encoder on test clips with their frames reversed, shuffled and frozen.

A score that does not drop owes nothing to motion: the objects, the place or the colors of single
frames are enough for it. Classifiers and banks are made of training clips in normal order, as they
always are. Only the test clips change, so that each drop is that of one classifier.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.evaluation import frozen
from vssl_jax.evaluation.motion.orders import NORMAL, ORDERS, Reordered
from vssl_jax.evaluation.task import Protocol, Result, Task, headline
from vssl_jax.probes import features, few_shot, logistic, metrics, retrieval
from vssl_jax.probes.too_few_videos import TooFewVideos

Figures = dict[str, float]
# Features of the test videos `[U, F]` by order of frames, and their labels `[U]`.
Score = Callable[[Task, Mapping[str, np.ndarray], np.ndarray], dict[str, Figures]]


def _top(
  task: Task, scores: np.ndarray, label: np.ndarray, orders: list[str]
) -> dict[str, Figures]:
  """Accuracies by order, from the scores of all orders one after the other, `[O * U, K]`."""
  found = [metrics.accuracy(own, label) for own in np.split(scores, len(orders))]
  return {order: headline(task, a.top1, a.top5) for order, a in zip(orders, found, strict=True)}


def _logistic(task: Task, given: Mapping[str, np.ndarray], label: np.ndarray) -> dict[str, Figures]:
  bank = task.bank
  fitted = logistic.fit(
    task.config,
    task.train,
    bank.mean(),
    bank.label,
    np.concatenate(list(given.values())),
    np.tile(label, len(given)),
    names=bank.names,
    solver=task.options.solver,
    mesh=task.mesh,
  )
  return _top(task, fitted.probabilities, label, list(given))


def _knn(task: Task, given: Mapping[str, np.ndarray], label: np.ndarray) -> dict[str, Figures]:
  votes = frozen.knn_votes(task, np.concatenate(list(given.values())))
  return _top(task, votes, label, list(given))


def _retrieval(
  task: Task, given: Mapping[str, np.ndarray], label: np.ndarray
) -> dict[str, Figures]:
  bank, own = task.bank.mean(), task.bank.label
  return {k: retrieval.evaluate(bank, own, x, label, share=True) for k, x in given.items()}


def _few_shot(task: Task, given: Mapping[str, np.ndarray], label: np.ndarray) -> dict[str, Figures]:
  """The same episodes in each order."""
  o, bank, own = task.options, task.bank.mean(), task.bank.label
  found: dict[str, Figures] = {order: {} for order in given}
  for order, x in given.items():
    for shots in o.shots:
      row = few_shot.evaluate(
        bank,
        own,
        x,
        label,
        shots=shots,
        ways=o.ways,
        per_class=o.queries,
        episodes=o.episodes,
        seed=task.config.seed,
      )
      found[order][f"{row['ways']}-way {shots}-shot"] = row["accuracy"]
  return found


SCORES: Mapping[str, tuple[str, Protocol, Score]] = {
  "logistic": ("logistic", frozen.LOGISTIC, _logistic),
  "knn": ("kNN", frozen.KNN, _knn),
  "retrieval": ("retrieval", frozen.RETRIEVAL, _retrieval),
  "few_shot": ("few-shot", frozen.FEW_SHOT, _few_shot),
}
_SHOWN = {"retrieval": ("R@1",)}  # figures of the table; others only in the file


def _describe(task: Task) -> Result:
  frames = task.config.data.eval.frames
  if frames < 2:
    raise TooFewVideos(
      f"--frames: clips of {frames} frame have no order that could change; give 2 or more, or "
      "leave out motion"
    )
  own = {name: SCORES[name][1].describe(task) for name in task.options.motion_scores}
  for described in own.values():
    described.pop("gallery", None)
  split = task.config.data
  return {
    "orders": ORDERS,
    "order_of_training_clips": f"normal ({split.train_split})",
    "changed": f"test clips ({split.eval_split})",
    "drop": "score in normal order minus score in the other order",
    "scores": own,
  }


def _check(task: Task) -> None:
  for name in task.options.motion_scores:
    SCORES[name][1].check(task)


def _features(task: Task) -> dict[str, features.Features]:
  """Features of the test videos by order, all of the same videos.

  Raises:
    UserError: no video could be read in all orders.
  """
  found = {NORMAL: task.queries}
  for order in ORDERS:
    source = Reordered(task.test, order, task.config.seed)
    found[order] = task.extract(source, f"{task.config.data.eval_split} {order}")
  common = functools.reduce(np.intersect1d, [x.video for x in found.values()])
  if not len(common):
    raise UserError("motion: no test video could be read in each of four passes; run it again.")
  return {order: features.part(x, np.isin(x.video, common)) for order, x in found.items()}


def _run(task: Task) -> Result:
  found = _features(task)
  label = found[NORMAL].label
  given = {order: x.mean() for order, x in found.items()}
  orders: dict[str, dict[str, Figures]] = {order: {} for order in found}
  drop: dict[str, dict[str, Figures]] = {order: {} for order in ORDERS}
  shown: Figures = {}
  for name in task.options.motion_scores:
    title, _, score = SCORES[name]
    by_order = score(task, given, label)
    for order, figures in by_order.items():
      orders[order][name] = figures
    for figure, normal in by_order[NORMAL].items():
      in_table = figure in _SHOWN.get(name, (figure,))
      words = f"{title} {figure}" if name in ("logistic", "knn") else figure
      if in_table:
        shown[words] = normal
      for order in ORDERS:
        changed = by_order[order][figure]
        drop[order].setdefault(name, {})[figure] = normal - changed
        if in_table:
          shown |= {f"{words}, {order}": changed, f"{words}, {order}: drop": normal - changed}
  read = {"train": len(task.bank.label), "eval": len(label)}
  labeled = {"train": int(np.sum(task.bank.label >= 0)), "eval": int(np.sum(label >= 0))}
  return {"orders": orders, "drop": drop, "videos": labeled, "read": read, "headline": shown}


MOTION = Protocol(
  "frozen scores with the frames of test clips reversed, shuffled, or all the middle one; training "
  "clips stay in normal order; drop: score in normal order minus score in the other order",
  _describe,
  _run,
  check=_check,
)
