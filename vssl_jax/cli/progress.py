"""The progress bar of every long step: count, rate and remaining time."""

from __future__ import annotations

import sys

import tqdm

DELAY = 2.0  # seconds; a step that is over by then shows no bar
TERMINAL, LOG = 0.2, 15.0  # seconds between two lines; a log or a notebook keeps them all


def bar(
  title: str, total: int | None = None, *, unit: str = "video", done: int = 0, shown: bool = True
) -> tqdm.tqdm:
  """A bar on standard error, to be used in a `with` block; `update(n)` moves it on.

  Args:
    title: the text before it, which says what is going on.
    total: the number that makes it full; None or 0 if it is not known.
    unit: what is counted, in the singular.
    done: how many were there before this process.
    shown: False draws nothing, as for all processes but the first.
  """
  return tqdm.tqdm(
    desc=title,
    total=total or None,
    initial=done,
    unit=f" {unit}s",
    disable=not shown,
    delay=DELAY,
    mininterval=TERMINAL if sys.stderr.isatty() else LOG,
    smoothing=0.1,
    file=sys.stderr,
  )
