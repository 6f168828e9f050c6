"""The probes at the end of a run: every protocol that `config.probe` switches on."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import models, results
from vssl_jax.evaluation.classifier import fitting, linear, linear_config
from vssl_jax.evaluation.splits import missing, splits, whole
from vssl_jax.methods.base import Variables
from vssl_jax.models.inflate import inflated
from vssl_jax.probes import baselines as baselines_lib
from vssl_jax.probes import calibrate, confusion, features, knn, logistic, retrieval
from vssl_jax.probes.views import BN_MODE, Source, eval_batches, feature_fn, protocol
from vssl_jax.training import sources


def probe(
  config: ConfigDict, variables: Variables, workdir: pathlib.Path, mesh: Mesh
) -> dict[str, Any]:
  """Every protocol that `config.probe` switches on, as one dictionary for the RESULT line.

  Args:
    config: `probe`, `data`, `encoder`, `augment` and `seed` are read.
    variables: of the encoder that `config.encoder` describes.
    workdir: the linear probes' runs and the pictures go here.
    mesh: all devices.

  Returns:
    The protocol, and `trained`, `random_init` and `baselines` with their scores.
  """
  if lack := missing(config, mesh):
    print(f"Nothing is probed: {lack}.", flush=True)
    return {"protocol": f"none: {lack}"}
  config = whole(config)
  train_source, eval_source = splits(config)
  config, variables = inflated(config, variables)
  outcome: dict[str, Any] = protocol(config, train_source, eval_source)
  encoder = models.build_encoder(config.encoder)
  encoders = {"trained": variables}
  if config.probe.random_init:
    settings = linear_config(config, 2)
    size = fitting(config.probe.batch_size, train_source.num_videos, mesh)
    calibration = sources.load_source(settings, config.data.train_split, batch_size=size)
    calibrated = models.build_encoder(settings.encoder)
    encoders["random_init"] = calibrate.random_variables(config, calibrated, calibration)
  for name, values in encoders.items():
    folder = workdir / f"probe_{name}"
    scores: dict[str, Any] = {}
    if config.probe.quick:
      scores |= quick(
        config,
        encoder,
        values,
        train_source,
        eval_source,
        mesh=mesh,
        picture=folder / "logistic.png",
        progress=f"features ({name})",
      )
    if config.probe.linear:
      scores["linear"] = linear(config, values, folder, mesh, train_source, eval_source)
    outcome[name] = scores
  if config.probe.baselines:
    outcome["baselines"] = baselines_lib.evaluate(config, train_source, eval_source)
  return outcome | _headline(outcome)


def _headline(outcome: dict[str, Any]) -> dict[str, Any]:
  """The figures to compare, side by side: top-1 of each encoder and of the baselines."""
  rows = {name: outcome[name] for name in ("trained", "random_init") if name in outcome}
  figures = {
    f"{probed}_top1": {name: scores[probed]["top1"] for name, scores in rows.items()}
    for probed in ("linear", "logistic", "knn")
    if probed in outcome["trained"]
  }
  if "retrieval" in outcome["trained"]:
    figures["R@1"] = {name: scores["retrieval"]["R@1"] for name, scores in rows.items()}
  baselines = outcome.get("baselines", {})
  for name, scores in baselines.items():
    figures.setdefault("logistic_top1", {})[name] = scores["top1"]
  return {"headline": figures}


def quick(
  config: ConfigDict,
  encoder: nn.Module,
  variables: features.Variables,
  source_train: Source,
  source_eval: Source,
  *,
  mesh: Mesh | None = None,
  picture: str | pathlib.Path | None = None,
  progress: str = "features",
) -> dict[str, Any]:
  """Logistic regression and nearest neighbours on frozen features (mean over views).

  The training split's labels serve the classifiers only, the evaluation split the scores only.

  Args:
    config: `data.eval` (for both splits), `augment`, `knn` and `seed` are read.
    encoder: module called as `apply(variables, clips [N, T, H, W, C], train=False) -> [N, F]`.
    variables: of the encoder; proven unchanged by a hash before and after.
    source_train: the training split.
    source_eval: the evaluation split.
    mesh: see `features.forward`.
    picture: PNG of the logistic regression's confusion matrix; the table of classes stands beside
      it as `.md`. None writes neither.
    progress: text of the progress bars; "" for none.

  Returns:
    A JSON-able dict: `logistic` with `top1`, `top5`, `mean_class_top1` and how it was fitted,
    `knn` with `top1` and its votes' settings, `retrieval` with `R@k` and `mAP`, `videos` scored
    (unreadable ones are not), `feature`, `bn_mode`, `encoder_sha256`, `seconds` and
    `clips_per_second` (views through the network, reading and compilation included). Accuracies
    are fractions.

  Raises:
    UserError: a split is empty or has no labels.
    RuntimeError: the variables changed, which would be a bug.
  """
  start = time.perf_counter()
  before = results.tree_hash(variables)
  apply = feature_fn(encoder, config)

  def extract(source: Source, split: str) -> features.Features:
    return features.extract(
      apply,
      variables,
      eval_batches(source, config),
      mesh=mesh,
      average=True,
      split=split,
      names=getattr(source, "video_names", ()),
      progress=progress and f"{progress}, {split}",
      total=source.num_videos,
    )

  train = extract(source_train, config.data.train_split)
  test = extract(source_eval, config.data.eval_split)
  seconds = time.perf_counter() - start
  videos, _, dim = train.features.shape
  views = config.data.eval.clips * config.data.eval.crops
  given = (train.mean(), train.label, test.mean(), test.label)
  fitted = logistic.fit(config, source_train, *given, names=train.names)
  neighbours = retrieval.evaluate(*given)
  known = int(np.sum(train.label >= 0))
  votes = {"k": min(config.knn.k, known), "temperature": config.knn.temperature}
  if picture is not None:
    confusion.write_classes(
      picture, "logistic regression", fitted.accuracy, source_eval.label_names
    )
  return {
    "logistic": fitted.summary() | {"mean_class_top1": fitted.accuracy.mean_class},
    "knn": {"top1": knn.evaluate(*given, **votes), **votes},
    "retrieval": neighbours | {"similarity": "cosine", "bank": config.data.train_split},
    "videos": {"train": videos, "eval": len(test.label)},
    "feature": f"{dim} numbers a view after global average pooling, mean over views",
    "bn_mode": BN_MODE,
    "encoder_sha256": results.unchanged(variables, before),
    "seconds": time.perf_counter() - start,
    "clips_per_second": (videos + len(test.label)) * views / seconds,
  }
