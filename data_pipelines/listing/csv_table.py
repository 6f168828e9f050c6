"""Reads a CSV with a header line, as spreadsheets, pandas and people write them.

Capitals in the names of known columns do not matter, and neither do empty rows, nor empty cells at
the end of a row. A row with more values than the header has columns is refused: its values would
be read under the wrong names.
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

from vssl_jax import files
from vssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Table:
  """The content of a CSV.

  Attributes:
    path: the file.
    columns: names of the columns; known ones in small letters, "" for a column without a name.
    rows: number of its last line, and values by name of column, of each row that is not empty;
      without spaces at their ends.
  """

  path: pathlib.Path
  columns: tuple[str, ...]
  rows: tuple[tuple[int, dict[str, str]], ...]

  def column(self, name: str, *, required: bool) -> str | None:
    """The column of this name, or else the one whose name differs only by capitals.

    Raises:
      UserError: there is none and it is required, or there are several.
    """
    named = [c for c in self.columns if c == name]
    named = named or [c for c in self.columns if c.casefold() == name.casefold()]
    if len(named) > 1:
      raise UserError(
        f"{self.path}: several columns are named {name!r}: rename or remove the others"
      )
    if not named and required:
      raise UserError(f"{self.path}: no column {name!r}; it has {', '.join(self.columns)}")
    return named[0] if named else None


def read(path: pathlib.Path, known: Sequence[str]) -> Table:
  """Reads a CSV.

  Args:
    path: the file.
    known: names of the columns that the caller reads, in small letters.

  Raises:
    UserError: the file or one of its lines is too large (see `files.lines`) or cannot be read, two
      columns have the name of one that is known, or a row has more values than columns; names the
      line.
  """
  try:
    rows = _rows(path)
    columns = [c.lower() if c.lower() in known else c for c in next(rows, (0, []))[1]]
    for name in known:
      if columns.count(name) > 1:
        raise UserError(f"{path}: two columns are named {name!r}: rename or remove one")
    while columns and not columns[-1]:
      columns.pop()
    if len(columns) == 1 and (found := [mark for mark in ";\t|" if mark in columns[0]]):
      raise UserError(
        f"{path}: its columns are separated by {found[0]!r} ({columns[0][:80]!r}): separate them "
        "by commas, and put a value with a comma in quotes"
      )
    return Table(path, tuple(columns), tuple((n, _named(path, n, row, columns)) for n, row in rows))
  except (OSError, csv.Error) as error:
    raise UserError(f"{path}: cannot be read as CSV ({error})") from None


def _rows(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
  """Number of the last line, and values, of each row that is not empty."""
  record: list[str] = []  # lines of the current row

  def lines() -> Iterator[str]:
    for line in files.lines(path, instead="give a folder of videos or a CSV in UTF-8"):
      record.append(line)
      yield line

  reader = csv.reader(lines(), skipinitialspace=True)
  for row in reader:
    if len(record) > 1:
      _check_quotes(path, reader.line_num, record)
    record.clear()
    cells = [cell.strip() for cell in row]
    if any(cells):
      yield reader.line_num, cells


def _check_quotes(path: pathlib.Path, line: int, record: list[str]) -> None:
  """Stops at a row over several lines whose quotes do not match: it has swallowed other rows."""
  try:
    list(csv.reader(record, skipinitialspace=True, strict=True))
  except csv.Error:
    first = line - len(record) + 1
    raise UserError(
      f"{path}, line {first}: a quotation mark opens a value here and is not closed before line "
      f"{line}: close it, or double each mark that belongs to the value"
    ) from None


def _named(path: pathlib.Path, line: int, row: list[str], columns: list[str]) -> dict[str, str]:
  count = len(columns)
  if beyond := [value for value in row[count:] if value]:
    raise UserError(
      f"{path}, line {line}: {len(row)} values, but the first line names {count} columns "
      f"({','.join(columns)[:80]}); {beyond[0]!r} is of none: put a value with a comma in quotes, "
      "or name the column"
    )
  return dict(zip(columns, row + [""] * (count - len(row)), strict=False))
