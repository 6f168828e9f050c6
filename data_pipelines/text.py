"""Text that carries file names: bytes that are no UTF-8 go in and come out again.

A file name is any bytes but `/` and NUL. Python reads a byte that is no UTF-8 as a lone surrogate
(PEP 383); so does everything here, and writes it back as that byte.
"""

from __future__ import annotations

import os
import pathlib

from vssl_jax import files

_ERRORS = "surrogateescape"


def encode(text: str) -> bytes:
  """UTF-8 of a text, its lone surrogates as the bytes they stand for."""
  return text.encode("utf-8", _ERRORS)


def decode(data: bytes) -> str:
  """The inverse of `encode`, for any bytes."""
  return data.decode("utf-8", _ERRORS)


def read(path: str | os.PathLike[str]) -> str:
  """A text file, every line end as a newline, without a byte order mark."""
  return pathlib.Path(path).read_text(encoding="utf-8-sig", errors=_ERRORS)


def write(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file atomically."""
  with files.replacing(path) as file:
    file.write(encode(text))


def printable(text: str) -> str:
  """A name for a terminal or a picture, in one line: bytes and control characters escaped."""
  return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
  code = ord(character)
  if 0xDC80 <= code <= 0xDCFF:
    return f"\\x{code - 0xDC00:02x}"
  return character.encode("unicode_escape").decode()
