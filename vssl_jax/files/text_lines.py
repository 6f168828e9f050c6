"""Lists and tables in text files, read a line at a time, so that no file fills the memory."""

from __future__ import annotations

import io
from collections.abc import Iterator

from vssl_jax.errors import UserError
from vssl_jax.files import contents, text
from vssl_jax.files.paths import StrPath

LONGEST = 1 << 20  # characters of a line


def lines(
  path: StrPath, *, strict: bool = False, instead: str = "is it the right file?"
) -> Iterator[str]:
  """Reads the lines of a text file, with their ends; a byte order mark is dropped.

  A line ends with a newline, a carriage return, or both.

  Args:
    path: the file.
    strict: refuse bytes that are not UTF-8; else they become lone surrogates, as in `read_text`.
    instead: what to do if this is no text, for the message.

  Raises:
    OSError: the file cannot be read.
    UnicodeDecodeError: a byte is not UTF-8, and the reading is strict.
    UserError: the file is larger than `text.MOST`, which is found before it is read, a line is
      longer than `LONGEST`, or the first one has a NUL byte, as in UTF-16 and in no text.
  """
  text.check_size(path)
  left = text.MOST
  with contents.open_read(path) as raw:
    errors = "strict" if strict else "surrogateescape"
    file = io.TextIOWrapper(raw, encoding="utf-8-sig", errors=errors, newline="")
    number = 0
    while line := file.readline(LONGEST + 1):
      number, left = number + 1, left - len(line)
      if number == 1 and "\0" in line:
        raise UserError(f"{path}: not a UTF-8 text file: {instead}")
      if len(line) > LONGEST:
        raise UserError(
          f"{path}, line {number}: more than {LONGEST >> 20} MiB without a line break: {instead}"
        )
      if left < 0:  # of what has no size, such as a pipe
        raise text.too_large(path)
      yield line
