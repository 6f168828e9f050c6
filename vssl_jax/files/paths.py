"""Paths: files in file systems, and objects in buckets such as `gs://bucket/run`.

An address is `scheme://…`, of any scheme that fsspec knows. Its path is a `UPath`, which has the
methods of `pathlib.Path` and, on purpose, cannot be passed to `open` or to functions of `os`, which
would take `gs:` for the name of a folder.

In a bucket there are objects and no folders: an object appears whole when its upload ends, nothing
can be appended to it, and a folder exists as long as an object's name begins with it.

Do not use `glob` and `unlink` of a `UPath`: they take `[` and `*` in any part of the address for a
pattern, and so find or remove other objects. `files.matching` and `files.unlink` do not.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

from vssl_jax.errors import UserError, brief, storage_fault
from vssl_jax.files import extras

StrPath = str | os.PathLike[str]
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]")
_EXTRAS = {"gs": "gcs", "s3": "s3"}  # of this package
_LONGEST = 240  # bytes of a name; file systems take 255, and endings are added
_NEAR = ("memory", "http", "https")  # have no buckets
_REACHED: set[tuple[int, str]] = set()  # buckets that were asked for, by process


def is_address(path: StrPath) -> bool:
  """Whether a path is the address of an object or a folder, such as `gs://bucket/run`."""
  return bool(_SCHEME.match(str(path)))


def is_remote(where: StrPath | pathlib.Path) -> bool:
  """Whether `path` returned the path of an address."""
  return not isinstance(where, str | os.PathLike)


def listed(paths: StrPath | Iterable[StrPath]) -> list[str]:
  """Turns one path or several into a list of strings; empty paths are left out."""
  one = isinstance(paths, str | os.PathLike) or hasattr(paths, "joinpath")  # as a `UPath` has
  several = [cast(StrPath, paths)] if one else cast(Iterable[StrPath], paths)
  return [str(path) for path in several if str(path)]


def absolute(given: StrPath) -> str:
  """A path that means the same to a process with another current folder; an address stays."""
  return str(given) if is_address(given) else os.path.abspath(given)


def check_name(name: str, where: str) -> str:
  """Checks that a name from a file can become the path of a file in a folder, and no other.

  Names come with data, annotations or checkpoints that others made. One such as `../../x` would
  have this program read or write outside the folder that the user named.

  Args:
    name: the name, perhaps with folders, without the ending that is added to it.
    where: the file and the field that it came from, for the message.

  Returns:
    The name.

  Raises:
    UserError: it is empty, absolute, leads out of the folder, is longer than file systems take, or
      has characters that no file name can have.
  """
  parts = re.split(r"[/\\]", name)
  try:
    longest = max(len(part) for part in os.fsencode(name).split(b"/"))
  except UnicodeEncodeError:
    longest = -1
  if not name or "\0" in name or longest < 0:
    why = "empty, or has characters that no file name has"
  elif not parts[0] or is_address(name) or re.match(r"[A-Za-z]:[/\\]", name):
    why = "an absolute path, which is outside the folder of the data"
  elif ".." in parts or set(parts) == {"."}:
    why = "a path that leads out of the folder of the data"
  elif longest > _LONGEST:
    why = f"longer than {_LONGEST} bytes"
  else:
    return name
  raise UserError(f"{where}: the name {name[:100]!r} is {why}; rename it.")


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
    raise UserError(
      f"{text}: not the address of an object; give it as scheme://bucket/name, with two slashes."
    )
  scheme, _, rest = text.partition("://")
  scheme = {"gcs": "gs"}.get(scheme.lower(), scheme.lower())  # Orbax knows `gs` alone
  text = f"{scheme}://{rest}"
  try:
    import fsspec
    from upath import UPath

    # Orbax makes file systems of its own, which would not see what others write and remove.
    fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    found = UPath(text, use_listings_cache=False)
    system = found.fs
  except (ImportError, ValueError) as e:
    extra = _EXTRAS.get(scheme)
    what = extras.install(extra) if extra else "install what fsspec has for it"
    raise UserError(f"{text}: no support for {scheme}:// is installed ({brief(e)}): {what}.") from e
  _reach(system, scheme, found.path.lstrip("/").partition("/")[0], text)
  return cast(pathlib.Path, found)


def _reach(system: Any, scheme: str, bucket: str, text: str) -> None:
  """Asks for the bucket once, so that wrong names and credentials are found at the start."""
  mark = os.getpid(), f"{scheme}://{bucket}"
  if mark in _REACHED or scheme in _NEAR:
    return
  try:
    try:
      found = system.exists(bucket) or system.exists(text)
    except PermissionError:  # perhaps only of the bucket, not of what is asked for
      found = system.find(text, maxdepth=1) is not None
  except FileNotFoundError:
    found = False
  except Exception as e:
    raise UserError(
      f"{text}: cannot be reached ({type(e).__name__}: {brief(e)[:300]}); check the address, the "
      "credentials of this machine and its network."
    ) from e
  if not found:
    raise UserError(
      f"{text}: there is no bucket {bucket!r}, or you may not list it; make it, or check the name "
      "and the credentials of this machine."
    )
  _REACHED.add(mark)


@functools.lru_cache(maxsize=4096)
def _system(text: str, pid: int) -> tuple[Any, str]:
  """The file system and the key of an address; of a process, because they hold its threads."""
  found = cast(Any, path(text))
  return found.fs, found.path


def system_of(where: StrPath | pathlib.Path) -> tuple[Any, str]:
  """The fsspec file system of an address, and its key there."""
  return _system(str(where), os.getpid())


@contextlib.contextmanager
def named_errors(where: StrPath | pathlib.Path) -> Iterator[None]:
  """Adds the path to errors of the storage, which the system tells of opened files without it.

  The errors of libraries for storage become an OSError if the system's reason is in their text.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as e:
    if isinstance(e, OSError) and e.filename is not None:
      raise
    fault = storage_fault(e)
    if fault is None:
      raise
    raise OSError(fault.errno, fault.strerror, fault.filename or str(where)) from e


@contextlib.contextmanager
def storage_errors(where: StrPath | pathlib.Path) -> Iterator[None]:
  """Turns the errors of storage libraries, which have many bases, into an OSError with the path."""
  try:
    yield
  except (OSError, UserError):
    raise
  except Exception as e:
    text = f"{type(e).__name__}: {brief(e)[:300]}"
    raise OSError(5, f"the storage answered with an error ({text})", str(where)) from e
