"""Loads the data source that a config names, for this process."""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from data_pipelines import source
from data_pipelines.source import Source


def load_source(config: ConfigDict, split: str, *, batch_size: int | None = None) -> Source:
  """The source of one split; each process reads its own share of every batch.

  Args:
    config: the fields `data`, `batch_size` and `seed` are read.
    split: the split's name.
    batch_size: videos per global batch; None takes `config.batch_size`.
  """
  return source.load(
    config.data,
    split=split,
    batch_size=batch_size or config.batch_size,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
