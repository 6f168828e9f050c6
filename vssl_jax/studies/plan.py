"""What a call of a study would run, and about how long that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vssl_jax.studies import folder
from vssl_jax.studies.folder import Run
from vssl_jax.studies.study import RESULT


def plan(runs: Sequence[Run], configs: Mapping[str, ConfigDict]) -> list[dict[str, Any]]:
  """The runs with their states; missing ones also with the seconds that are expected of them.

  Runs of the same cell tell how long one takes, else runs of other cells: their time of training
  times the ratio of the frames that are encoded, and their time of evaluation. Nothing is known
  before any run is done.

  Args:
    runs: all runs.
    configs: the configs of the cells by name.
  """
  took: dict[str, list[tuple[float, float]]] = {}
  for run in runs:
    found = run.result(RESULT) or {}
    # A run that was continued tells only how long its last part took.
    if found.get("train_seconds") and found.get("seconds", 0) >= found["train_seconds"]:
      train = float(found["train_seconds"])
      took.setdefault(run.cell.name, []).append((train, float(found["seconds"]) - train))
  rows = []
  for run in runs:
    row: dict[str, Any] = {"run": run.name, "seed": run.seed, "state": run.state()}
    if row["state"] != folder.DONE and took:
      row["seconds"] = _expected(run.cell.name, took, configs)
    rows.append(row)
  return rows


def _expected(
  cell: str, took: Mapping[str, list[tuple[float, float]]], configs: Mapping[str, ConfigDict]
) -> float:
  one = _frames(configs[cell])
  guesses = [
    train * one / _frames(configs[other]) + rest
    for other, times in ({cell: took[cell]} if cell in took else took).items()
    for train, rest in times
  ]
  return sum(guesses) / len(guesses)


def _frames(c: ConfigDict) -> float:
  """A number in proportion to the pixels that a run's network encodes."""
  updates = c.steps * c.batch_size if c.steps else c.epochs * 1e3 * c.data.fraction
  return max(1e-9, updates * c.data.clips * c.data.frames * c.data.size**2)


def text(rows: Sequence[Mapping[str, Any]]) -> str:
  """The plan as lines: one per run, then the sum."""
  width = max((len(row["run"]) for row in rows), default=0)
  lines = []
  for row in rows:
    about = f"  about {duration(row['seconds'])}" if "seconds" in row else ""
    lines.append(f"{row['run']:{width}}  {row['state']}{about}")
  left = [row for row in rows if row["state"] != folder.DONE]
  known = [row["seconds"] for row in left if "seconds" in row]
  cost = f", about {duration(sum(known))} of one device" if known else ""
  unknown = "; how long a run takes is known when the first is done" if left and not known else ""
  lines.append(f"{len(rows) - len(left)} of {len(rows)} runs are done{cost}{unknown}")
  return "\n".join(lines)


def duration(seconds: float) -> str:
  """Seconds in words."""
  if seconds < 90:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
