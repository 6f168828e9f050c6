"""Echoed batches: each is used in several steps, whatever step a run begins at."""

import contextlib
import itertools
import types

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from data_pipelines import source
from tests import small
from vssl_jax import methods, parallel
from vssl_jax.errors import UserError
from vssl_jax.training import loop, metrics_log, sources


class Numbers:
  """Batch k is k; says whether it was closed."""

  closed = False

  def train_batches(self, start=0):
    try:
      yield from itertools.count(start)
    finally:
      self.closed = True


@pytest.mark.parametrize("echo", [1, 2, 3])
@pytest.mark.parametrize("start", range(7))
def test_step_k_uses_batch_k_over_echo(echo, start):
  found = itertools.islice(sources.train_batches(Numbers(), start, echo=echo), 8)
  assert [*found] == [k // echo for k in range(start, start + 8)]


def test_the_source_is_closed():
  numbers = Numbers()
  batches = sources.train_batches(numbers, 0, echo=2)
  next(batches)
  assert not numbers.closed
  batches.close()
  assert numbers.closed


def test_less_than_one_is_refused():
  with pytest.raises(UserError, match=r"config.data.echo is 0: give 1 or more"):
    next(sources.train_batches(Numbers(), 0, echo=0))


class Counted:
  """Counts the batches that a source gives."""

  def __init__(self, source):
    self.source, self.count = source, 0

  def __getattr__(self, name):
    return getattr(self.source, name)

  def train_batches(self, start=0):
    for batch in self.source.train_batches(start):
      self.count += 1
      yield batch


def _train(folder, **values):
  config = small.shrink(
    small.load("cvrl.py", "demo"), **{"log_every": 1, "save.every": 1, **values}
  )
  source = Counted(sources.load_source(config, config.data.train_split))
  config = methods.resolve(config, source)
  mesh = parallel.make_mesh(jax.devices()[:1])
  method = methods.build(config, mesh)
  result = loop.train(config, folder, source, method, mesh, tensorboard=False)
  return result, [row["loss"] for row in metrics_log.read(folder)], source.count


@pytest.mark.slow
def test_an_echoed_batch_is_augmented_anew_and_a_run_goes_on_in_its_middle(tmp_path):
  values = {"data.echo": 2, "steps": 4, "save.keep": 4}
  whole, losses, count = _train(tmp_path / "whole", **values)
  assert count == 2
  assert len(set(losses)) == 4
  once = _train(tmp_path / "once", steps=4)
  assert once[1][0] == losses[0]
  assert once[2] == 4
  for step in (4, 3, 2):  # as if killed after step 1 was saved
    path = tmp_path / "whole" / "checkpoints" / str(step)
    if path.exists():
      path.rename(tmp_path / f"gone-{step}")
  again, repeated, _ = _train(tmp_path / "whole", **values)
  assert repeated == losses
  jax.tree.map(
    np.testing.assert_array_equal, jax.device_get(again.state), jax.device_get(whole.state)
  )


@pytest.mark.parametrize(
  ("other", "message"),
  [
    ((5, "a"), ""),
    ((4, "a"), r"path=V, split 'test': process 1 finds 4 videos and process 0 5: give all"),
    ((5, "b"), r"process 1 finds 5 videos and process 0 5, which are others: give all"),
  ],
)
def test_processes_must_find_the_same_videos(monkeypatch, other, message):
  told = []

  def gather(x):
    told.append(x)
    return np.stack(told)

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(multihost_utils, "process_allgather", gather)
  config = ConfigDict({"data": {"path": "V"}, "batch_size": 2, "seed": 0})
  refused = pytest.raises(UserError, match=message) if message else contextlib.nullcontext()
  for (videos, fingerprint), expected in (((5, "a"), contextlib.nullcontext()), (other, refused)):
    found = types.SimpleNamespace(num_videos=videos, fingerprint=fingerprint)
    monkeypatch.setattr(source, "load", lambda *_, found=found, **__: found)
    with expected:
      assert sources.load_source(config, "test") is found
