"""Writes results as JSON and as one RESULT line; hashes weights, configs and files."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vssl_jax import files

EXACT = 17  # `digits` for `plain` that write every float exactly


def plain(value: Any, digits: int = 4) -> Any:
  """Converts a tree of results to plain JSON types.

  Floats are rounded to `digits` decimals (below 0.1: to `digits` significant digits), NaN and
  infinities become None, arrays become lists, and mappings become dicts with sorted string keys.
  """
  if isinstance(value, ConfigDict):
    value = value.to_dict()
  if isinstance(value, Mapping):
    return {str(k): plain(value[k], digits) for k in sorted(value, key=str)}
  if isinstance(value, np.ndarray | jax.Array):
    return plain(np.asarray(value).tolist(), digits)
  if isinstance(value, Sequence) and not isinstance(value, str):
    return [plain(x, digits) for x in value]
  if isinstance(value, bool | np.bool_):
    return bool(value)
  if isinstance(value, int | np.integer):
    return int(value)
  if isinstance(value, float | np.floating):
    x = float(value)
    if not math.isfinite(x):
      return None
    return round(x, digits) if abs(x) >= 0.1 else float(f"{x:.{digits}g}")
  if value is None or isinstance(value, str):
    return value
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  raise TypeError(f"a result cannot hold a {type(value).__name__}: {value!r}")


def result_line(result: Mapping[str, Any]) -> str:
  """The line `RESULT {json}`, with sorted keys and rounded floats; equal results give equal lines.

  `per_class` is left out at every level, because it may have hundreds of entries.
  """

  def short(value: Any) -> Any:
    if isinstance(value, dict):
      return {k: short(v) for k, v in value.items() if k != "per_class"}
    return value

  return "RESULT " + json.dumps(short(plain(result)), ensure_ascii=False, allow_nan=False)


def write_json(result: Mapping[str, Any], path: str | os.PathLike[str], *, digits: int = 4) -> None:
  """Writes the whole result as indented JSON; the file appears complete or not at all.

  Args:
    result: see `plain`.
    path: the file.
    digits: see `plain`.
  """
  text = json.dumps(plain(result, digits), indent=2, ensure_ascii=False, allow_nan=False)
  files.write_atomic(path, (text + "\n").encode())


def tree_hash(tree: Any) -> str:
  """SHA-256 of names, types, shapes and bytes of all arrays: equal only for bit-identical trees."""
  digest = hashlib.sha256()
  for path, x in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
    x = np.asarray(x)
    digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}\n".encode())
    digest.update(np.ascontiguousarray(x).tobytes())
  return digest.hexdigest()


def config_hash(config: ConfigDict) -> str:
  """SHA-256 of the config's JSON; it does not depend on the order of the fields."""
  text = json.dumps(json.loads(config.to_json()), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: str | os.PathLike[str]) -> str:
  """SHA-256 of the bytes of a file."""
  with files.open_read(path) as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def unchanged(variables: Any, before: str) -> str:
  """Checks that the hash of the variables is still `before`, and returns it.

  Raises:
    RuntimeError: the hash is different, which would be a bug.
  """
  after = tree_hash(variables)
  if after != before:
    raise RuntimeError(f"probing changed the variables: sha256 {before} before, {after} after")
  return after
