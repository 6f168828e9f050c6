"""The offset index: the position of every record of a split, for access to any record by number.

`prepare` writes `{split}.index.npz` beside the shards. For other shards, one scan of the record
headers makes the index; it is saved beside the shards if the folder is writable.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.records import tfrecord
from vssl_jax.errors import UserError
from vssl_jax.files import local, replacing

_SHARD = re.compile(r"(?P<split>.+)-(?P<shard>\d{5,})-of-(?P<count>\d{5,})(\.tfrecords?)?")


@dataclasses.dataclass(frozen=True)
class Index:
  """Records of one split, numbered 0 to n − 1 in the order of the files.

  Attributes:
    files: paths of the shards.
    shard: position in `files` of each record's shard, int32 [n].
    offset: position of each record's first payload byte in its shard, int64 [n].
    length: size of each payload in bytes, int64 [n].
    sizes: size of each shard in bytes when it was scanned, int64 [number of files].
  """

  files: tuple[str, ...]
  shard: np.ndarray
  offset: np.ndarray
  length: np.ndarray
  sizes: np.ndarray

  def __len__(self) -> int:
    return len(self.offset)


def build(files: Sequence[str | os.PathLike]) -> Index:
  """Makes an index by one scan of the headers in TFRecord files.

  Args:
    files: paths of the shards; the records are numbered in this order.

  Raises:
    UserError: a file is missing, truncated or not a TFRecord file; names the file and the byte.
  """
  shards, offsets, lengths, sizes = [], [], [], []
  for number, path in enumerate(files):
    try:
      sizes.append(os.path.getsize(path))
      offset, length = tfrecord.scan(path)
    except OSError as error:
      raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    shards.append(np.full(len(offset), number, np.int32))
    offsets.append(offset)
    lengths.append(length)
  empty = np.zeros(0, np.int64)
  return Index(
    files=tuple(str(f) for f in files),
    shard=np.concatenate([empty.astype(np.int32), *shards]),
    offset=np.concatenate([empty, *offsets]),
    length=np.concatenate([empty, *lengths]),
    sizes=np.array(sizes, np.int64),
  )


def path_of(folder: str | os.PathLike, split: str) -> pathlib.Path:
  """Path of the index file of a split."""
  return pathlib.Path(folder) / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', split)}.index.npz"


def write(index: Index, path: str | os.PathLike) -> None:
  """Writes an index as `.npz`, atomically; it stores the shards' paths relative to the index."""
  path = local(path)
  names = [os.path.relpath(f, path.parent) for f in index.files]
  with replacing(path) as file:
    np.savez(
      file,
      files=np.array(names, dtype=np.str_),
      sizes=index.sizes,
      shard=index.shard,
      offset=index.offset,
      length=index.length,
    )


def read(path: str | os.PathLike, files: Sequence[str | os.PathLike]) -> Index | None:
  """Reads an index, if it is undamaged and describes exactly these files with their current sizes.

  Args:
    path: the `.npz` file.
    files: the shards that it should describe, in order.

  Returns:
    The index, or None if a new scan is needed.
  """
  path = local(path)
  try:
    with np.load(path, allow_pickle=False) as stored:
      fields = {name: stored[name] for name in ("files", "sizes", "shard", "offset", "length")}
    sizes = [os.path.getsize(f) for f in files]
  except Exception:  # for a damaged file zipfile, zlib and NumPy raise different exceptions
    return None
  names = [os.path.relpath(f, path.parent) for f in files]
  if fields.pop("files").tolist() != names or fields["sizes"].tolist() != sizes:
    return None
  return Index(files=tuple(str(f) for f in files), **fields)


def load(folder: str | os.PathLike, split: str) -> Index:
  """The index of a split: read if it is up to date, otherwise made by one scan and saved.

  Args:
    folder: folder of shards, from `prepare` or another program.
    split: `train` finds `train-00000-of-00008[.tfrecord]`, or else `train*.tfrecord`; a name with
      `*`, `?` or `[` is used as a file pattern.

  Raises:
    UserError: the split has no records, or one of its shards is missing or damaged.
  """
  files = find(folder, split)
  path = path_of(folder, split)
  index = read(path, files)
  if index is None:
    index = build(files)
    with contextlib.suppress(OSError):  # a read-only folder: scan again next time
      write(index, path)
  if not len(index):
    raise UserError(f"{folder}: the shards of split {split!r} have no records: prepare them again")
  return index


def find(folder: str | os.PathLike, split: str) -> list[str]:
  """Paths of a split's shards, sorted; see `load`."""
  folder = local(folder)
  names = sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
  numbered = {n: m for n in names if (m := _SHARD.fullmatch(n))}
  if glob.has_magic(split):
    found = [n for n in names if pathlib.PurePath(n).match(split) and not n.endswith(".npz")]
  else:
    found = [n for n, m in numbered.items() if m["split"] == split]
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
  path = index.files[index.shard[i]]
  return tfrecord.read(path, int(index.offset[i]), int(index.length[i]), verify=verify)


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
