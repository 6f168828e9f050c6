"""What is in files and folders, here and in buckets: sizes, names, ranges of bytes."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import pathlib
from collections.abc import Callable, Iterator

from vssl_jax.files import paths
from vssl_jax.files.paths import StrPath


def size(where: StrPath) -> int:
  """Size of a file in bytes.

  Raises:
    OSError: there is no such file.
  """
  if not paths.is_address(where):
    return os.path.getsize(where)
  system, key = paths.system_of(where)
  with paths.storage_errors(where):
    return int(system.info(key)["size"])


def sizes(folder: pathlib.Path) -> dict[str, int]:
  """Sizes in bytes of the files of a folder, by name; of a bucket it costs one question per 1,000.

  A folder that does not exist has none.
  """
  if not paths.is_remote(folder):
    found = {}
    for name in names(folder):
      with contextlib.suppress(FileNotFoundError):  # renamed or removed since
        found[name] = (folder / name).stat().st_size
    return found
  system, key = paths.system_of(folder)
  try:
    with paths.storage_errors(folder):
      entries = system.ls(key, detail=True)
  except FileNotFoundError:
    return {}
  inside = ((i["name"].rstrip("/").rpartition("/")[2], i) for i in entries if i["type"] == "file")
  return {name: int(i["size"]) for name, i in inside if name}


def names(folder: pathlib.Path) -> list[str]:
  """Names of the files of a folder, sorted; of one that does not exist, none."""
  if paths.is_remote(folder):
    return sorted(sizes(folder))
  if not folder.is_dir():
    return []
  return sorted(entry.name for entry in os.scandir(folder) if entry.is_file())


def tree(folder: pathlib.Path) -> dict[str, int]:
  """Sizes in bytes of all files below a folder, by their names relative to it, with slashes.

  Raises:
    OSError: the storage cannot be asked.
  """
  if not paths.is_remote(folder):
    inside = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in inside}
  system, key = paths.system_of(folder)
  with paths.storage_errors(folder):
    found = system.find(key, detail=True)
  begin = key.rstrip("/") + "/"
  inside_bucket = {n.removeprefix(begin): int(info["size"]) for n, info in found.items()}
  return {name: x for name, x in inside_bucket.items() if name and not name.endswith("/")}


def matching(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  """Files and folders below a folder whose relative names match a pattern of `fnmatch`, sorted.

  Args:
    folder: taken literally, also if its name has `[` or `*` in it.
    pattern: with as many slashes as the names have.
  """
  if not paths.is_remote(folder):
    return sorted(folder.glob(pattern))
  found = set()
  depth = pattern.count("/") + 1
  for name in tree(folder):
    beginning = "/".join(name.split("/")[:depth])
    if beginning.count("/") == depth - 1 and fnmatch.fnmatchcase(beginning, pattern):
      found.add(beginning)
  return [folder / name for name in sorted(found)]


def unlink(where: StrPath | pathlib.Path, *, missing_ok: bool = False) -> None:
  """Removes a file.

  Raises:
    OSError: it cannot be removed, or is missing and may not be.
  """
  if not paths.is_address(where):
    pathlib.Path(where).unlink(missing_ok=missing_ok)
    return
  system, key = paths.system_of(where)
  try:
    with paths.storage_errors(where):
      system.rm_file(key)
  except FileNotFoundError:
    if not missing_ok:
      raise


def read_range(where: StrPath, start: int, length: int) -> bytes:
  """Reads bytes from a file, or fewer if the file ends; safe to call from several threads.

  Args:
    where: file or address.
    start: position of the first byte.
    length: number of bytes.

  Raises:
    OSError: the file cannot be read.
  """
  with ranges(where) as read:
    return read(start, length)


@contextlib.contextmanager
def ranges(where: StrPath) -> Iterator[Callable[[int, int], bytes]]:
  """Opens a file for several calls of the function that it yields, which is as `read_range`."""
  if paths.is_address(where):
    system, key = paths.system_of(where)

    def read_object(start: int, length: int) -> bytes:
      with paths.storage_errors(where):
        return system.cat_file(key, start=start, end=start + length) if length else b""

    yield read_object
    return
  with open(where, "rb", buffering=0) as file:

    def read(start: int, length: int) -> bytes:
      file.seek(start)
      data = file.read(length)
      while len(data) < length:  # a single raw read may stop at 2 GiB
        more = file.read(length - len(data))
        if not more:
          break
        data += more
      return data

    yield read


def open_read(where: StrPath | pathlib.Path) -> io.BufferedReader | io.BytesIO:
  """Opens a file for reading, with `seek`; an object of a bucket is read whole.

  Raises:
    OSError: the file cannot be read.
  """
  if not paths.is_address(where):
    return open(where, "rb")
  system, key = paths.system_of(where)
  with paths.storage_errors(where):
    return io.BytesIO(system.cat_file(key))
