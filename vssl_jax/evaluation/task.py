"""One encoder on one pair of splits, and what every protocol says of it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import models, results
from vssl_jax.evaluation import options as options_lib
from vssl_jax.methods.base import Variables
from vssl_jax.probes import feature_cache, features, too_few_videos
from vssl_jax.probes import views as views_lib
from vssl_jax.training import checkpoints, optim

Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
  """One encoder on one pair of splits.

  Attributes:
    config: the checkpoint's, with the options applied.
    options: see `settings.Options`.
    variables: of the encoder that `config.encoder` describes.
    train: the training split.
    test: the evaluation split.
    folder: where results, pictures and training runs of this pair go; None for no pictures.
    features_folder: where features of every view are kept; None keeps their means in memory alone.
    mesh: all devices.
    progress: text of the progress bars; "" for none.
  """

  config: ConfigDict
  options: options_lib.Options
  variables: Variables
  train: views_lib.Cached
  test: views_lib.Cached
  folder: pathlib.Path | None
  features_folder: pathlib.Path | None
  mesh: Mesh
  progress: str = "features"

  @property
  def output(self) -> pathlib.Path:
    """`folder`, of a task that has one."""
    assert self.folder is not None
    return self.folder

  @property
  def label_names(self) -> tuple[str, ...]:
    """Names of the classes."""
    return tuple(self.test.label_names)

  @functools.cached_property
  def encoder_sha256(self) -> str:
    """Of the encoder as it was loaded."""
    return results.tree_hash(self.variables)

  @functools.cached_property
  def bank(self) -> features.Features:
    """Features of the training split."""
    return self._extract(self.train, self.config.data.train_split)

  @functools.cached_property
  def queries(self) -> features.Features:
    """Features of the evaluation split."""
    return self._extract(self.test, self.config.data.eval_split)

  @property
  def read(self) -> dict[str, int]:
    """Videos of each split that could be read."""
    return {"train": len(self.bank.label), "eval": len(self.queries.label)}

  @property
  def labelled(self) -> dict[str, int]:
    """Those of them whose class is known."""
    labels = {"train": self.bank.label, "eval": self.queries.label}
    return {split: int(np.sum(label >= 0)) for split, label in labels.items()}

  @functools.cached_property
  def given(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features averaged over views, and labels: `[V, F]`, `[V]`, `[U, F]`, `[U]`."""
    return self.bank.mean(), self.bank.label, self.queries.mean(), self.queries.label

  def _extract(self, source: views_lib.Cached, split: str) -> features.Features:
    progress = self.progress and f"{self.progress}, {split}"
    if self.features_folder is not None:
      return feature_cache.extract(
        self.features_folder,
        self.config,
        self.variables,
        source,
        split,
        mesh=self.mesh,
        progress=progress,
      )
    encoder = models.build_encoder(self.config.encoder)
    return features.extract(
      views_lib.feature_fn(encoder, self.config),
      self.variables,
      views_lib.eval_batches(source, self.config),
      mesh=self.mesh,
      average=True,
      split=split,
      names=source.video_names,
      progress=progress,
      total=source.num_videos,
    )

  def facts(self) -> dict[str, Any]:
    """What every result says: data, views, network, checkpoint's hash, feature layer, BN mode."""
    said = views_lib.protocol(self.config, self.train, self.test)
    for split, source in (("train", self.train), ("eval", self.test)):
      said["data"][split]["fingerprint"] = source.fingerprint
    names = feature_cache.names_hash(self.train.label_names, self.test.label_names)
    said["data"]["label_names_sha256"] = names
    return said | {
      "encoder_sha256": self.encoder_sha256,
      "encoder": json.loads(self.config.encoder.to_json()),
      "normalization": {"mean": self.config.augment.mean, "std": self.config.augment.std},
      "feature_layer": "global average pooling, mean over views",
      "bn_mode": views_lib.BN_MODE,
    }


def check_labels(task: Task) -> None:
  """Finds a labelled video in each split, of features where they are there, else of a few videos.

  Raises:
    scarce.TooFewVideos: a split has none.
  """
  e = task.config.data.eval
  for name, source, known in (
    ("training", task.train, vars(task).get("bank")),
    ("evaluation", task.test, vars(task).get("queries")),
  ):
    label = known.label if known else np.empty(0, int)
    if not known:
      views = {k: e[k] for k in views_lib.VIEWS} | {"clips": 1, "crops": 1}
      with contextlib.closing(source.eval_batches(e.batch_size, **views)) as batches:
        for batch in batches:
          label = np.asarray(batch["label"])[np.asarray(batch.get("valid", slice(None)))]
          if (label >= 0).any():
            break
    too_few_videos.require_labels(label, name, "probes")


def _any_data(task: Task) -> None:
  """Nothing to check: what the protocol needs, every task has."""
  del task


@dataclasses.dataclass(frozen=True)
class Protocol:
  """A protocol: `describe` gives its settings and trains nothing, `run` gives its scores.

  Attributes:
    words: go under the table.
    describe: see `protocols`.
    run: see `protocols`.
    frozen: the encoder stays as it is.
    check: raises `scarce.TooFewVideos` where the data does not suffice; trains nothing.
  """

  words: str
  describe: Callable[[Task], Result]
  run: Callable[[Task], Result]
  frozen: bool = True
  check: Callable[[Task], None] = _any_data


def headline(task: Task, top1: float, top5: float) -> dict[str, float]:
  """The figures of the table; top-5 says nothing of few classes."""
  return {"top-1": top1} | ({"top-5": top5} if len(task.label_names) > 10 else {})


def _bound(config: ConfigDict) -> str:
  """One hash over all fields that decide a training run."""
  text = json.dumps(checkpoints.bound(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def training(config: ConfigDict) -> Result:
  """What a result says of a training run; `UserError` where its optimizer is impossible."""
  optim.build(config.optim, jnp.asarray)
  return options_lib.describe_training(config) | {"settings_sha256": _bound(config)}


def describe_classifier(found: Result) -> Result:
  """A classifier's scores; `views` are numbers in every result."""
  told = {("averaging" if k == "views" else k): v for k, v in found.items()}
  told["read"] = {"eval": found["videos"]}
  return told | {"feature_layer": "global average pooling, a classifier on each view"}
