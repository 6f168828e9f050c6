"""Writes the features of a whole split, for every view, to one `.npz` file."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import models
from vssl_jax import results as results_lib
from vssl_jax._version import __version__
from vssl_jax.encoder import exported
from vssl_jax.probes import features, views

Found = tuple[np.ndarray, Mapping[str, np.ndarray]]  # outputs of a batch, and its rows


def export_features(
  config: ConfigDict,
  variables: Mapping[str, Any],
  source: Source,
  file: str | pathlib.Path,
  *,
  split: str,
  info: Mapping[str, Any] | None = None,
  found: Iterable[Found] | None = None,
) -> features.Features:
  """Writes the features of every view of a split to an `.npz` file (see `features.save`).

  Args:
    config: the fields `encoder`, `augment` and `data.eval` are read.
    variables: the encoder's variables.
    source: the split's videos.
    file: path of the `.npz` file.
    split: the split's name, stored in the file.
    info: facts about the checkpoint.
    found: the outputs, if they are known (see `features.forward`); otherwise they are computed.

  Returns:
    The features that were written.
  """
  facts = {
    "split": split,
    "layer": "global average pooling",
    "bn_mode": views.BN_MODE,
    "config_sha256": results_lib.config_hash(config),
    "encoder_sha256": results_lib.tree_hash(variables),
    "checkpoint": exported.origin(info),
    "vssl_jax": __version__,
    "views": views.protocol(config, source, source)["views"],
  }
  made = features.collect(
    outputs(config, variables, source) if found is None else found,
    names=source.video_names,
    label_names=source.label_names,
    info=results_lib.plain(facts),
    progress="" if found else f"features, {split} split",
    total=source.num_videos,
  )
  if jax.process_index() == 0:
    features.save(file, made)
  return made


def outputs(config: ConfigDict, variables: Mapping[str, Any], source: Source) -> Iterator[Found]:
  """What `features.forward` yields for every view of a source."""
  apply = views.feature_fn(models.build_encoder(config.encoder), config)
  return features.forward(apply, variables, views.eval_batches(source, config))
