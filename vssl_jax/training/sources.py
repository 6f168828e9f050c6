"""The data that a config names, as this process reads it."""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from data_pipelines import source
from data_pipelines.source import Source


def load_source(config: ConfigDict, split: str, *, batch_size: int | None = None) -> Source:
  """A split's source, of which this process reads its share of each batch.

  Args:
    config: `data`, `batch_size` and `seed` are read.
    split: the split's name.
    batch_size: videos a global batch, by default the config's.
  """
  return source.load(
    config.data,
    split=split,
    batch_size=batch_size or config.batch_size,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
