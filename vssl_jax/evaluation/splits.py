"""The two splits that probes read, and what they lack."""

from __future__ import annotations

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.probes.views import Cached
from vssl_jax.training import sources


def splits(config: ConfigDict) -> list[Cached]:
  """The training and the evaluation split, whole, for reading in order."""
  config = whole(config)
  names = (config.data.train_split, config.data.eval_split)
  return [Cached(sources.load_source(config, x, batch_size=jax.process_count())) for x in names]


def whole(config: ConfigDict) -> ConfigDict:
  """Labels serve the probes alone: a fraction of the videos to learn from takes none of them."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data.fraction = 1.0
  return config


def missing(config: ConfigDict, mesh: Mesh) -> str:
  """What the probes lack, before any training: one line, or "" where they can run.

  Raises:
    UserError: a field of the probes is impossible.
  """
  try:
    found = splits(config)
  except UserError as e:
    return str(e)
  names = found[0].label_names
  if len(names) < 2:
    return f"the data has {'labels of one class alone' if names else 'no labels'}"
  if found[0].num_videos < mesh.size:
    return f"{found[0].num_videos} training videos are fewer than the {mesh.size} devices"
  if config.probe.linear and config.probe.batch_size < mesh.size:
    raise UserError(
      f"config.probe.batch_size is {config.probe.batch_size}: give at least one video a device "
      f"({mesh.size})."
    )
  return ""
