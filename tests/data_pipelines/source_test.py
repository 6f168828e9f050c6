import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import optional, source
from tests.data_pipelines import tiny
from vssl_jax.errors import UserError

NO_TENSORFLOW = """
import sys
class Block:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets"):
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from data_pipelines import source
from vssl_jax import config
from vssl_jax.errors import UserError
data = config.data()
data.source, data.size, data.frames = "synthetic", 8, 2
next(source.load(data, split="train", batch_size=2, seed=0).train_batches())
import data_pipelines.sources.features
data.source = "tfrecord"
try:
  source.load(data, split="train", batch_size=2, seed=0)
except UserError as e:
  print(e)
"""


def test_numpy_sources_work_where_tensorflow_is_missing_and_others_say_so():
  done = subprocess.run(
    [sys.executable, "-c", NO_TENSORFLOW], capture_output=True, text=True, timeout=180
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.count("\n") == 1
  assert f"needs tensorflow, which is not installed: {optional.install('data')}" in done.stdout
  assert "synthetic" in done.stdout


def test_every_named_module_exists():
  import importlib.util

  for module in source._MODULES.values():
    assert importlib.util.find_spec(module)


def test_unknown_source_lists_the_known():
  with pytest.raises(UserError, match=r"'hdf5'.*tfrecord.*features"):
    source.load(tiny.data(source="hdf5"), split="train", batch_size=2, seed=0)


class TestSubset:
  def test_share_of_the_training_split_by_seed(self):
    data = tiny.data(fraction=0.25)
    first, same, other = (
      source.subset(40, data=data, split="train", seed=s).tolist() for s in (0, 0, 1)
    )
    assert first == same == sorted(set(first))
    assert len(first) == 10
    assert first != other

  def test_other_splits_stay_whole(self):
    data = tiny.data(fraction=0.25)
    assert source.subset(40, data=data, split="test", seed=0).tolist() == list(range(40))

  def test_at_least_one(self):
    assert len(source.subset(5, data=tiny.data(fraction=0.01), split="train", seed=0)) == 1

  @pytest.mark.parametrize("fraction", [0.0, -0.5, 1.1])
  def test_out_of_range(self, fraction):
    with pytest.raises(UserError, match="fraction"):
      source.subset(5, data=tiny.data(fraction=fraction), split="train", seed=0)


def test_rows_of_all_processes_make_the_batch():
  rows = [r for p in range(4) for r in source.local_rows(12, p, 4)]
  assert rows == list(range(12))
  with pytest.raises(UserError, match="do not divide among 5"):
    source.local_rows(12, 0, 5)


def test_steps_per_epoch():
  assert source.steps_per_epoch(10, 4, split="train") == 2
  for size in (0, 11):
    with pytest.raises(UserError, match="batch_size"):
      source.steps_per_epoch(10, size, split="train")


def test_generators_are_independent_by_every_part_of_the_key():
  keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
  draws = [source.generator(*k).random(4) for k in keys]
  assert len({d.tobytes() for d in draws}) == len(keys)
  np.testing.assert_array_equal(source.generator(*keys[1]).random(4), draws[1])


def test_decoded_videos_are_kept_in_rgb_alone(tmp_path):
  data = tiny.data(tmp_path, cache="host", channels=1)
  with pytest.raises(UserError, match=r"config\.data\.channels is 1; decoded videos"):
    source.load(data, split="train", batch_size=2, seed=0)
