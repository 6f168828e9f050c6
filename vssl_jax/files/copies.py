"""Copies, moves and removes files and whole folders, here and in buckets."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from vssl_jax.errors import UserError
from vssl_jax.files import contents, paths
from vssl_jax.files.paths import StrPath

_AT_ONCE = 16  # requests


@contextlib.contextmanager
def local_copy(where: StrPath | pathlib.Path) -> Iterator[pathlib.Path]:
  """A file or folder in a file system: itself, or a temporary copy of what an address names.

  Raises:
    OSError: nothing is there, or it cannot be copied.
  """
  if not paths.is_address(where):
    yield pathlib.Path(where)
    return
  with tempfile.TemporaryDirectory(prefix="vssl-") as folder:
    target = pathlib.Path(folder) / (paths.path(str(where)).name or "bucket")
    download(where, target)
    yield target


def download(where: StrPath | pathlib.Path, target: pathlib.Path) -> None:
  """Copies a file, or a folder with all that is below it, from an address.

  Raises:
    OSError: nothing is there, or it cannot be copied.
    UserError: a name leads out of the folder.
  """
  system, key = paths.system_of(where)
  with paths.storage_errors(where):
    if system.info(key)["type"] == "file":
      system.get_file(key, str(target))
      return
  inside = contents.tree(paths.path(str(where)))
  if not inside:
    raise FileNotFoundError(2, "no such file or folder", str(where))
  if escaping := [n for n in inside if n.startswith("/") or ".." in n.split("/")]:
    raise UserError(f"{where}: holds {escaping[0]!r}, a name that leads out of the folder.")
  for folder in {(target / name).parent for name in inside}:
    folder.mkdir(parents=True, exist_ok=True)

  def get(name: str) -> None:
    with paths.storage_errors(f"{where}/{name}"):
      system.get_file(f"{key.rstrip('/')}/{name}", str(target / name))

  with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
    list(pool.map(get, inside))


def upload(source: pathlib.Path, where: StrPath | pathlib.Path) -> None:
  """Copies a file, or the files of a folder and below it, to an address; replaces what is there.

  Raises:
    OSError: it cannot be copied.
  """
  system, key = paths.system_of(where)
  with paths.storage_errors(where):
    if source.is_file():
      system.put_file(str(source), key)
      return

  def put(name: str) -> None:
    with paths.storage_errors(f"{where}/{name}"):
      system.put_file(str(source / name), f"{key.rstrip('/')}/{name}")

  with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
    list(pool.map(put, contents.tree(source)))


def remove_tree(folder: StrPath | pathlib.Path) -> None:
  """Removes a folder and all that is below it; a missing folder is fine."""
  if not paths.is_address(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return
  where = paths.path(str(folder))
  with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
    gone = [f"{str(where).rstrip('/')}/{name}" for name in contents.tree(where)]
    list(pool.map(lambda name: contents.unlink(name, missing_ok=True), gone))


def move_tree(source: pathlib.Path, target: pathlib.Path) -> None:
  """Renames a folder, or a file; in a bucket all objects are copied first, then removed.

  Raises:
    OSError: it cannot be renamed, or `target` exists.
  """
  if not paths.is_remote(source):
    os.replace(source, target)
    return
  system, key = paths.system_of(source)
  to = paths.system_of(target)[1]
  with paths.storage_errors(source):
    if system.isfile(key):
      system.cp_file(key, to)
      contents.unlink(source)
      return
    for name in contents.tree(source):
      system.cp_file(f"{key.rstrip('/')}/{name}", f"{to.rstrip('/')}/{name}")
  remove_tree(source)
