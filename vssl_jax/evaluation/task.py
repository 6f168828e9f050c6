"""The input of every protocol (an encoder and a pair of splits), and the `Protocol` type."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines import source as source_lib
from vssl_jax import models, parallel, results
from vssl_jax.evaluation import options as options_lib
from vssl_jax.methods.base import Variables
from vssl_jax.probes import feature_cache, features, too_few_videos
from vssl_jax.probes import views as views_lib
from vssl_jax.training import optim, run_config

Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
  """One encoder on one pair of splits.

  Attributes:
    config: the checkpoint's config with the options applied.
    options: see `options.Options`.
    variables: variables of the encoder that `config.encoder` describes.
    train: the training split.
    test: the evaluation split.
    folder: folder for results, pictures and training runs of this pair; None for no pictures.
    features_folder: folder of the feature cache; with None, features are only kept in memory.
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
    """`folder`, for a task that has one."""
    assert self.folder is not None
    return self.folder

  @property
  def label_names(self) -> tuple[str, ...]:
    """Names of the classes."""
    return tuple(self.test.label_names)

  @functools.cached_property
  def encoder_sha256(self) -> str:
    """The hash of the encoder's variables as they were loaded."""
    return results.tree_hash(self.variables)

  @functools.cached_property
  def bank(self) -> features.Features:
    """Features of the training split."""
    return self.extract(self.train, self.config.data.train_split)

  @functools.cached_property
  def queries(self) -> features.Features:
    """Features of the evaluation split."""
    return self.extract(self.test, self.config.data.eval_split)

  @property
  def read(self) -> dict[str, int]:
    """The number of videos of each split that could be read."""
    return {"train": len(self.bank.label), "eval": len(self.queries.label)}

  @property
  def labeled(self) -> dict[str, int]:
    """The number of videos read from each split that have a label."""
    labels = {"train": self.bank.label, "eval": self.queries.label}
    return {split: int(np.sum(label >= 0)) for split, label in labels.items()}

  @functools.cached_property
  def given(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features averaged over views, and labels: `[V, F]`, `[V]`, `[U, F]`, `[U]`."""
    return self.bank.mean(), self.bank.label, self.queries.mean(), self.queries.label

  def extract(self, source: source_lib.Source, split: str) -> features.Features:
    """Features of any source's videos, averaged over views; kept in the cache if there is one.

    Args:
      source: the videos, with the classes of the task.
      split: a name for messages and in the cache.

    Raises:
      UserError: no video can be read, features are not finite, or a label is out of range.
    """
    progress = self.progress and f"{self.progress}, {split}"
    if self.features_folder is not None:
      found = feature_cache.extract(
        self.features_folder,
        self.config,
        self.variables,
        source,
        split,
        mesh=self.mesh,
        progress=progress,
      )
    else:
      encoder = models.build_encoder(self.config.encoder)
      found = features.extract(
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
    # Sources of users may give any number, which would end in an IndexError hours later.
    source_lib.check_labels(found.label, len(found.label), self.label_names, f"split {split!r}")
    return found

  def facts(self) -> dict[str, Any]:
    """Facts in every result: data, views, network, encoder's hash, feature layer, BN mode."""
    facts = views_lib.protocol(self.config, self.train, self.test)
    for split, source in (("train", self.train), ("eval", self.test)):
      facts["data"][split]["fingerprint"] = source.fingerprint
    names = feature_cache.names_hash(self.train.label_names, self.test.label_names)
    facts["data"]["label_names_sha256"] = names
    return facts | {
      "encoder_sha256": self.encoder_sha256,
      "encoder": json.loads(self.config.encoder.to_json()),
      "normalization": {"mean": self.config.augment.mean, "std": self.config.augment.std},
      "feature_layer": "global average pooling, mean over views",
      "bn_mode": views_lib.BN_MODE,
    }


def check_labels(task: Task) -> None:
  """Checks that each split has a labeled video.

  The labels come from extracted features if there are any; otherwise single batches are read until
  a label is found, by each process in its own rows.

  Raises:
    too_few_videos.TooFewVideos: a split has no labeled video.
  """
  e = task.config.data.eval
  for name, source, known in (
    ("training", task.train, vars(task).get("bank")),
    ("evaluation", task.test, vars(task).get("queries")),
  ):
    label = known.label if known else np.empty(0, int)
    if not known:
      views = {k: e[k] for k in views_lib.VIEWS} | {"clips": 1, "crops": 1}
      size = parallel.for_all(e.batch_size)
      with contextlib.closing(source.eval_batches(size, **views)) as batches:
        for batch in batches:
          label = np.asarray(batch["label"])
          label = label[np.asarray(batch.get("valid", np.ones(len(label), bool)))]
          if (label >= 0).any():
            break
      if jax.process_count() > 1:
        label = multihost_utils.process_allgather(np.max(label, initial=-1))
    too_few_videos.require_labels(label, name, "probes")


def _any_data(task: Task) -> None:
  """Checks nothing, for protocols that can run on any data."""
  del task


@dataclasses.dataclass(frozen=True)
class Protocol:
  """A protocol: `describe` returns its settings without training, `run` returns its scores.

  Attributes:
    words: a description, printed below the table.
    describe: see `protocols`.
    run: see `protocols`.
    frozen: whether the encoder stays unchanged.
    check: raises `too_few_videos.TooFewVideos` if the data is not sufficient; trains nothing.
  """

  words: str
  describe: Callable[[Task], Result]
  run: Callable[[Task], Result]
  frozen: bool = True
  check: Callable[[Task], None] = _any_data


def headline(task: Task, top1: float, top5: float) -> dict[str, float]:
  """The figures of the table; top-5 is left out with 10 classes or fewer, where it says little."""
  return {"top-1": top1} | ({"top-5": top5} if len(task.label_names) > 10 else {})


def _bound(config: ConfigDict) -> str:
  """One hash over all config fields that decide the numbers of a training run."""
  text = json.dumps(run_config.bound(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def training(config: ConfigDict) -> Result:
  """Facts about a training run for a result; raises `UserError` if the optimizer is impossible."""
  optim.build(config.optim, jnp.asarray)
  return options_lib.describe_training(config) | {"settings_sha256": _bound(config)}


def describe_classifier(found: Result) -> Result:
  """A classifier's scores as a result; its text `views` becomes `averaging`.

  In every result, `views` is a dict of numbers.
  """
  scores = {("averaging" if k == "views" else k): v for k, v in found.items()}
  scores["read"] = {"eval": found["videos"]}
  return scores | {"feature_layer": "global average pooling, a classifier on each view"}
