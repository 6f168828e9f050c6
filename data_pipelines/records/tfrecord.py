"""Reads and writes TFRecord files: writes shards atomically, scans headers, reads single records.

A record is its length (8 bytes, little endian), the masked CRC-32C of these 8 bytes, the payload
and the payload's masked CRC-32C (TensorFlow, lib/io/record_writer.h).

The format is implemented here because TensorFlow's writer can neither undo records nor return
offsets and a hash, its reader cannot read a single record, and workers would have to import
TensorFlow.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct

import google_crc32c
import numpy as np

from vssl_jax import files
from vssl_jax.errors import UserError

HEADER = 12  # bytes before a payload
FOOTER = 4  # bytes after a payload
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes) -> int:
  """The rotated and offset CRC that TFRecord files store (TensorFlow, lib/hash/crc32c.h)."""
  crc = google_crc32c.value(data)
  return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


class ShardWriter:
  """Writes a TFRecord file that gets its name only when it is complete.

  Use it as a context manager; see `files.replacing`.

  Attributes:
    size: bytes written so far.
    sha256: hex digest of the file, set at the end of the `with` block.
  """

  def __init__(self, path: str | os.PathLike):
    self.size = 0
    self.sha256 = ""
    self._hash = hashlib.sha256()
    self._whole = contextlib.ExitStack()
    self._path = path

  def __enter__(self) -> ShardWriter:
    self._file = self._whole.enter_context(files.replacing(self._path))
    return self

  def write(self, record: bytes) -> None:
    """Appends one record: length, its CRC, payload, its CRC."""
    length = struct.pack("<Q", len(record))
    head = length + struct.pack("<I", masked_crc32c(length))
    tail = struct.pack("<I", masked_crc32c(record))
    for part in (head, record, tail):
      self._file.write(part)
      self._hash.update(part)
      self.size += len(part)

  def mark(self) -> tuple:
    """The present state, for `rewind`."""
    return self.size, self._hash.copy()

  def rewind(self, mark: tuple) -> None:
    """Removes all records written since `mark()`."""
    self.size, self._hash = mark[0], mark[1].copy()
    self._file.seek(self.size)
    self._file.truncate()

  def __exit__(self, kind, value, traceback) -> None:
    self._whole.__exit__(kind, value, traceback)
    self.sha256 = "" if kind else self._hash.hexdigest()


def scan(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
  """Finds all records of a shard by reading only their headers.

  Args:
    path: an uncompressed TFRecord file.

  Returns:
    Position of each payload's first byte, and each payload's length in bytes, both int64 [n].

  Raises:
    UserError: the file ends inside a record, or a header's CRC is wrong; names the file and byte.
  """
  size = files.size(path)
  offsets, lengths = [], []
  position = 0
  with files.ranges(path) as read_range:
    while position < size:
      header = read_range(position, HEADER)
      if len(header) == HEADER and not _header_is_sound(header):
        raise UserError(_damage(path, position))
      length = struct.unpack("<Q", header[:8])[0] if len(header) == HEADER else 0
      end = position + HEADER + length + FOOTER
      if end > size:
        raise UserError(
          f"{path}: truncated: the record at byte {position} should end at byte {end}, but the "
          f"file ends at byte {size}: copy or prepare this shard again"
        )
      offsets.append(position + HEADER)
      lengths.append(length)
      position = end
  return np.array(offsets, np.int64), np.array(lengths, np.int64)


def read(path: str | os.PathLike, offset: int, length: int, *, verify: bool = False) -> bytes:
  """Reads one payload.

  Args:
    path: TFRecord file.
    offset: position of the payload's first byte.
    length: length of the payload, bytes.
    verify: also check length and payload against their CRCs (about 0.05 ms/MB).

  Raises:
    UserError: the file ends before the payload does, or a CRC is wrong; names the file and byte.
  """
  start = offset - HEADER
  wanted = HEADER + length + FOOTER if verify else length
  data = files.read_range(path, start if verify else offset, wanted)
  if len(data) < wanted:
    raise UserError(f"{path}: truncated inside the record at byte {start}: prepare it again")
  if not verify:
    return data
  payload = data[HEADER:-FOOTER]
  (stored,) = struct.unpack("<I", data[-FOOTER:])
  sound = _header_is_sound(data[:HEADER]) and struct.unpack("<Q", data[:8])[0] == length
  if not sound or stored != masked_crc32c(payload):
    raise UserError(_damage(path, start))
  return payload


def _header_is_sound(header: bytes) -> bool:
  return struct.unpack("<I", header[8:])[0] == masked_crc32c(header[:8])


def _damage(path, position: int) -> str:
  return (
    f"{path}: no valid TFRecord at byte {position} (wrong checksum): the file is damaged, "
    "compressed or not a TFRecord file: prepare or copy this shard again"
  )
