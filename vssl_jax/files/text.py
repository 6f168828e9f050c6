"""Texts with file names of any bytes.

A file name may contain any byte except `/` and NUL. Python represents a byte that is not valid
UTF-8 as a lone surrogate (PEP 383). The functions for text do the same when they read, and write
the surrogate back as the original byte.
"""

from __future__ import annotations

import io

from vssl_jax.files import contents
from vssl_jax.files.paths import StrPath
from vssl_jax.files.writing import replacing

_ERRORS = "surrogateescape"


def encode(text: str) -> bytes:
  """Encodes a text as UTF-8; lone surrogates become the bytes they stand for."""
  return text.encode("utf-8", _ERRORS)


def decode(data: bytes) -> str:
  """Decodes any bytes; the inverse of `encode`."""
  return data.decode("utf-8", _ERRORS)


def read_text(path: StrPath) -> str:
  """Reads a text file; line ends become newlines, a byte order mark is dropped.

  Raises:
    OSError: the file cannot be read.
  """
  with contents.open_read(path) as file:
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors=_ERRORS).read()


def write_text(path: StrPath, text: str) -> None:
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
