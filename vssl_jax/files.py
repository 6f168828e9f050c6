"""Files: written atomically (complete or not at all), and texts with file names of any bytes.

Writing is implemented here because atomicwrites, a library for it, is no longer maintained.

A file name may contain any byte except `/` and NUL. Python represents a byte that is not valid
UTF-8 as a lone surrogate (PEP 383). The functions for text do the same when they read, and write
the surrogate back as the original byte.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import socket
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from vssl_jax.errors import UserError

StrPath = str | os.PathLike[str]
_ERRORS = "surrogateescape"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # also of a `Path`, which has lost a slash


def listed(paths: StrPath | Sequence[StrPath]) -> list[str]:
  """Turns one path or several into a list of strings; empty paths are left out."""
  several = [paths] if isinstance(paths, str | os.PathLike) else paths
  return [os.fspath(path) for path in several if os.fspath(path)]


def local(path: StrPath) -> pathlib.Path:
  """The path of a file or folder in a file system.

  Raises:
    UserError: it is an address, such as `gs://bucket/run`, which would silently become a folder
      `gs:` here.
  """
  if _ADDRESS.match(text := os.fspath(path)):
    raise UserError(
      f"{text}: only file systems are supported; mount the bucket, or copy it to this machine."
    )
  return pathlib.Path(path)


def make_folder(path: str | os.PathLike[str]) -> pathlib.Path:
  """Makes a folder and its missing parent folders; an existing folder is fine.

  Raises:
    UserError: the folder cannot be made, for example because there is a file of this name.
  """
  path = local(path)
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise UserError(
      f"{path}: no folder can be made here ({e.strerror}); choose another path."
    ) from None
  return path


def temporary_of(path: StrPath) -> pathlib.Path:
  """The name of a file while it is written; no other process has it, on this host or another."""
  path = pathlib.Path(path)
  return path.with_name(f".tmp-{socket.gethostname()}-{os.getpid()}-{path.name}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
  """Opens a new file for writing; it gets its name only when it is complete and on disk.

  After an exception, an existing file is unchanged. A killed process leaves a `.tmp-*` file beside
  it.

  Args:
    path: the file to create or replace; its folder must exist.

  Raises:
    OSError: the file cannot be written.
  """
  path = local(path)
  temporary = temporary_of(path)
  try:
    with open(temporary, "wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a file under a temporary name, then renames it; makes its folder if missing."""
  local(path).parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as file:
    file.write(data)


def encode(text: str) -> bytes:
  """Encodes a text as UTF-8; lone surrogates become the bytes they stand for."""
  return text.encode("utf-8", _ERRORS)


def decode(data: bytes) -> str:
  """Decodes any bytes; the inverse of `encode`."""
  return data.decode("utf-8", _ERRORS)


def read_text(path: str | os.PathLike[str]) -> str:
  """Reads a text file; line ends become newlines, a byte order mark is dropped."""
  return local(path).read_text(encoding="utf-8-sig", errors=_ERRORS)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file atomically."""
  with replacing(path) as file:
    file.write(encode(text))


def printable(text: str) -> str:
  """Makes a text safe to print or draw: one line, with raw bytes and control characters escaped."""
  return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
  code = ord(character)
  if 0xDC80 <= code <= 0xDCFF:
    return f"\\x{code - 0xDC00:02x}"
  return character.encode("unicode_escape").decode()
