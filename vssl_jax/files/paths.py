"""Paths: files in file systems, and objects in buckets such as `gs://bucket/run`.

An address is `scheme://…`, of any scheme that fsspec knows. Its path is a `UPath`, which has the
methods of `pathlib.Path` and, on purpose, cannot be passed to `open` or to functions of `os`, which
would take `gs:` for the name of a folder.

In a bucket there are objects and no folders: an object appears whole when its upload ends, nothing
can be appended to it, and a folder exists as long as an object's name begins with it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from vssl_jax.errors import UserError, brief

StrPath = str | os.PathLike[str]
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]")
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}  # of this package


def is_address(path: StrPath) -> bool:
  """Whether a path is the address of an object or a folder, such as `gs://bucket/run`."""
  return bool(_SCHEME.match(str(path)))


def listed(paths: StrPath | Sequence[StrPath]) -> list[str]:
  """Turns one path or several into a list of strings; empty paths are left out."""
  several = paths if isinstance(paths, list | tuple) else [cast(StrPath, paths)]
  return [str(path) for path in several if str(path)]


def path(given: StrPath) -> pathlib.Path:
  """The path of a file, a folder or an address; what it names need not exist.

  Raises:
    UserError: an address is malformed, its library is not installed, or its bucket is missing or
      cannot be reached.
  """
  text = str(given)
  if not _SCHEME.match(text):
    return pathlib.Path(given)
  if not _ADDRESS.match(text):
    raise UserError(f"{text}: not an address; give it as scheme://bucket/name, with two slashes.")
  scheme = text.partition("://")[0].lower()
  try:
    from upath import UPath

    found = UPath(text, use_listings_cache=False)
    system = found.fs
  except (ImportError, ValueError) as e:
    extra = _EXTRAS.get(scheme)
    what = f"pip install 'vssl_jax[{extra}]'" if extra else "install what fsspec has for it"
    raise UserError(f"{text}: no support for {scheme}:// is installed ({brief(e)}): {what}.") from e
  _reach(system, scheme, found.path.lstrip("/").partition("/")[0], text)
  return cast(pathlib.Path, found)


def absolute(given: StrPath) -> str:
  """A path that means the same to a process with another current folder; an address stays."""
  return str(given) if is_address(given) else os.path.abspath(given)


def local(given: StrPath) -> pathlib.Path:
  """The path of a file or folder in a file system.

  Raises:
    UserError: it is an address, which would silently become a folder `gs:` here.
  """
  if is_address(given):
    raise UserError(
      f"{given}: this must be a file or folder in a file system; copy it to this machine."
    )
  return pathlib.Path(given)


def is_remote(where: StrPath | pathlib.Path) -> bool:
  """Whether `path` returned the path of an address."""
  return not isinstance(where, str | os.PathLike)


_REACHED: set[tuple[int, str]] = set()  # a question per bucket, not per path


def _reach(system: Any, scheme: str, bucket: str, text: str) -> None:
  """Asks for the bucket once, so that wrong names and credentials are found at the start."""
  if (os.getpid(), f"{scheme}://{bucket}") in _REACHED or scheme in ("memory", "http", "https"):
    return
  try:
    found = system.exists(bucket) or system.exists(text)
  except PermissionError:  # it may be forbidden to ask for a bucket whose objects may be read
    found = True
  except Exception as e:
    raise UserError(
      f"{text}: cannot be reached ({type(e).__name__}: {brief(e)[:300]}); check the address, the "
      "credentials of this machine and its network."
    ) from e
  if not found:
    raise UserError(f"{text}: there is no bucket {bucket!r}, or it may not be read; make it first.")
  _REACHED.add((os.getpid(), f"{scheme}://{bucket}"))


@functools.lru_cache(maxsize=4096)
def _system(text: str, pid: int) -> tuple[Any, str]:
  """The file system and the key of an address; of a process, because they hold its threads."""
  found = cast(Any, path(text))
  return found.fs, found.path


def system_of(where: StrPath) -> tuple[Any, str]:
  """The fsspec file system of an address, and its key there."""
  return _system(str(where), os.getpid())


@contextlib.contextmanager
def storage_errors(where: StrPath) -> Iterator[None]:
  """Turns the errors of storage libraries, which have many bases, into an OSError with the path."""
  try:
    yield
  except (OSError, UserError):
    raise
  except Exception as e:
    text = f"{type(e).__name__}: {brief(e)[:300]}"
    raise OSError(5, f"the storage answered with an error ({text})", str(where)) from e


def size(where: StrPath) -> int:
  """Size of a file in bytes.

  Raises:
    OSError: there is no such file.
  """
  if not is_address(where):
    return os.path.getsize(where)
  system, key = system_of(where)
  with storage_errors(where):
    return int(system.info(key)["size"])


def sizes(folder: pathlib.Path) -> dict[str, int]:
  """Sizes in bytes of the files of a folder, by name; of a bucket it costs one question per 1,000.

  A folder that does not exist has none.
  """
  if not is_remote(folder):
    if not folder.is_dir():
      return {}
    return {p.name: p.stat().st_size for p in os.scandir(folder) if p.is_file()}
  system, key = system_of(str(folder))
  try:
    with storage_errors(folder):
      found = system.ls(key, detail=True)
  except FileNotFoundError:
    return {}
  names = ((i["name"].rstrip("/").rpartition("/")[2], i) for i in found if i["type"] == "file")
  return {name: int(i["size"]) for name, i in names if name}


def tree(folder: pathlib.Path) -> dict[str, int]:
  """Sizes in bytes of all objects below an address, by their names relative to it.

  Raises:
    OSError: the storage cannot be asked.
  """
  system, key = system_of(str(folder))
  with storage_errors(str(folder)):
    found = system.find(key, detail=True)
  inside = key.rstrip("/") + "/"
  names = {name.removeprefix(inside): int(info["size"]) for name, info in found.items()}
  return {name: size for name, size in names.items() if name and not name.endswith("/")}


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
  if is_address(where):
    system, key = system_of(where)

    def read_object(start: int, length: int) -> bytes:
      with storage_errors(where):
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
  if not is_address(where):
    return open(where, "rb")
  system, key = system_of(str(where))
  with storage_errors(str(where)):
    return io.BytesIO(system.cat_file(key))


@contextlib.contextmanager
def local_copy(where: StrPath | pathlib.Path) -> Iterator[pathlib.Path]:
  """A file or folder in a file system: itself, or a temporary copy of what an address names.

  Raises:
    OSError: nothing is there, or it cannot be copied.
  """
  if not is_address(where):
    yield pathlib.Path(where)
    return
  with tempfile.TemporaryDirectory(prefix="vssl-") as folder:
    target = pathlib.Path(folder) / (path(str(where)).name or "bucket")
    download(str(where), target)
    yield target


def download(where: StrPath, target: pathlib.Path) -> None:
  """Copies a file, or a folder with all that is below it, from an address."""
  system, key = system_of(where)
  with storage_errors(where):
    if system.isfile(key):
      system.get_file(key, str(target))
      return
    found = [name for name in system.find(key) if not name.endswith("/")]
    if not found:
      raise FileNotFoundError(2, "no such file or folder", str(where))
    inside = key.rstrip("/").lstrip("/") + "/"
    names = [name.lstrip("/").removeprefix(inside) for name in found]
    if escaping := [n for n in names if n.startswith("/") or ".." in n.split("/")]:
      raise UserError(f"{where}: holds {escaping[0]!r}, a name that leads out of the folder.")
    places = [target / name for name in names]
    for folder in {place.parent for place in places}:
      folder.mkdir(parents=True, exist_ok=True)
    system.get(found, [str(place) for place in places])


def upload(source: pathlib.Path, where: StrPath) -> None:
  """Copies a file, or the files of a folder and below it, to an address; replaces what is there."""
  system, key = system_of(where)
  with storage_errors(where):
    if source.is_file():
      system.put_file(str(source), key)
      return
    found = sorted(p for p in source.rglob("*") if p.is_file())
    keys = [f"{key.rstrip('/')}/{p.relative_to(source).as_posix()}" for p in found]
    for file, name in zip(found, keys, strict=True):
      system.put_file(str(file), name)


def remove_tree(folder: StrPath | pathlib.Path) -> None:
  """Removes a folder and all that is below it; a missing folder is fine."""
  if not is_address(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return
  system, key = system_of(str(folder))
  with storage_errors(str(folder)), contextlib.suppress(FileNotFoundError):
    system.rm(key, recursive=True)


def move_tree(source: pathlib.Path, target: pathlib.Path) -> None:
  """Renames a folder; in a bucket all objects are copied first, then removed."""
  if not is_remote(source):
    os.replace(source, target)
    return
  system, key = system_of(str(source))
  to = system_of(str(target))[1]
  with storage_errors(str(source)):
    found = system.find(key)
    for name in found:
      system.cp_file(name, to.rstrip("/") + "/" + name.removeprefix(key.rstrip("/") + "/"))
    system.rm(found)
