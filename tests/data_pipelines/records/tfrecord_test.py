"""TFRecord framing against TensorFlow's own writer and reader."""

import hashlib
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.records import tfrecord
from vssl_jax.errors import UserError

PAYLOADS = [b"", b"a", b"hello" * 50, os.urandom(3000)]


def write(path, payloads):
  with tfrecord.ShardWriter(path) as writer:
    for payload in payloads:
      writer.write(payload)
  return writer


def test_writes_the_bytes_that_tensorflow_writes(tmp_path, tf):
  writer = write(tmp_path / "ours", PAYLOADS)
  with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as theirs:
    for payload in PAYLOADS:
      theirs.write(payload)
  data = (tmp_path / "ours").read_bytes()
  assert data == (tmp_path / "theirs").read_bytes()
  assert writer.size == len(data)
  assert writer.sha256 == hashlib.sha256(data).hexdigest()


def test_tensorflow_reads_it(tmp_path, tf):
  write(tmp_path / "a", PAYLOADS)
  dataset = tf.data.TFRecordDataset(str(tmp_path / "a"))
  assert list(dataset.as_numpy_iterator()) == PAYLOADS


def test_the_file_appears_only_when_complete(tmp_path):
  path = tmp_path / "a"
  with tfrecord.ShardWriter(path) as writer:
    writer.write(b"x" * 100_000)
    assert not path.exists()
  assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_exception_leaves_nothing_and_keeps_the_old_file(tmp_path):
  path = tmp_path / "a"
  path.write_bytes(b"old")

  def fail():
    with tfrecord.ShardWriter(path) as writer:
      writer.write(b"new")
      raise RuntimeError

  with pytest.raises(RuntimeError):
    fail()
  assert [p.name for p in tmp_path.iterdir()] == ["a"]
  assert path.read_bytes() == b"old"


def test_rewind_takes_records_back(tmp_path):
  with tfrecord.ShardWriter(tmp_path / "a") as writer:
    writer.write(b"keep")
    mark = writer.mark()
    writer.write(b"drop" * 1000)
    writer.write(b"drop too")
    writer.rewind(mark)
    writer.write(b"last")
  expected = write(tmp_path / "b", [b"keep", b"last"])
  assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
  assert (writer.size, writer.sha256) == (expected.size, expected.sha256)


@settings(
  max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, 2000), max_size=12))
def test_scan_and_read_find_every_record(tmp_path, lengths):
  payloads = [bytes([i + 1]) * n for i, n in enumerate(lengths)]
  path = tmp_path / "a"
  write(path, payloads)
  offsets, found = tfrecord.scan(path)
  assert found.tolist() == lengths
  read = [
    tfrecord.read(path, o, n, verify=bool(i % 2))
    for i, (o, n) in enumerate(zip(offsets.tolist(), found.tolist(), strict=True))
  ]
  assert read == payloads


def test_truncation_anywhere_names_file_and_byte(tmp_path):
  path = tmp_path / "a"
  write(path, [b"first", b"second"])
  data = path.read_bytes()
  second = 12 + 5 + 4
  for size in range(1, len(data)):
    path.write_bytes(data[:size])
    if size == second:  # a whole number of records is a sound file
      assert len(tfrecord.scan(path)[0]) == 1
      continue
    with pytest.raises(UserError, match=f"a: truncated: .* at byte {second * (size > second)} "):
      tfrecord.scan(path)


def test_compressed_files_are_refused(tmp_path, tf):
  path = str(tmp_path / "a")
  with tf.io.TFRecordWriter(path, options="GZIP") as writer:
    writer.write(b"x" * 100)
  with pytest.raises(UserError, match=r"at byte 0 .*compressed"):
    tfrecord.scan(path)


@pytest.mark.parametrize("byte", [0, 9, 14, -1])
def test_verify_finds_a_flipped_byte(tmp_path, byte):
  path = tmp_path / "a"
  write(path, [b"payload of the record"])
  data = bytearray(path.read_bytes())
  data[byte] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match=r"byte 0 .*checksum"):
    tfrecord.read(path, 12, 21, verify=True)
  assert len(tfrecord.read(path, 12, 21)) == 21


def test_reading_past_the_end_is_an_error(tmp_path):
  path = tmp_path / "a"
  write(path, [b"payload"])
  with pytest.raises(UserError, match="truncated"):
    tfrecord.read(path, 12, 100)
