"""The record offset index: built by a scan, kept, and never trusted when stale."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.records import index, tfrecord
from vssl_jax.errors import UserError


def write(path, payloads):
  with tfrecord.ShardWriter(path) as writer:
    for payload in payloads:
      writer.write(payload)


def everything(found):
  return [index.read_record(found, i) for i in range(len(found))]


@settings(
  max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.binary(max_size=300), max_size=5), min_size=1, max_size=4))
def test_finds_every_record_of_every_shard_in_order(tmp_path, shards):
  files = [tmp_path / f"train-{i:05d}-of-{len(shards):05d}" for i in range(len(shards))]
  for file, payloads in zip(files, shards, strict=True):
    write(file, payloads)
  found = index.build(files)
  assert everything(found) == [payload for payloads in shards for payload in payloads]
  assert found.shard().tolist() == [i for i, payloads in enumerate(shards) for _ in payloads]
  assert found.length().tolist() == [len(p) for payloads in shards for p in payloads]
  assert [found.shard_of(i) for i in range(len(found))] == found.shard().tolist()
  assert found.shard().dtype == np.int32
  assert found.offset.dtype == found.length().dtype == np.int64
  index.write(found, tmp_path / "x.npz")
  again = index.read(tmp_path / "x.npz", files)
  assert everything(again) == everything(found)
  assert again.files == found.files


def test_load_writes_the_index_once_and_uses_it(tmp_path, monkeypatch):
  write(tmp_path / "train-00000-of-00001.tfrecord", [b"a", b"bc"])
  assert everything(index.load(tmp_path, "train")) == [b"a", b"bc"]
  assert (tmp_path / "train.index.npz").exists()
  monkeypatch.setattr(index, "build", lambda files: pytest.fail("scanned again"))
  assert everything(index.load(tmp_path, "train")) == [b"a", b"bc"]


def test_the_folder_may_move(tmp_path, monkeypatch):
  (tmp_path / "old").mkdir()
  write(tmp_path / "old" / "train-00000-of-00001.tfrecord", [b"a"])
  index.load(tmp_path / "old", "train")
  os.rename(tmp_path / "old", tmp_path / "new")
  monkeypatch.setattr(index, "build", lambda files: pytest.fail("scanned again"))
  assert everything(index.load(tmp_path / "new", "train")) == [b"a"]


def test_a_stale_index_is_rebuilt(tmp_path):
  path = tmp_path / "train-00000-of-00001.tfrecord"
  write(path, [b"a"])
  index.load(tmp_path, "train")
  write(path, [b"longer", b"and more"])
  assert everything(index.load(tmp_path, "train")) == [b"longer", b"and more"]
  os.rename(path, tmp_path / "train-00000-of-00002.tfrecord")
  write(tmp_path / "train-00001-of-00002.tfrecord", [b"z"])
  assert everything(index.load(tmp_path, "train")) == [b"longer", b"and more", b"z"]


def test_an_index_of_files_of_other_names_is_rebuilt(tmp_path):
  write(tmp_path / "train_a.tfrecord", [b"1"])
  write(tmp_path / "train_b.tfrecord", [b"2"])
  assert everything(index.load(tmp_path, "train")) == [b"1", b"2"]
  os.rename(tmp_path / "train_a.tfrecord", tmp_path / "train_c.tfrecord")  # all sizes as before
  found = index.load(tmp_path, "train")
  assert everything(found) == [b"2", b"1"]
  assert everything(index.load(tmp_path, "train")) == [b"2", b"1"]


def test_a_damaged_index_is_rebuilt(tmp_path):
  write(tmp_path / "train-00000-of-00001.tfrecord", [b"a"])
  index.load(tmp_path, "train")
  path = tmp_path / "train.index.npz"
  path.write_bytes(path.read_bytes()[:100])
  assert everything(index.load(tmp_path, "train")) == [b"a"]
  path.write_bytes(b"no zip")
  assert everything(index.load(tmp_path, "train")) == [b"a"]


def _changed(path, **changes):
  with np.load(path) as stored:
    fields = {**stored, **changes}
  with open(path, "wb") as file:
    np.savez(file, **{k: v for k, v in fields.items() if v is not None})


@pytest.mark.parametrize(
  "changes",
  [
    {"offset": np.array([12, 2**60])},
    {"offset": np.array([12, 5])},
    {"offset": np.array([12, 1000])},
    {"offset": np.array([13, 29])},
    {"offset": np.array([12.0, 29.0])},
    {"offset": np.array([[12, 29]])},
    {"offset": np.array([12, 29, 46])},
    {"offset": np.array(["a", "b"])},
    {"offset": None},
    {"starts": np.array([0, 1])},
    {"starts": np.array([0, 2, 2])},
    {"starts": np.array([1, 2])},
    {"starts": np.array([0, 2], np.int32)},
    {"starts": None},
    {"sizes": np.array([[35]])},
  ],
)
def test_an_index_that_does_not_fit_its_shards_is_rebuilt(tmp_path, changes):
  """Reading by it would fail, or return other bytes."""
  write(tmp_path / "train-00000-of-00001.tfrecord", [b"a", b"bc"])
  index.load(tmp_path, "train")
  _changed(tmp_path / "train.index.npz", **changes)
  assert index.read(tmp_path / "train.index.npz", index.find(tmp_path, "train")) is None
  assert everything(index.load(tmp_path, "train")) == [b"a", b"bc"]


def _as_before(folder, **changes):
  """Writes an index as earlier versions did, with the shard and the length of each record."""
  found = index.load(folder, "train")
  old = {"shard": found.shard(), "length": found.length(), "starts": None}
  _changed(folder / "train.index.npz", **(old | changes))


def test_an_index_of_an_earlier_version_is_converted(tmp_path, monkeypatch):
  """So that a folder that cannot be written to is not scanned again by every process."""
  shards = ([b"a", b"bc"], [], [b"def"])
  for number, payloads in enumerate(shards):
    write(tmp_path / f"train-{number:05d}-of-00003.tfrecord", payloads)
  _as_before(tmp_path)
  monkeypatch.setattr(index, "build", lambda files: pytest.fail("scanned again"))
  found = index.load(tmp_path, "train")
  assert everything(found) == [b"a", b"bc", b"def"]
  assert found.starts.tolist() == [0, 2, 2, 3]
  assert found.starts.dtype == np.int64


@pytest.mark.parametrize(
  "changes",
  [
    {"length": np.array([1, 3])},
    {"length": np.array([1])},
    {"length": None},
    {"shard": np.array([0, 1], np.int32)},
    {"shard": np.array([0, -1], np.int32)},
    {"shard": np.array([0.0, 0.0])},
    {"shard": None},
    {"offset": np.array([12, 30])},
  ],
)
def test_an_index_of_an_earlier_version_that_does_not_fit_is_rebuilt(tmp_path, changes):
  write(tmp_path / "train-00000-of-00001.tfrecord", [b"a", b"bc"])
  _as_before(tmp_path, **changes)
  assert index.read(tmp_path / "train.index.npz", index.find(tmp_path, "train")) is None
  assert everything(index.load(tmp_path, "train")) == [b"a", b"bc"]


def test_shards_beyond_99999_are_in_order(tmp_path, monkeypatch):
  for number in (99998, 99999, 100000, 100001):
    write(tmp_path / f"train-{number:05d}-of-100002.tfrecord", [b"%d" % number])
  monkeypatch.setattr(index, "_check_complete", lambda folder, shards: None)  # the others
  assert everything(index.load(tmp_path, "train")) == [b"99998", b"99999", b"100000", b"100001"]


_MEMORY = """
import resource, sys, time
import numpy as np
from data_pipelines.records import index
from data_pipelines.sources.tfrecord import RecordReader

RecordReader(index.Index(("a",), np.array([0, 1]), np.array([12]), np.array([17])))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
where = index.read(sys.argv[1], sys.argv[2:])
reader = RecordReader(where)
seconds = time.perf_counter() - began
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(where), (after - before) * 1024 / len(where), seconds, where.place_of(len(where) - 1)[1:])
"""


@pytest.mark.slow
def test_ten_million_records_take_little_memory(tmp_path):
  count, size = 10_000_000, 100  # bytes of a record, with header and footer
  per_shard = count // 10
  files = [tmp_path / f"train-{i:05d}-of-00010.tfrecord" for i in range(10)]
  for file in files:
    file.touch()
    os.truncate(file, per_shard * size)  # sparse
  offset = np.tile(np.arange(per_shard) * size + tfrecord.HEADER, 10)
  starts, sizes = np.arange(11) * per_shard, np.full(10, per_shard * size)
  where = index.Index(tuple(map(str, files)), starts, offset, sizes)
  index.write(where, tmp_path / "train.index.npz")
  done = subprocess.run(
    [sys.executable, "-c", _MEMORY, str(tmp_path / "train.index.npz"), *map(str, files)],
    capture_output=True,
    text=True,
    check=True,
  )
  records, each, seconds, *last = done.stdout.split()
  print(f"{records} records: {float(each):.1f} bytes per record, opened in {float(seconds):.2f} s")
  assert int(records) == count
  assert "".join(last) == f"({(per_shard - 1) * size + tfrecord.HEADER},{size - 16})"
  # Eight bytes in TensorFlow, and eight in pages of the file, which the system may drop.
  assert float(each) <= 16


def test_a_folder_that_cannot_be_written_to_is_scanned(tmp_path, monkeypatch):
  write(tmp_path / "train-00000-of-00001.tfrecord", [b"a"])

  def refuse(*_):
    raise PermissionError

  monkeypatch.setattr(index, "write", refuse)
  assert everything(index.load(tmp_path, "train")) == [b"a"]


@pytest.mark.parametrize(
  ("names", "split", "expected"),
  [
    (["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"], "train", [0, 1]),
    (["train_1-00000-of-00001", "train-00000-of-00001"], "train", [1]),
    (["train_1-00000-of-00001", "train-00000-of-00001"], "train_1", [0]),
    (["train.tfrecord", "trainer.tfrecord"], "train", [0]),
    (["train_b.tfrecord", "train-a.tfrecords", "test.tfrecord"], "train", [1, 0]),
    (["train-00000-of-00001.tfrecord", "train_extra.tfrecord"], "train", [0]),
    (["b.tfrecord", "a.tfrecord", "notes.txt"], "*.tfrecord", [1, 0]),
    (["k400-train.tfrecord-00000-of-00001", "x"], "k400-train.tfrecord-*", [0]),
  ],
)
def test_finds_shards_from_elsewhere(tmp_path, names, split, expected):
  for number, name in enumerate(names):
    write(tmp_path / name, [b"%d" % number])
  assert everything(index.load(tmp_path, split)) == [b"%d" % i for i in expected]
  assert everything(index.load(tmp_path, split)) == [b"%d" % i for i in expected]  # from its file


def test_tensorflows_shards_are_read(tmp_path, tf):
  with tf.io.TFRecordWriter(str(tmp_path / "train-00000-of-00001")) as writer:
    for payload in (b"one", b"", b"three"):
      writer.write(payload)
  found = index.load(tmp_path, "train")
  assert everything(found) == [b"one", b"", b"three"]
  assert index.read_record(found, 2, verify=True) == b"three"


@pytest.mark.parametrize("name", ["other.txt", None])
def test_no_records_says_how_to_make_them(tmp_path, name):
  if name:
    write(tmp_path / name, [b"a"])
  with pytest.raises(UserError, match=r"no records of split 'train'.*vssl prepare VIDEOS") as e:
    index.load(tmp_path, "train")
  assert "\n" not in str(e.value)


def test_a_missing_split_is_not_to_be_made_of_the_same_videos(tmp_path):
  write(tmp_path / "train-00000-of-00001.tfrecord", [b"a"])
  with pytest.raises(UserError, match="no records of split 'test', it has 'train'") as e:
    index.load(tmp_path, "test")
  for part in ("column `split`", "--split_list", "separate folder", "config.probe.run=False"):
    assert part in str(e.value)
  assert "VIDEOS" not in str(e.value)
  assert str(e.value).isprintable()


def test_a_folder_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match="no such folder"):
    index.load(tmp_path / "x", "train")


def test_a_missing_shard_is_named(tmp_path):
  for i in (0, 1, 3):
    write(tmp_path / f"train-{i:05d}-of-00004.tfrecord", [b"a"])
  with pytest.raises(UserError, match="1 of 4 shards of 'train' are missing, the first is 00002"):
    index.load(tmp_path, "train")


@pytest.mark.parametrize("other", ["train-00000-of-00002.tfrecord", "train-00000-of-00001"])
def test_shards_of_two_sets_are_refused(tmp_path, other):
  write(tmp_path / "train-00000-of-00001.tfrecord", [b"a"])
  write(tmp_path / other, [b"a"])
  with pytest.raises(UserError, match="different sets"):
    index.load(tmp_path, "train")


def test_a_truncated_shard_is_named_with_its_byte(tmp_path):
  path = tmp_path / "train-00000-of-00001.tfrecord"
  write(path, [b"first", b"second"])
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(UserError, match=r"train-00000-of-00001\.tfrecord: truncated.*byte 21 "):
    index.load(tmp_path, "train")
  assert not (tmp_path / "train.index.npz").exists()


def test_shards_without_any_record_are_refused(tmp_path):
  write(tmp_path / "train-00000-of-00001.tfrecord", [])
  with pytest.raises(UserError, match="have no records"):
    index.load(tmp_path, "train")


@pytest.mark.parametrize("i", [-1, 1])
def test_record_numbers_are_checked(tmp_path, i):
  write(tmp_path / "train-00000-of-00001.tfrecord", [b"a"])
  with pytest.raises(IndexError):
    index.read_record(index.load(tmp_path, "train"), i)
