"""Where every record of a split lies: the offset index that lets the pipeline shuffle ids.

`prepare` writes `{split}.index.npz` beside the shards. For shards from elsewhere one scan of the
record headers makes it; it is kept beside them where the folder can be written to.
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
from vssl_jax.files import replacing

_SHARD = re.compile(r"(?P<split>.+)-(?P<shard>\d{5,})-of-(?P<count>\d{5,})(\.tfrecords?)?")


@dataclasses.dataclass(frozen=True)
class Index:
  """Records of one split, numbered 0 to n − 1 in the order of the files.

  Attributes:
    files: paths of the shards.
    shard: position in `files` of each record's shard, int32 [n].
    offset: position in its shard of each record's first payload byte, int64 [n].
    length: bytes of each payload, int64 [n].
    sizes: bytes of each shard when it was scanned, int64 [number of files].
  """

  files: tuple[str, ...]
  shard: np.ndarray
  offset: np.ndarray
  length: np.ndarray
  sizes: np.ndarray

  def __len__(self) -> int:
    return len(self.offset)


def build(files: Sequence[str | os.PathLike]) -> Index:
  """Scans TFRecord files once, headers only.

  Args:
    files: paths of the shards, in the order that numbers the records.

  Raises:
    UserError: a file is missing, truncated or no TFRecord file; names file and byte.
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
  """Where the index of a split is kept."""
  return pathlib.Path(folder) / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', split)}.index.npz"


def write(index: Index, path: str | os.PathLike) -> None:
  """Writes an index as `.npz`, atomically; files are kept by name, relative to the index."""
  path = pathlib.Path(path)
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
  """Reads an index where it is there, sound, and of exactly these files at their present sizes.

  Args:
    path: the `.npz`.
    files: the shards it should describe, in order.

  Returns:
    The index, or None where a new scan is needed.
  """
  path = pathlib.Path(path)
  try:
    with np.load(path, allow_pickle=False) as stored:
      fields = {name: stored[name] for name in ("files", "sizes", "shard", "offset", "length")}
    sizes = [os.path.getsize(f) for f in files]
  except Exception:  # zipfile, zlib and NumPy each have their own for a damaged file
    return None
  names = [os.path.relpath(f, path.parent) for f in files]
  if fields.pop("files").tolist() != names or fields["sizes"].tolist() != sizes:
    return None
  return Index(files=tuple(str(f) for f in files), **fields)


def load(folder: str | os.PathLike, split: str) -> Index:
  """The index of a split: read where it is up to date, else made by one scan and kept.

  Args:
    folder: folder of shards, from `prepare` or elsewhere.
    split: `train` finds `train-00000-of-00008[.tfrecord]`, else `train*.tfrecord`; a name with
      `*`, `?` or `[` is a file pattern of its own.

  Raises:
    UserError: no records of that split, a shard of the set is missing, or one is damaged.
  """
  files = find(folder, split)
  path = path_of(folder, split)
  index = read(path, files)
  if index is None:
    index = build(files)
    with contextlib.suppress(OSError):  # a read-only folder: scan again next time
      write(index, path)
  if not len(index):
    raise UserError(f"{folder}: the shards of split {split!r} hold no records: prepare them again")
  return index


def find(folder: str | os.PathLike, split: str) -> list[str]:
  """Paths of a split's shards, sorted; see `load`."""
  folder = pathlib.Path(folder)
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
  """Payload of record `i`; safe to call from several threads.

  Args:
    index: where the records lie.
    i: record number, 0 to n − 1.
    verify: also check the stored CRCs of length and payload.

  Raises:
    IndexError: no such record.
    UserError: the shard is truncated or, where verified, damaged.
  """
  if not 0 <= i < len(index):
    raise IndexError(f"record {i} of {len(index)}")
  path = index.files[index.shard[i]]
  return tfrecord.read(path, int(index.offset[i]), int(index.length[i]), verify=verify)


def _no_such_split(folder: pathlib.Path, split: str, names: Sequence[str], others: set[str]) -> str:
  if others:  # the same videos again under another name would put training videos into the test
    return (
      f"{folder}: no records of split {split!r}, it has {', '.join(map(repr, sorted(others)))}: "
      "prepare other videos for it, by a CSV with a column `split`, by --split_list and the "
      f"official lists, or from a folder of their own with --split={split}; to pre-train without a "
      "test split pass --config.probe.run=False"
    )
  there = "no shards at all" if names else "no such folder, or empty"
  return (
    f"{folder}: no records of split {split!r} ({there}): make them with "
    f"`python -m data_pipelines.prepare VIDEOS {folder}`"
  )


def _check_complete(folder: pathlib.Path, shards: Sequence[re.Match]) -> None:
  if not shards:
    return
  split = shards[0]["split"]
  counts = sorted({int(m["count"]) for m in shards})
  if len(counts) > 1 or len(shards) > counts[0]:
    raise UserError(
      f"{folder}: shards of {split!r} from different sets (of {' and of '.join(map(str, counts))}):"
      " remove the old ones"
    )
  missing = sorted(set(range(counts[0])) - {int(m["shard"]) for m in shards})
  if missing:
    raise UserError(
      f"{folder}: {len(missing)} of {counts[0]} shards of {split!r} are missing, the first is "
      f"{missing[0]:05d}: run prepare again (it goes on where it stopped)"
    )
