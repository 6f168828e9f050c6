"""Values of files that may hold anything: each is taken if it has the type that is needed."""

from __future__ import annotations

import math
from typing import Any


def mapping(value: Any, *keys: str) -> dict[str, Any]:
  """The dict at a path of keys; an empty one if there is something else.

  Args:
    value: any JSON.
    keys: the keys from the outside to the inside.
  """
  for key in keys:
    value = value.get(key) if isinstance(value, dict) else None
  return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
  """The list; an empty one if it is something else."""
  return value if isinstance(value, list) else []


def number(value: Any) -> float | None:
  """The finite number; None if it is something else, such as the text "nan" of a metrics file."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  try:
    found = float(value)
  except OverflowError:
    return None
  return found if math.isfinite(found) else None


def whole(value: Any, below: int) -> int | None:
  """The integer in [0, below); None if it is something else."""
  good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below
  return value if good else None


def text(value: Any, longest: int = 300) -> str:
  """The value as one line of text of limited length, without bytes that no text has."""
  line = " ".join(str(value).split())
  line = line.encode("utf-8", "replace").decode()
  return line if len(line) <= longest else line[: longest - 1] + "…"
