"""Files that appear whole or not at all, and the folders they go to.

Written here because atomicwrites, the library for it, is no longer maintained.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from vssl_jax.errors import UserError

StrPath = str | os.PathLike[str]


def listed(paths: StrPath | Sequence[StrPath]) -> list[str]:
  """One path or several, as text, without what is empty."""
  several = [paths] if isinstance(paths, str | os.PathLike) else paths
  return [os.fspath(path) for path in several if os.fspath(path)]


def make_folder(path: str | os.PathLike[str]) -> pathlib.Path:
  """Makes a folder, and those above it, where they are missing.

  Raises:
    UserError: something else has the name, or it cannot be made.
  """
  path = pathlib.Path(path)
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise UserError(f"{path}: no folder can be made here ({e.strerror}).") from None
  return path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
  """Opens a new file for writing that takes its name only once it is complete and on disk.

  An exception leaves what was there before; a killed process leaves a `.tmp-*` file beside it.

  Args:
    path: the file to make or to replace; its folder must exist.

  Raises:
    OSError: it cannot be written.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
  try:
    with open(temporary, "wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a file beside its final name, then renames it; makes the folder."""
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as file:
    file.write(data)
