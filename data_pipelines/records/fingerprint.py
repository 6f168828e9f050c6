"""Fingerprints of the videos of a split, so that a resumed run can refuse to use other videos.

Equal videos in the same order give equal fingerprints, in any folder. A fingerprint is computed
from facts that are cheap to find, such as names, sizes and stored checksums; no video is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data_pipelines.records import manifest
from data_pipelines.records.index import Index

_PART = 1 << 16  # numbers written at a time


def of(*parts: Any) -> str:
  """SHA-256, in hex, of any values that JSON can represent."""
  written = json.dumps(parts, sort_keys=True)
  return hashlib.sha256(written.encode()).hexdigest()


def of_records(folder: str | os.PathLike[str], split: str, where: Index) -> str:
  """Fingerprint of a split in a folder of records.

  If the folder's manifest describes exactly these shards, it is computed from their hashes;
  otherwise from the positions and lengths of all records.

  Args:
    folder: folder of the records, with or without a manifest.
    split: name of the split.
    where: index of the split.
  """
  names = [os.path.basename(f) for f in where.files]
  shards = manifest.shards_of(folder, split) or []
  if [(s["name"], s["bytes"]) for s in shards] == [*zip(names, where.sizes.tolist(), strict=True)]:
    return of([(s["name"], s["sha256"]) for s in shards])
  digest = hashlib.sha256(b"[" + json.dumps(names).encode())
  for array in (where.shard(), where.offset, where.length()):
    digest.update(b", ")
    _add(digest, array)
  digest.update(b"]")
  return digest.hexdigest()


def _add(digest: Any, array: np.ndarray) -> None:
  """Adds the integers of an array as `of` would write them.

  It writes a part at a time, because a Python list takes ten times the memory of the array.
  """
  digest.update(b"[")
  for first in range(0, len(array), _PART):
    part = ", ".join(map(str, array[first : first + _PART].tolist()))
    digest.update((", " if first else "").encode() + part.encode())
  digest.update(b"]")


def of_npz(path: str | os.PathLike[str], *parts: Any) -> str:
  """Fingerprint of an `.npz` file, from the checksums stored in it, and of further `parts`."""
  with zipfile.ZipFile(path) as file:
    arrays = sorted((i.filename, i.file_size, i.CRC) for i in file.infolist())
  return of(arrays, *parts)


def of_files(
  paths: Iterable[str | os.PathLike[str]], root: str | os.PathLike[str], *parts: Any
) -> str:
  """Fingerprint of files, from their paths relative to `root` and sizes, and of further `parts`."""
  files = [
    (os.path.relpath(p, root), os.path.getsize(p) if os.path.exists(p) else -1) for p in paths
  ]
  return of(files, *parts)


def of_arrays(arrays: Sequence[Any], *parts: Any) -> str:
  """Fingerprint of arrays in memory and of further `parts`.

  An entry that is a function to read an array counts, but its content does not.
  """
  digest = hashlib.sha256()
  for array in arrays:
    if isinstance(array, np.ndarray):
      digest.update(f"{array.dtype.str} {array.shape} ".encode())
      digest.update(np.ascontiguousarray(array).data)
    else:
      digest.update(b"? ")
  return of(digest.hexdigest(), *parts)
