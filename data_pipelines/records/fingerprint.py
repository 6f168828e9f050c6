"""Which videos a split holds, as one short text: a run must not go on with others.

Equal videos in the same order give equal fingerprints, wherever their files lie; what each is made
of is cheap to find out, so no video is read for it.
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
from vssl_jax.errors import UserError


def of(*parts: Any) -> str:
  """SHA-256, in hex, of anything that JSON can hold."""
  written = json.dumps(parts, sort_keys=True)
  return hashlib.sha256(written.encode()).hexdigest()


def of_records(folder: str | os.PathLike[str], split: str, where: Index) -> str:
  """That of a folder of records.

  Of the shards' hashes, where the folder's manifest has these very shards; of other shards, of the
  places and lengths of all records.

  Args:
    folder: with or without a manifest.
    split: its name.
    where: the split's index.
  """
  names = [os.path.basename(f) for f in where.files]
  try:
    stored = manifest.read(folder) or {"splits": {}}
  except UserError:  # somebody else's file
    stored = {"splits": {}}
  shards = stored["splits"].get(split, {}).get("shards", [])
  if [(s["name"], s["bytes"]) for s in shards] == [*zip(names, where.sizes.tolist(), strict=True)]:
    return of([(s["name"], s["sha256"]) for s in shards])
  return of(names, where.shard.tolist(), where.offset.tolist(), where.length.tolist())


def of_npz(path: str | os.PathLike[str], *parts: Any) -> str:
  """That of an `.npz` file, by the checksums that it carries, and of what else matters."""
  with zipfile.ZipFile(path) as file:
    arrays = sorted((i.filename, i.file_size, i.CRC) for i in file.infolist())
  return of(arrays, *parts)


def of_files(
  paths: Iterable[str | os.PathLike[str]], root: str | os.PathLike[str], *parts: Any
) -> str:
  """That of single files, by names from `root` on and sizes, and of what else matters."""
  files = [
    (os.path.relpath(p, root), os.path.getsize(p) if os.path.exists(p) else -1) for p in paths
  ]
  return of(files, *parts)


def of_arrays(arrays: Sequence[Any], *parts: Any) -> str:
  """That of arrays in memory (what is no array counts only as there), and of what else matters."""
  digest = hashlib.sha256()
  for array in arrays:
    if isinstance(array, np.ndarray):
      digest.update(f"{array.dtype.str} {array.shape} ".encode())
      digest.update(np.ascontiguousarray(array).data)
    else:
      digest.update(b"? ")
  return of(digest.hexdigest(), *parts)
