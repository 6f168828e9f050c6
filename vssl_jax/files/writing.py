"""Files written atomically: complete, or not at all.

Implemented here because atomicwrites, a library for it, is no longer maintained.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from vssl_jax.errors import UserError
from vssl_jax.files import copies, paths
from vssl_jax.files.paths import StrPath


def make_folder(path: StrPath) -> pathlib.Path:
  """Makes a folder and its missing parent folders; an existing folder is fine.

  A bucket has no folders: there, only the bucket must exist.

  Raises:
    UserError: the folder cannot be made, for example because there is a file of this name.
  """
  folder = paths.path(path)
  if paths.is_remote(folder):
    if folder.is_file():
      raise UserError(f"{folder}: no folder can be made here (an object of this name exists).")
    return folder
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise UserError(
      f"{path}: no folder can be made here ({e.strerror}); choose another path."
    ) from None
  return folder


def temporary_of(path: StrPath) -> pathlib.Path:
  """The name of a file while it is written; no other process has it, on this host or another."""
  path = paths.path(path)
  return path.with_name(f".tmp-{socket.gethostname()}-{os.getpid()}-{path.name}")


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[BinaryIO]:
  """Opens a new file for writing; it gets its name only when it is complete and on disk.

  After an exception, an existing file is unchanged. A killed process leaves a `.tmp-*` file beside
  it. A file for a bucket is written to this machine's folder for temporary files, then uploaded.

  Args:
    path: the file to create or replace; its folder must exist.

  Raises:
    OSError: the file cannot be written.
  """
  path = paths.path(path)
  if paths.is_remote(path):
    with tempfile.NamedTemporaryFile(prefix="vssl-") as file:
      yield cast(BinaryIO, file)
      file.flush()
      copies.upload(pathlib.Path(file.name), path)
    return
  temporary = temporary_of(path)
  try:
    with paths.named_errors(path):
      with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: StrPath, *, replace: bool = True) -> Iterator[pathlib.Path]:
  """A new folder to write into; it takes the place of `path` at the end of the block.

  In a bucket, the objects of the old folder are removed before the new ones are uploaded.

  Args:
    path: the folder to create.
    replace: also if there is one with something in it.

  Raises:
    OSError: the folder cannot be written, or exists and may not be replaced.
  """
  path = paths.path(path)
  if paths.is_remote(path):
    with tempfile.TemporaryDirectory(prefix="vssl-") as folder:
      yield pathlib.Path(folder)
      if replace:
        copies.remove_tree(path)
      copies.upload(pathlib.Path(folder), path)
    return
  temporary = temporary_of(path)
  try:
    temporary.mkdir(parents=True)
    yield temporary
    if replace:
      copies.remove_tree(path)
    os.replace(temporary, path)
  finally:
    copies.remove_tree(temporary)


def write_atomic(path: StrPath, data: bytes) -> None:
  """Writes a file under a temporary name, then renames it; makes its folder if missing."""
  path = paths.path(path)
  if not paths.is_remote(path):
    path.parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as file:
    file.write(data)
