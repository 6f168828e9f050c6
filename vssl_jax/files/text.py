"""Texts with file names of any bytes.

A file name may contain any byte except `/` and NUL. Python represents a byte that is not valid
UTF-8 as a lone surrogate (PEP 383). The functions for text do the same when they read, and write
the surrogate back as the original byte.
"""

from __future__ import annotations

import json
import re
from typing import Any

from vssl_jax.errors import UserError
from vssl_jax.files import contents
from vssl_jax.files.paths import StrPath, is_address
from vssl_jax.files.writing import replacing

MOST = 1 << 30  # bytes of a text file that is read whole
_PART = 1 << 20  # bytes that are read at a time
_ERRORS = "surrogateescape"
_MARKUP = re.compile(r"([\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def encode(text: str) -> bytes:
  """Encodes a text as UTF-8; lone surrogates become the bytes they stand for."""
  return text.encode("utf-8", _ERRORS)


def decode(data: bytes) -> str:
  """Decodes any bytes; the inverse of `encode`."""
  return data.decode("utf-8", _ERRORS)


def read_text(path: StrPath, *, strict: bool = False) -> str:
  """Reads a text file; line ends become newlines, a byte order mark is dropped.

  Args:
    path: the file.
    strict: refuse bytes that are not UTF-8.

  Raises:
    OSError: the file cannot be read.
    UnicodeDecodeError: a byte is not UTF-8, and the reading is strict.
    UserError: the file is larger than `MOST`, and would fill the memory.
  """
  if not is_address(path):  # there it would be a request more for each of many small files
    check_size(path)
  with contents.open_read(path) as file:
    parts, left = [], MOST  # not all at once, which would reserve the memory for the largest file
    while part := file.read(_PART):
      parts.append(part)
      left -= len(part)
      if left < 0:  # of what has no size, such as a pipe
        raise too_large(path)
  text = b"".join(parts).decode("utf-8-sig", "strict" if strict else _ERRORS)
  return text.replace("\r\n", "\n").replace("\r", "\n")


def check_size(path: StrPath) -> None:
  """Refuses a file that is larger than `MOST`, before it is read.

  Raises:
    OSError: there is no such file.
    UserError: it is larger.
  """
  if contents.size(path) > MOST:
    raise too_large(path)


def too_large(path: StrPath) -> UserError:
  """The error for a text file that would fill the memory."""
  return UserError(
    f"{path}: more than {MOST >> 20} MiB, too much for a text file that is read whole; is it the "
    "right file?"
  )


def read_json(path: StrPath) -> Any:
  """Reads a JSON file.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is not JSON, or nested too deeply; a `UserError` if it is larger than `MOST`.
  """
  return parse_json(read_text(path))


def parse_json(text: str, **kwargs: Any) -> Any:
  """`json.loads`, where a text that is nested too deeply is a `ValueError` as well."""
  try:
    return json.loads(text, **kwargs)
  except RecursionError:
    raise ValueError("nested too deeply") from None


def write_text(path: StrPath, text: str) -> None:
  """Writes a text file atomically."""
  with replacing(path) as file:
    file.write(encode(text))


def printable(text: str) -> str:
  """Makes a text safe to print or draw: one line, with raw bytes and control characters escaped."""
  return "".join(c if c.isprintable() else _escaped(c) for c in text)


def markdown(text: str) -> str:
  """Makes a text safe within a line or a cell of Markdown, and so of HTML: shown as it is."""
  plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
  return _MARKUP.sub(r"\\\1", plain)


def _escaped(character: str) -> str:
  code = ord(character)
  if 0xDC80 <= code <= 0xDCFF:
    return f"\\x{code - 0xDC00:02x}"
  return character.encode("unicode_escape").decode()
