"""Texts that would fill the memory are refused, or passed over, before they are read."""

import os
import tracemalloc

import pytest

from data_pipelines.listing import csv_table, given, split_lists
from data_pipelines.untrimmed import stitched
from tests.hostile import readers
from vssl_jax.errors import UserError

LARGE = 2 << 30  # bytes of a sparse file
PASSED_OVER = ("job", "shard result")  # they are made anew
TEXTS = [name for name, r in readers.READERS.items() if r.text and name != "metrics"]


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_of_two_gibibytes(tmp_path, name):
  reader = readers.READERS[name]
  os.truncate(reader.make(tmp_path), LARGE)
  tracemalloc.start()
  try:
    if name in PASSED_OVER:
      reader.read(tmp_path)
    else:
      with pytest.raises(UserError, match="more than 1024 MiB") as error:
        reader.read(tmp_path)
      assert "\n" not in str(error.value)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
  finally:
    tracemalloc.stop()


def _one_line(path, begin=""):
  path.write_text(begin + "a" * (64 << 20))
  return path


@pytest.mark.parametrize(
  ("name", "begin", "read"),
  [
    ("videos.csv", "path,label\n", lambda path: csv_table.read(path, ("path",))),
    ("train.txt", "a.mp4\n", lambda path: given.from_text([path])),
    ("classInd.txt", "1 a\n", lambda path: split_lists._read([path])),
    ("trainlist01.txt", "a/b.avi 1\n", lambda path: split_lists._read([path])),
    ("run_test_split1.txt", "b.avi 1\n", lambda path: split_lists._read([path])),
    ("names.txt", "1 run\n", lambda path: stitched._names(str(path), {1: "1"})),
  ],
)
def test_a_line_of_many_megabytes(tmp_path, name, begin, read):
  path = _one_line(tmp_path / name, begin)
  tracemalloc.start()
  with pytest.raises(UserError, match=rf"{name}, line 2: more than 1 MiB without a line break"):
    read(path)
  assert tracemalloc.get_traced_memory()[1] < 16 << 20
  tracemalloc.stop()


@pytest.mark.parametrize(
  ("name", "begin", "read"),
  [
    ("videos.csv", "path,label\n", lambda path: csv_table.read(path, ("path",)).rows),
    ("train.txt", "a.mp4\n", lambda path: given.from_text([path]).entries[1:]),
    ("trainlist01.txt", "a/b.avi 1\n", lambda path: [*split_lists._read([path]).splits][1:]),
  ],
)
def test_empty_lines_take_no_memory(tmp_path, name, begin, read):
  (tmp_path / name).write_text(begin + "\n" * (1 << 15))
  tracemalloc.start()
  assert not read(tmp_path / name)
  assert tracemalloc.get_traced_memory()[1] < 1 << 20
  tracemalloc.stop()
