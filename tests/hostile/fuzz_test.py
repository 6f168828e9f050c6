"""Every reader, on thousands of damaged files: it reads them, or refuses them in one line.

No reading may end in another exception, hang, or end the process. The same seed gives the same
damage, so that a failure is found again by its number.
"""

import numpy as np
import pytest

from tests.hostile import fuzz, mutate, readers
from vssl_jax.errors import UserError

FEW, MANY = 8, 860  # tries of a reader of weight 1


def _tries(name, count):
  return max(4, round(count * readers.READERS[name].weight))


def test_there_are_enough_tries():
  assert sum(_tries(name, MANY) for name in readers.READERS) >= 20_000


@pytest.mark.parametrize("name", readers.READERS)
def test_a_few_damaged_files(tmp_path, name, capsys):
  faults, _ = fuzz.fuzz(tmp_path, name, _tries(name, FEW))
  assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize("name", readers.READERS)
def test_many_damaged_files(tmp_path, name, capsys):
  faults, _ = fuzz.fuzz(tmp_path, name, _tries(name, MANY))
  assert not faults, "\n".join(faults)


@pytest.mark.parametrize("text", [True, False])
def test_the_same_seed_damages_alike_and_hardly_ever_not_at_all(text):
  data = b'{"a": [1, 2.5, "three"], "b": {"c": null}}\n' * 4

  def damaged(seed):
    return mutate.mutate(data, np.random.default_rng(seed), text=text)

  found = [damaged(seed) for seed in range(400)]
  assert found == [damaged(seed) for seed in range(400)]
  assert np.mean([x != data for x in found]) > 0.9
  assert len(set(found)) > 300


@pytest.mark.parametrize(
  ("error", "message"),
  [
    (KeyError("x"), "KeyError"),
    (MemoryError(), "MemoryError"),
    (UserError("two\nlines"), "more than one line"),
    (fuzz.Hang(), "Hang"),
  ],
)
def test_a_fault_is_found(tmp_path, monkeypatch, error, message):
  def read(folder):
    if (folder / "x").read_bytes() != b"good":
      raise error

  def make(folder):
    (folder / "x").write_bytes(b"good")
    return folder / "x"

  monkeypatch.setitem(readers.READERS, "bad", readers.Reader(make, read, False))
  faults, _ = fuzz.fuzz(tmp_path, "bad", 5)
  assert len(faults) >= 3
  assert all(message in fault for fault in faults)
