"""Loads the data source that a config names, for this process."""

from __future__ import annotations

import itertools
from collections.abc import Generator

import jax
from ml_collections import ConfigDict

from data_pipelines import source
from data_pipelines.source import Batch, Source
from vssl_jax.errors import UserError


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


def train_batches(of: Source, start: int, *, echo: int = 1) -> Generator[Batch]:
  """The training batches from one step on, each for `echo` steps in a row.

  This is data echoing after decoding (Choi et al., "Faster Neural Network Training with Data
  Echoing", 2019): what follows on the device, such as color and blur, is drawn anew at each step.
  Step k uses the batch that step k // echo of a run without echo uses.

  Args:
    of: the source.
    start: number of the first step, from 0.
    echo: steps per batch, at least 1.

  Raises:
    UserError: echo is less than 1.
  """
  if echo < 1:
    raise UserError(f"config.data.echo is {echo}: give 1 or more.")
  batches = of.train_batches(start // echo)
  try:
    for batch in itertools.islice(batches, 1):
      yield from itertools.repeat(batch, echo - start % echo)
    for batch in batches:
      yield from itertools.repeat(batch, echo)
  finally:
    if isinstance(batches, Generator):
      batches.close()  # at the end of the process, threads that still read would wait for ever
