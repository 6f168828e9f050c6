"""Class names that tell a side, which a mirrored clip would contradict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SIDES = {"left", "right", "leftward", "rightward", "leftwards", "rightwards"}
_TURNS = {"clockwise", "counterclockwise", "anticlockwise"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def directional(names: Iterable[str]) -> list[str]:
  """The names with a word such as left, right or clockwise: `swipe_left`, `TurnRight`, `Left hand`.

  Parts of words do not count: `bright`, `cleft`.
  """
  return [
    name for name in names if {word.lower() for word in _WORD.findall(name)} & (_SIDES | _TURNS)
  ]


def note(flip: float, names: Sequence[str]) -> str:
  """What to say where clips are mirrored under the names of classes; "" if nothing.

  Args:
    flip: probability of a mirrored clip.
    names: the classes.
  """
  sides = directional(names) if flip else []
  if not sides:
    return ""
  return (
    f"note: clips are mirrored at random, but {len(sides)} of {len(names)} classes tell left from "
    f"right, such as {sides[0]!r}: evaluate with --flip=0, and train with --config.augment.flip=0"
  )
