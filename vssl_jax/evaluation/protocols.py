"""The protocols: what each is called, what decides its numbers, and how it comes to them.

A protocol is two functions of a `Task`: `describe` gives its settings, checks them, and trains
nothing; `run` gives its scores, among them `headline`, the figures of the table.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import parallel, probing
from vssl_jax.evaluation import cache, embedding_plot, few_shot, gallery, settings, subsets
from vssl_jax.io import checkpoints
from vssl_jax.methods.base import Variables
from vssl_jax.probes import features, knn, logistic, metrics, report, retrieval
from vssl_jax.probes import run as probe_run

_NEIGHBOURS = 5  # shown of a query


@dataclasses.dataclass(frozen=True)
class Task:
  """One encoder on one pair of splits.

  Attributes:
    config: the checkpoint's, with the options applied.
    options: see `settings.Options`.
    variables: of the encoder that `config.encoder` describes.
    train: the training split.
    test: the evaluation split.
    folder: where results, pictures and training runs of this pair go.
    features_folder: where features are kept.
    mesh: all devices.
  """

  config: ConfigDict
  options: settings.Options
  variables: Variables
  train: probe_run.Cached
  test: probe_run.Cached
  folder: pathlib.Path
  features_folder: pathlib.Path
  mesh: Mesh

  @property
  def label_names(self) -> tuple[str, ...]:
    """Names of the classes."""
    return tuple(self.test.label_names)

  @functools.cached_property
  def encoder_sha256(self) -> str:
    """Of the encoder as it was loaded."""
    return report.tree_hash(self.variables)

  @functools.cached_property
  def bank(self) -> features.Features:
    """Features of the training split."""
    return self._extract(self.train, self.config.data.train_split)

  @functools.cached_property
  def queries(self) -> features.Features:
    """Features of the evaluation split."""
    return self._extract(self.test, self.config.data.eval_split)

  @functools.cached_property
  def given(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features averaged over views, and labels: `[V, F]`, `[V]`, `[U, F]`, `[U]`."""
    return self.bank.mean(), self.bank.label, self.queries.mean(), self.queries.label

  def _extract(self, source: probe_run.Cached, split: str) -> features.Features:
    return cache.extract(
      self.features_folder, self.config, self.variables, source, split, mesh=self.mesh,
      progress=f"features of {split}",
    )  # fmt: skip

  def facts(self) -> dict[str, Any]:
    """What every result says: data, views, network, checkpoint's hash, feature layer, BN mode."""
    said = probe_run.protocol(self.config, self.train, self.test)
    for split, source in (("train", self.train), ("eval", self.test)):
      said["data"][split]["fingerprint"] = getattr(source, "fingerprint", "")
    return said | {
      "encoder_sha256": self.encoder_sha256,
      "feature_layer": "global average pooling, mean over views",
      "bn_mode": probe_run.BN_MODE,
    }


Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Protocol:
  """See the module's docstring; `words` go under the table, `frozen`: the encoder stays."""

  words: str
  describe: Callable[[Task], Result]
  run: Callable[[Task], Result]
  frozen: bool = True


def _scored(task: Task, name: str, found: metrics.Accuracy) -> Result:
  """Scores of a classifier on frozen features, its picture and table written."""
  title = name.replace("_", " ")
  probe_run.write_classes(task.folder / f"{name}.png", title, found, task.label_names)
  return {
    "top1": found.top1, "top5": found.top5, "mean_class_top1": found.mean_class,
    "per_class": dict(zip(task.label_names, found.per_class.tolist(), strict=True)),
    "videos": {"train": len(task.bank.label), "eval": len(task.queries.label)},
    "videos_a_class": dict(
      zip(task.label_names, found.confusion.sum(axis=1).tolist(), strict=True)
    ),
    "headline": _headline(task, found.top1, found.top5),
  }  # fmt: skip


def _headline(task: Task, top1: float, top5: float) -> dict[str, float]:
  return {"top-1": top1} | ({"top-5": top5} if len(task.label_names) > 10 else {})


def _bound(config: ConfigDict) -> str:
  """One hash over all fields that decide a training run."""
  text = json.dumps(checkpoints.bound(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _training(config: ConfigDict) -> Result:
  return settings.told(config) | {"settings_sha256": _bound(config)}


# Linear probe


def _describe_linear(task: Task) -> Result:
  config = probing.linear_config(task.config, len(task.label_names))
  return {"variant": task.options.linear} | _training(config)


def _run_linear(task: Task) -> Result:
  found = probing.linear(task.config, task.variables, task.folder, task.mesh, task.train, task.test)
  return _views_told(found) | {"headline": _headline(task, found["top1"], found["top5"])}


# Logistic regression


def _describe_logistic(task: Task) -> Result:
  del task
  return {"normalisation": "standard", "strengths": logistic.STRENGTHS, "penalty": "L2"}


def _run_logistic(task: Task) -> Result:
  fitted = probe_run.fit(task.config, task.train, *task.given, names=task.bank.names)
  return fitted.summary() | _scored(task, "logistic", fitted.accuracy)


# Nearest neighbours


def _describe_knn(task: Task) -> Result:
  k = task.config.knn
  return {"k": k.k, "temperature": k.temperature, "similarity": "cosine", "weight": "exp(cos / T)"}


def _run_knn(task: Task) -> Result:
  bank, bank_label, queries, label = task.given
  k = task.config.knn
  votes = knn.weighted_knn(
    bank, bank_label, queries, classes=len(task.label_names), k=k.k, temperature=k.temperature
  )
  used = min(k.k, int(np.sum(bank_label >= 0)))
  return {"k_used": used} | _scored(task, "knn", metrics.accuracy(votes, label))


# Fine-tuning


def _finetune_config(task: Task) -> ConfigDict:
  o = task.options
  return settings.finetuning(task.config, len(task.label_names), o, o.epochs)


def _describe_finetune(task: Task) -> Result:
  return _training(_finetune_config(task))


def _run_finetune(task: Task) -> Result:
  found = _tuned(task, _finetune_config(task), None, "finetune")
  return found | {"headline": _headline(task, found["top1"], found["top5"])}


def _tuned(task: Task, config: ConfigDict, videos: np.ndarray | None, name: str) -> Result:
  count = task.train.num_videos if videos is None else len(videos)
  found = probing.classifier(
    config, task.variables, task.folder, _devices(task.mesh, count), task.train, task.test,
    name=name, videos=videos,
  )  # fmt: skip
  return _views_told(found)


def _views_told(found: Result) -> Result:
  """A classifier's scores; `views` are numbers in every result."""
  return {("averaging" if k == "views" else k): v for k, v in found.items()}


def _devices(mesh: Mesh, videos: int) -> Mesh:
  """All devices, or the first ones where there are fewer videos to learn from."""
  if videos >= mesh.size or jax.process_count() > 1:
    return mesh
  return parallel.make_mesh(list(mesh.devices.flat)[:videos])


# Semi-supervised


@dataclasses.dataclass(frozen=True)
class _Subset:
  group: str  # what is averaged: "1 %"
  tag: str  # of files: "1pct_seed0"
  videos: np.ndarray  # numbers in the training split


def _chosen(task: Task) -> list[_Subset]:
  bank, options = task.bank, task.options
  if options.subsets:
    names = getattr(task.train, "video_names", ())
    listed = [subsets.read(f, names, task.train.num_videos) for f in options.subsets]
    stems = [pathlib.PurePath(f).stem for f in options.subsets]
    return [_Subset(s, s, v) for s, v in zip(stems, listed, strict=True)]
  chosen = []
  for f in options.fractions:
    for seed in options.subset_seeds:
      videos = bank.video[subsets.balanced(bank.label, f, seed)]
      chosen.append(_Subset(f"{100 * f:g} %", f"{100 * f:g}pct_seed{seed}", videos))
  return chosen


def _subset_config(task: Task) -> ConfigDict:
  o = task.options
  return settings.finetuning(task.config, len(task.label_names), o, o.semi_epochs or 5 * o.epochs)


def _describe_semi(task: Task) -> Result:
  chosen = [{"labels": s.group, "name": s.tag, "numbers": s.videos} for s in _chosen(task)]
  choice = "files given" if task.options.subsets else "class-balanced, at least one video a class"
  return _training(_subset_config(task)) | {"subsets": chosen, "choice": choice}


def _run_semi(task: Task) -> Result:
  bank = task.bank
  place = {int(v): i for i, v in enumerate(bank.video)}
  rows: list[Result] = []
  for subset in _chosen(task):
    own = [place[int(v)] for v in subset.videos if int(v) in place]
    label = bank.label[own]
    file = task.folder / f"subset_{subset.tag}.tsv"
    if jax.process_index() == 0:
      names = [bank.names[i] for i in own] if bank.names else [""] * len(own)
      subsets.write(file, bank.video[own], label, names, task.label_names)
    found = _tuned(task, _subset_config(task), bank.video[own], f"semi_supervised_{subset.tag}")
    counts = np.bincount(label, minlength=len(task.label_names))
    rows.append(
      found | {"labels": subset.group, "subset_file": file.name, "labelled_videos": len(own),
               "videos_a_class": dict(zip(task.label_names, counts.tolist(), strict=True))}
    )  # fmt: skip
  groups = dict.fromkeys(r["labels"] for r in rows)
  top1 = {g: [r["top1"] for r in rows if r["labels"] == g] for g in groups}
  spread = {g: float(np.std(x, ddof=1)) for g, x in top1.items() if len(x) > 1}
  headline = {f"{g} of labels, top-1": float(np.mean(x)) for g, x in top1.items()}
  return {"subsets": rows, "std_over_subsets": spread, "headline": headline}


# Retrieval


def _describe_retrieval(task: Task) -> Result:
  return {
    "recalls": retrieval.RECALLS, "similarity": "cosine", "bank": task.config.data.train_split,
    "queries": task.config.data.eval_split, "gallery": task.options.gallery,
  }  # fmt: skip


def _run_retrieval(task: Task) -> Result:
  scores = retrieval.evaluate(*task.given)
  if task.options.gallery > 0:
    _gallery(task, scores["R@1"])
  return scores | {"headline": scores}


def _gallery(task: Task, r1: float) -> None:
  bank, queries = task.bank, task.queries
  rows = gallery.choose(queries.label, task.options.gallery, task.config.seed)
  known = np.flatnonzero(bank.label >= 0)
  cosine, found = gallery.nearest(bank.mean()[known], queries.mean()[rows], _NEIGHBOURS)
  found = known[found]
  asked = gallery.frames(task.test, queries.video[rows])
  shown = gallery.frames(task.train, bank.video[found.ravel()])

  def item(of: features.Features, place: int, frames: dict, **more: Any) -> Result:
    name = of.names[place] if of.names else ""
    frame = frames.get(int(of.video[place]))
    return {"frame": frame, "label": task.label_names[of.label[place]], "name": name, **more}

  pictured = []
  for q, near, cosines in zip(rows, found, cosine, strict=True):
    neighbours = [
      item(bank, n, shown, cosine=float(c), right=bool(bank.label[n] == queries.label[q]))
      for n, c in zip(near, cosines, strict=True)
    ]
    pictured.append({"query": item(queries, q, asked), "neighbours": neighbours})
  if jax.process_index() == 0:
    title = (
      f"Nearest training videos of random {task.config.data.eval_split} videos; R@1 over all "
      f"{len(queries.label)}: {100 * r1:.1f} %\ngreen ✓: the query's class, red ✗: another"
    )
    gallery.draw(task.folder / "retrieval.png", pictured, title)


# Few-shot


def _describe_few_shot(task: Task) -> Result:
  o = task.options
  return {
    "shots": o.shots, "ways": o.ways, "queries_a_class": o.queries, "episodes": o.episodes,
    "support": task.config.data.train_split, "queries": task.config.data.eval_split,
    "classifier": "nearest class mean of unit features, cosine",
  }  # fmt: skip


def _run_few_shot(task: Task) -> Result:
  o = task.options
  rows = [
    few_shot.evaluate(
      *task.given, shots=k, ways=o.ways, per_class=o.queries, episodes=o.episodes,
      seed=task.config.seed,
    )
    for k in o.shots
  ]  # fmt: skip
  headline = {}
  for r in rows:
    name = f"{r['ways']}-way {r['shots']}-shot"
    headline |= {name: r["accuracy"], f"{name}, ± (95 %)": r["interval"]}
  return {"rows": rows, "headline": headline}


# Pictures of the features


def _describe_embedding(task: Task) -> Result:
  return {"methods": embedding_plot.methods(), "split": task.config.data.eval_split}


def _run_embedding(task: Task) -> Result:
  queries, seed = task.queries, task.config.seed
  chosen = embedding_plot.sample(queries.label, seed)
  if len(chosen) < 4:
    return {"pictures": [], "headline": {}}
  written = []
  for method in embedding_plot.methods():
    places = embedding_plot.project(queries.mean()[chosen], method, seed)
    name = f"{method.lower().replace('-', '')}.png"
    title = f"{method} of {len(chosen)} {task.config.data.eval_split} videos, unit features"
    if jax.process_index() == 0:
      embedding_plot.draw(
        task.folder / name, places, queries.label[chosen], task.label_names, title
      )
    written.append(name)
  return {"pictures": written, "headline": {}}


PROTOCOLS = {
  "logistic": Protocol(
    "logistic regression on frozen features averaged over views, C by cross-validation on the "
    "training split", _describe_logistic, _run_logistic,
  ),
  "knn": Protocol(
    "nearest training videos vote, weighted by exp(cosine / T)", _describe_knn, _run_knn
  ),
  "retrieval": Protocol(
    "evaluation videos query the training videos, cosine; R@k: any of the k nearest has the class",
    _describe_retrieval, _run_retrieval,
  ),
  "few_shot": Protocol(
    "episodes: class means of k training videos a class, cosine", _describe_few_shot, _run_few_shot
  ),
  "embedding": Protocol("pictures of the features alone", _describe_embedding, _run_embedding),
  "linear": Protocol(
    "one dense layer trained on the frozen encoder, softmax averaged over views",
    _describe_linear, _run_linear,
  ),
  "semi_supervised": Protocol(
    "the whole network fine-tuned on few labels, class-balanced", _describe_semi, _run_semi, False
  ),
  "finetune": Protocol(
    "the whole network fine-tuned with all labels of the training split",
    _describe_finetune, _run_finetune, False,
  ),
}  # fmt: skip
