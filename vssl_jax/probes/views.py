"""Shared by all probes: the views of a split's videos, and the frozen encoder as a function."""

from __future__ import annotations

import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.source import Batch, Batches, Source, Wrapped
from vssl_jax import augment, files, parallel, results
from vssl_jax.probes import features

VIEWS = ("clips", "crops", "frames", "stride", "resize", "size")  # fields of config.data.eval
BN_MODE = "inference: stored statistics, unchanged by the probe"


class Cached(Wrapped):
  """A source that keeps its last evaluation pass in memory if the pass fits.

  Several encoders and baselines read the same clips; a small split is then decoded only once.
  """

  def __init__(self, source: Source, limit_bytes: int = 1 << 29):
    super().__init__(source)
    self._limit = limit_bytes
    self._kept: tuple[Any, list[Batch]] | None = None

  def eval_batches(self, *args: Any, **kwargs: Any) -> Batches:
    """The batches of the wrapped source, from memory if the last pass had the same arguments."""
    key = (args, tuple(sorted(kwargs.items())))
    if self._kept is not None and self._kept[0] == key:
      yield from self._kept[1]
      return
    kept: list[Batch] = []
    room = self._limit
    for batch in self._source.eval_batches(*args, **kwargs):
      room -= sum(np.asarray(x).nbytes for x in batch.values())
      if room >= 0:
        kept.append(batch)
      else:
        kept.clear()
      yield batch
    if room >= 0:
      self._kept = (key, kept)


def settings(config: ConfigDict) -> dict[str, Any]:
  """The test views that a config describes, as arguments of `Source.eval_batches`.

  Fields that came later are left out at their defaults: sources of users may not know them, and
  the hashes of stored features stay the same.
  """
  found = {k: config.data.eval[k] for k in VIEWS}
  if config.data.eval.placement != "ends":
    found["placement"] = config.data.eval.placement
  if config.data.target_fps:
    found["target_fps"] = config.data.target_fps
  return found


def eval_batches(source: Source, config: ConfigDict) -> Batches:
  """The views that `config.data.eval` describes, of this process's share of a source's videos."""
  size = parallel.for_all(config.data.eval.batch_size)
  return source.eval_batches(size, **settings(config))


def prepared(config: ConfigDict) -> str:
  """The source of `--data`: arrays for a checkpoint that was trained on them, else records."""
  return "arrays" if config.data.source == "arrays" else "tfrecord"


def feature_fn(encoder: nn.Module, config: ConfigDict) -> features.Apply:
  """`(variables, clips uint8 [B, T, H, W, C]) -> features float32 [B, F]`, batch norm frozen."""
  preprocess = augment.eval_preprocess(config.augment, config.data.channels)

  def apply(variables: features.Variables, clips: jax.Array) -> jax.Array:
    found: Any = encoder.apply(variables, preprocess(clips), train=False)
    return found

  return apply


def protocol(config: ConfigDict, source_train: Source, source_eval: Source) -> dict[str, Any]:
  """The facts about data, views, network and config that every result line contains."""
  d = config.data

  return {
    "data": {
      "source": d.source,
      "name": d.name or pathlib.PurePath(d.path).name,
      "manifest_sha256": _manifest_hash(d),
      "classes": len(source_eval.label_names),
      "train": {"name": d.train_split, "videos": source_train.num_videos},
      "eval": {"name": d.eval_split, "videos": source_eval.num_videos},
    },
    "views": settings(config),
    "encoder": {k: config.encoder[k] for k in ("name", "depth", "width", "dtype", "temporal")},
    "seed": config.seed,
    "config_sha256": results.config_hash(config),
  }


def _manifest_hash(d: ConfigDict) -> str | None:
  """SHA-256 of the manifest of `config.data`, or None if there is none."""
  manifest = files.path(d.path) / "manifest.json" if d.path else None
  return results.file_hash(manifest) if manifest is not None and manifest.is_file() else None
