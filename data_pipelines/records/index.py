"""The offset index: the position of every record of a split, for access to any record by number.

`prepare` writes `{split}.index.npz` beside the shards. For other shards, one scan of the record
headers makes the index; it is saved beside the shards if the folder is writable.

Records follow each other without gaps, so the offsets alone say where each begins and ends: 8 bytes
per record in memory, for whoever reads them.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import glob
import os
import pathlib
import re
import struct
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from data_pipelines.records import manifest, tfrecord
from vssl_jax import files as files_lib
from vssl_jax.errors import UserError
from vssl_jax.files import replacing

_SCANS = 16  # shards that are scanned at the same time; in a bucket each header is a request
_SHARD = re.compile(r"(?P<split>.+)-(?P<shard>\d{5,})-of-(?P<count>\d{5,})(\.tfrecords?)?")


@dataclasses.dataclass(frozen=True)
class Index:
  """Records of one split, numbered 0 to n − 1 in the order of the files.

  Attributes:
    files: paths of the F shards.
    starts: number of the first record of each shard, and n, int64 [F + 1].
    offset: position of each record's first payload byte in its shard, int64 [n].
    sizes: size of each shard in bytes when it was scanned, int64 [F].
  """

  files: tuple[str, ...]
  starts: np.ndarray
  offset: np.ndarray
  sizes: np.ndarray

  def __len__(self) -> int:
    return len(self.offset)

  def shard_of(self, i: int) -> int:
    """Position in `files` of record i's shard."""
    return int(np.searchsorted(self.starts, i, side="right")) - 1

  def place_of(self, i: int) -> tuple[str, int, int]:
    """Shard, position of the first payload byte, and size of the payload in bytes, of record i."""
    shard = self.shard_of(i)
    last = i + 1 == self.starts[shard + 1]
    end = int(self.sizes[shard] if last else self.offset[i + 1] - tfrecord.HEADER)
    offset = int(self.offset[i])
    return self.files[shard], offset, end - tfrecord.FOOTER - offset

  def shard(self) -> np.ndarray:
    """Position in `files` of each record's shard, int32 [n]."""
    return np.repeat(np.arange(len(self.files), dtype=np.int32), np.diff(self.starts))

  def length(self) -> np.ndarray:
    """Size of each payload in bytes, int64 [n]."""
    ends = np.empty_like(self.offset)
    ends[:-1] = self.offset[1:] - tfrecord.HEADER
    full = np.diff(self.starts) > 0
    ends[self.starts[1:][full] - 1] = self.sizes[full]
    return ends - tfrecord.FOOTER - self.offset


def build(files: Sequence[str | os.PathLike]) -> Index:
  """Makes an index by one scan of the headers in TFRecord files.

  Args:
    files: paths of the shards; the records are numbered in this order.

  Raises:
    UserError: a file is missing, truncated or not a TFRecord file; names the file and the byte.
  """
  with concurrent.futures.ThreadPoolExecutor(_SCANS) as pool:
    scanned = [*pool.map(_scan, files)]
  offsets = [np.zeros(0, np.int64), *(offset for offset, _ in scanned)]
  return Index(
    files=tuple(str(f) for f in files),
    starts=np.cumsum([len(o) for o in offsets], dtype=np.int64),
    offset=np.concatenate(offsets),
    sizes=np.array([size for _, size in scanned], np.int64),
  )


def _scan(path: str | os.PathLike) -> tuple[np.ndarray, int]:
  """Positions of a shard's payloads, and its size in bytes."""
  try:
    return tfrecord.scan(path)[0], files_lib.size(path)
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def path_of(folder: str | os.PathLike, split: str) -> pathlib.Path:
  """Path of the index file of a split."""
  return files_lib.path(folder) / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', split)}.index.npz"


def write(index: Index, path: str | os.PathLike) -> None:
  """Writes an index as `.npz`, atomically; it stores the shards' paths relative to the index."""
  path = files_lib.path(path)
  names = [os.path.relpath(f, str(path.parent)) for f in index.files]
  with replacing(path) as file:
    np.savez(
      file,
      files=np.array(names, dtype=np.str_),
      sizes=index.sizes,
      starts=index.starts,
      offset=index.offset,
    )


def read(path: str | os.PathLike, files: Sequence[str | os.PathLike]) -> Index | None:
  """Reads an index, if it is undamaged and describes exactly these files with their current sizes.

  The offsets are mapped into memory from the file; those of an index in a bucket are read. An index
  of an earlier version, which stored the shard and the length of each record, is converted.

  Args:
    path: the `.npz` file.
    files: the shards that it should describe, in order.

  Returns:
    The index, or None if a new scan is needed.
  """
  path = files_lib.path(path)
  try:
    remote = files_lib.is_remote(path)
    wanted = ("files", "sizes", "starts", "shard", "length", *(("offset",) if remote else ()))
    fields = files_lib.read_npz(path, wanted)
    before = {name: fields.pop(name) for name in ("shard", "length") if name in fields}
    if "starts" in fields:
      before = {}
    else:
      fields["starts"] = _starts(before["shard"], len(files))
      if "length" not in before:
        return None
    if not remote:
      fields["offset"] = _mapped(path, "offset.npy")
    sizes = _sizes(files)
  except Exception:  # missing, damaged, or of another program
    return None
  if fields.keys() != {"files", "sizes", "starts", "offset"}:
    return None
  names = [os.path.relpath(f, str(path.parent)) for f in files]
  if fields.pop("files").tolist() != names or fields["sizes"].tolist() != sizes:
    return None
  index = Index(files=tuple(str(f) for f in files), **fields)
  if not _is_sound(index):
    return None
  if before and not all(np.array_equal(getattr(index, name)(), x) for name, x in before.items()):
    return None
  return index


def _starts(shard: np.ndarray, count: int) -> np.ndarray:
  """Number of the first record of each shard, from the shard of each record."""
  if shard.ndim != 1 or shard.dtype.kind not in "iu" or (len(shard) and shard.max() >= count):
    raise ValueError("numbers of shards that there are not")
  return np.cumsum([0, *np.bincount(shard, minlength=count)])


def _sizes(files: Sequence[str | os.PathLike]) -> list[int]:
  """Sizes of files in bytes, from one listing of each folder."""
  paths = [files_lib.path(f) for f in files]
  folders = {folder: files_lib.sizes(folder) for folder in {p.parent for p in paths}}
  return [folders[p.parent][p.name] for p in paths]


def _mapped(path: pathlib.Path, member: str) -> np.ndarray:
  """An array in an uncompressed `.npz` file, mapped into memory; checks the stored CRC once.

  NumPy maps `.npy` files only.
  """
  with zipfile.ZipFile(path) as archive, archive.open(member) as file:
    info = archive.getinfo(member)
    if info.compress_type != zipfile.ZIP_STORED:
      raise ValueError(f"{member} is compressed")
    if np.lib.format.read_magic(file) != (1, 0):
      raise ValueError(f"{member} has an unknown header")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    header = file.tell()
    while file.read(1 << 20):  # to the end, where zipfile compares the CRC
      pass
  with open(path, "rb") as raw:
    raw.seek(info.header_offset + 26)  # the lengths of name and extra field, before the data
    name, extra = struct.unpack("<HH", raw.read(4))
  begin = info.header_offset + 30 + name + extra + header
  if len(shape) != 1 or dtype != np.int64 or shape[0] * 8 != info.file_size - header:
    raise ValueError(f"{member} is {dtype}{list(shape)} in {info.file_size} bytes")
  if not shape[0]:
    return np.zeros(shape, dtype)
  return np.memmap(path, dtype, "r", begin, shape)


def _is_sound(index: Index) -> bool:
  """Whether every record lies within its shard, in order; else reading would fail or lie."""
  starts, offset, sizes = index.starts, index.offset, index.sizes
  arrays = (starts, offset, sizes)
  if any(x.ndim != 1 or x.dtype != np.int64 for x in arrays) or len(starts) != len(sizes) + 1:
    return False
  if starts[0] != 0 or starts[-1] != len(offset) or np.any(np.diff(starts) < 0):
    return False
  for a, b, size in zip(starts[:-1], starts[1:], sizes, strict=True):
    of_shard = offset[a:b]
    # Before the differences, which wrap around for numbers near 2^63.
    if a < b and (of_shard.min() < tfrecord.HEADER or of_shard.max() > size - tfrecord.FOOTER):
      return False
    between = np.diff(of_shard, append=size + tfrecord.HEADER)
    least = tfrecord.HEADER + tfrecord.FOOTER
    if a < b and (of_shard[0] != tfrecord.HEADER or np.any(between < least)):
      return False
    if a == b and size:
      return False
  return True


def load(folder: str | os.PathLike, split: str, stored: dict[str, Any] | None = None) -> Index:
  """The index of a split: read if it is up to date, otherwise made by one scan and saved.

  Args:
    folder: folder of shards, from `prepare` or another program.
    split: `train` finds `train-00000-of-00008[.tfrecord]`, or else `train*.tfrecord`; a name with
      `*`, `?` or `[` is used as a file pattern.
    stored: the folder's manifest, if it was read before.

  Raises:
    UserError: the split has no records, one of its shards is missing or damaged, or the shards are
      not those of the folder's manifest.
  """
  files = find(folder, split)
  path = path_of(folder, split)
  saved = read(path, files)
  if saved is None and path.exists():
    logging.warning("%s: does not fit its shards; it is not used, and made anew from them.", path)
  index = build(files) if saved is None else saved
  manifest.check_shards(folder, split, counts(index), stored)
  if saved is None:  # only now: the shards may be wrong, and the index right
    with contextlib.suppress(OSError):  # a read-only folder: scan again next time
      write(index, path)
  if not len(index):
    raise UserError(f"{folder}: the shards of split {split!r} have no records: prepare them again")
  return index


def counts(index: Index) -> dict[str, tuple[int, int]]:
  """Records and bytes of each shard, by file name."""
  names = [os.path.basename(f) for f in index.files]
  records = np.diff(index.starts).tolist()
  return dict(zip(names, zip(records, index.sizes.tolist(), strict=True), strict=True))


def find(folder: str | os.PathLike, split: str) -> list[str]:
  """Paths of a split's shards, sorted; see `load`."""
  folder = files_lib.path(folder)
  names = files_lib.names(folder)
  numbered = {n: m for n in names if (m := _SHARD.fullmatch(n))}
  if glob.has_magic(split):
    found = [n for n in names if pathlib.PurePath(n).match(split) and not n.endswith(".npz")]
  else:
    found = [n for n, m in numbered.items() if m["split"] == split]
    found.sort(key=lambda n: int(numbered[n]["shard"]))  # 100000 comes after 99999
    _check_complete(folder, [numbered[n] for n in found])
    if not found:
      pattern = re.compile(re.escape(split) + r"([._-].*)?\.tfrecords?")
      found = [n for n in names if pattern.fullmatch(n) and n not in numbered]
  if not found:
    raise UserError(_no_such_split(folder, split, names, {m["split"] for m in numbered.values()}))
  return [str(folder / n) for n in found]


def read_record(index: Index, i: int, *, verify: bool = False) -> bytes:
  """Reads the payload of record `i`; safe to call from several threads.

  Args:
    index: the offset index.
    i: record number, 0 to n − 1.
    verify: also check the stored CRCs of length and payload.

  Raises:
    IndexError: there is no such record.
    UserError: the shard is truncated or (only found if `verify`) damaged.
  """
  if not 0 <= i < len(index):
    raise IndexError(f"record {i} of {len(index)}")
  return tfrecord.read(*index.place_of(i), verify=verify)


def _no_such_split(folder: pathlib.Path, split: str, names: Sequence[str], others: set[str]) -> str:
  # The message asks for other videos: preparing the same videos under this name would test on
  # training videos.
  if others:
    return (
      f"{folder}: no records of split {split!r}, it has {', '.join(map(repr, sorted(others)))}: "
      "prepare other videos for it, with a CSV that has a column `split`, with --split_list and "
      f"the official lists, or from a separate folder with --split={split}; to pre-train without a "
      "test split pass --config.probe.run=False"
    )
  there = "no shards at all" if names else "no such folder, or empty"
  return (
    f"{folder}: no records of split {split!r} ({there}): make them with "
    f"`vssl prepare VIDEOS {folder}`"
  )


def _check_complete(folder: pathlib.Path, shards: Sequence[re.Match]) -> None:
  if not shards:
    return
  split = shards[0]["split"]
  counts = sorted({int(m["count"]) for m in shards})
  if len(counts) > 1 or len(shards) > counts[0]:
    raise UserError(
      f"{folder}: shards of {split!r} from different sets (of {' and of '.join(map(str, counts))}"
      " shards): remove the old ones"
    )
  missing = sorted(set(range(counts[0])) - {int(m["shard"]) for m in shards})
  if missing:
    raise UserError(
      f"{folder}: {len(missing)} of {counts[0]} shards of {split!r} are missing, the first is "
      f"{missing[0]:05d}: run prepare again (it continues where it stopped)"
    )
