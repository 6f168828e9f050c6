"""Monitors a network during training, with held-out videos of the training split.

It never reads the evaluation split: a checkpoint must not be chosen on the videos that it is
scored on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from data_pipelines.untrimmed.sequences import held_out
from vssl_jax.errors import UserError
from vssl_jax.evaluation import protocols, splits
from vssl_jax.evaluation.options import Options
from vssl_jax.evaluation.task import Task
from vssl_jax.methods.base import Evaluator, Method
from vssl_jax.probes.too_few_videos import TooFewVideos
from vssl_jax.probes.views import Cached
from vssl_jax.training import sources

Monitor = Callable[[Any], dict[str, float]]


def build(config: ConfigDict, method: Method, evaluator: Evaluator, mesh: Mesh) -> Monitor | None:
  """The monitor that a run's config asks for, or None.

  It is a nearest-neighbor probe. For a method without an encoder it is the method's own
  validation on the videos held out by `config.data.localization.validation`.
  """
  count = jax.process_count()
  if method.encoder is None:
    validate, split = evaluator.validate, held_out_videos(config)
    if validate is None or split is None:
      return None
    return lambda params: validate(params, split)
  if config.knn.every_epochs <= 0:
    return None
  train = sources.load_source(config, config.data.train_split, batch_size=count)
  return neighbors(config, train, mesh=mesh)


def held_out_videos(config: ConfigDict) -> Source | None:
  """The untrimmed videos that are held out, to choose a checkpoint and thresholds; None if none."""
  fields = config.data.localization
  if not fields.validation and not fields.validation_videos:
    return None
  return sources.load_source(config, held_out(config.data), batch_size=jax.process_count())


def neighbors(config: ConfigDict, train: Source, *, mesh: Mesh) -> Monitor:
  """A monitor that runs the protocol `knn` within the training split, as `knn_top1`.

  A fraction `config.knn.held_out` of the videos is held out, chosen by seed and by whole
  recordings. The held-out videos are the queries, the others the bank. Views are as in
  `config.data.eval`, but with `config.knn.clips` evenly spaced clips and only the center crop.

  Args:
    config: the fields `knn`, `encoder`, `augment`, `data.eval` and `seed` are read.
    train: the training split.
    mesh: all devices.

  Returns:
    A function of the encoder's variables that returns `{"knn_top1": fraction in [0, 1]}`.

  Raises:
    UserError: the data has no labels, none among the held-out videos or the others, or a field of
      `config.knn` is out of range.
  """
  c = config.knn
  if not train.label_names:
    raise UserError(
      "config.knn.every_epochs is positive but the data has no labels: set it to 0, or give "
      "labeled videos."
    )
  if c.clips < 1 or c.k < 1 or not c.temperature > 0 or not 0 < c.held_out < 1:
    raise UserError(
      f"config.knn: clips ({c.clips}), k ({c.k}) and temperature ({c.temperature}) must be "
      f"positive, and held_out ({c.held_out}) must lie between 0 and 1."
    )
  rest, held = splits.hold_out(train, c.held_out, config.seed)
  bank, queries = Cached(train.only(rest)), Cached(train.only(held))
  seen = config.copy_and_resolve_references().unlock()
  seen.data.eval.clips, seen.data.eval.crops = c.clips, 1
  seen.data.eval.placement = "ends"  # a single clip comes from the middle

  def task(variables: Any) -> Task:
    return Task(seen, Options(), variables, bank, queries, None, None, mesh, progress="")

  try:
    protocols.PROTOCOLS["knn"].check(task({}))
  except TooFewVideos as e:
    raise UserError(
      "config.knn.every_epochs is positive, but among the training videos that config.knn.held_out "
      "holds out, or among the others, none has a label: set it to 0, or label more videos."
    ) from e
  return lambda variables: {"knn_top1": protocols.run("knn", task(variables))["top1"]}
