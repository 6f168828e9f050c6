"""Loads the data source that a config names, for this process."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Generator

import jax
import numpy as np
from jax.experimental import multihost_utils
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

  Raises:
    UserError: see `source.load`; or the processes do not find the same videos.
  """
  found = source.load(
    config.data,
    split=split,
    batch_size=batch_size or config.batch_size,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  if jax.process_count() > 1:
    _check_same(found, f"config.data.path={config.data.path}, split {split!r}")
  return found


def _check_same(found: Source, where: str) -> None:
  """Stops if another process has other videos, so that their shares make up no batch."""
  digest = np.frombuffer(hashlib.sha256(found.fingerprint.encode()).digest(), np.int32)
  told = multihost_utils.process_allgather(np.array([found.num_videos, *digest], np.int32))
  if other := np.flatnonzero((told != told[0]).any(axis=-1)).tolist():
    n, first = int(told[other[0], 0]), int(told[0, 0])
    raise UserError(
      f"{where}: process {other[0]} finds {n} videos and process 0 {first}"
      f"{', which are others' if n == first else ''}: give all processes the same files, of which "
      "each can read the same."
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
