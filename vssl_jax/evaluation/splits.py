"""Opens the two splits that probes read; says if probes cannot run on them, or lack a class."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines import source as source_lib
from data_pipelines.listing.finding import few
from data_pipelines.source import Source
from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.evaluation.task import Task
from vssl_jax.probes import features, logistic
from vssl_jax.probes.views import Cached
from vssl_jax.training import sources


def splits(config: ConfigDict) -> list[Cached]:
  """The complete training and evaluation splits, read in order."""
  config = whole(config)
  names = (config.data.train_split, config.data.eval_split)
  return [Cached(sources.load_source(config, x, batch_size=jax.process_count())) for x in names]


def whole(config: ConfigDict) -> ConfigDict:
  """The config with `data.fraction` 1: probes use all videos, even if pre-training used fewer."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data.fraction = 1.0
  return config


def missing(config: ConfigDict, mesh: Mesh) -> str:
  """The reason why no probe can run on the data at hand, in one line, or "" if one can."""
  try:
    found = splits(config)
  except UserError as e:
    return str(e).removesuffix(".")
  names = found[0].label_names
  if len(names) < 2:
    return f"the data has {'labels of only one class' if names else 'no labels'}"
  if found[0].num_videos < mesh.size:
    return f"{found[0].num_videos} training videos are fewer than the {mesh.size} devices"
  return ""


def unseen(task: Task) -> list[str]:
  """A note on classes that only the evaluation split has: no classifier can learn them.

  Args:
    task: its features are used if they are there, else what its sources know without reading.

  Returns:
    One sentence, or none; also none if the classes of a split are not known yet.
  """
  d, names = task.config.data, task.label_names
  learned = _classes(task.train, vars(task).get("bank"))
  tested = _classes(task.test, vars(task).get("queries"))
  if learned is None or tested is None or not (lost := sorted(tested - learned)):
    return []
  shown = few([files.printable(names[c]) if c < len(names) else str(c) for c in lost])
  what = "1 class" if len(lost) == 1 else f"{len(lost)} classes"
  return [
    f"{what} of evaluation split {d.eval_split!r} without any video in training split "
    f"{d.train_split!r}: {shown}; classifiers of training videos get all of these videos wrong"
  ]


def _classes(source: Source, found: features.Features | None) -> frozenset[int] | None:
  if found is None:
    return source_lib.occurring(source)
  return frozenset(found.label[found.label >= 0].tolist())


def hold_out(source: Source, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Splits the videos into two parts at random; each recording is in one part only.

  Args:
    source: the split; recordings are derived from its names, see `logistic.recordings`.
    share: the smallest fraction of the videos in the second part.
    seed: seed of the choice.

  Returns:
    The indices of the videos of both parts, ascending.

  Raises:
    UserError: a part would be empty.
  """
  names = source.video_names
  groups = np.asarray(logistic.recordings(names) or np.arange(source.num_videos))
  order = np.random.default_rng([seed, 0x5EED]).permutation(np.unique(groups))
  held = np.zeros(source.num_videos, bool)
  for group in order:
    if held.sum() >= share * source.num_videos:
      break
    held |= groups == group
  if held.all() or not held.any():
    raise UserError(
      f"config.knn.held_out is {share}: with {source.num_videos} training videos of {len(order)} "
      "recordings one part would be empty; choose a value nearer to 0.2, or give more videos."
    )
  return np.flatnonzero(~held), np.flatnonzero(held)
