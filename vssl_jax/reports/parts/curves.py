"""The curves of training: runs overlaid, and runs that differ only in their seed summed up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vssl_jax.reports import differences, figures, markup
from vssl_jax.reports.figures import Figure
from vssl_jax.reports.folders import Run
from vssl_jax.reports.parts.monitors import KNOWN, MONITORS, Monitor
from vssl_jax.reports.reading import number

_MOST = 400  # points of a curve; of longer ones, several rows are averaged
_OTHERS = 24  # further numbers that are drawn
Group = tuple[str, list[Run]]


def groups(runs: Sequence[Run]) -> list[Group]:
  """Runs with logged steps; those of equal configs but for the seed together, with a name."""
  found: dict[str, list[Run]] = {}
  for run in runs:
    if run.rows:
      found.setdefault(differences.but_seed(run.config), []).append(run)
  return [
    (own[0].name if len(own) == 1 else f"{own[0].name} and {len(own) - 1} more seeds", own)
    for own in found.values()
  ]


def draw(runs: Sequence[Run]) -> tuple[list[Figure], list[Figure]]:
  """The figures of the monitors, and those of other logged numbers."""
  found = groups(runs)
  if not found:
    return [], []
  keys = {key for run in runs for row in run.rows for key in row}
  first = [f for m in MONITORS if m.key in keys and (f := _figure(m, found)) is not None]
  others = [Monitor(key, key, "") for key in sorted(keys - KNOWN)][:_OTHERS]
  return first, [f for m in others if (f := _figure(m, found)) is not None]


def _figure(monitor: Monitor, found: Sequence[Group]) -> Figure | None:
  data: list[dict[str, Any]] = []
  numbers = []
  for i, (name, own) in enumerate(found):
    series = [s for run in own if len((s := _series(run, monitor.key))[0])]
    if not series:
      continue
    tone = figures.color(i)
    line = {"color": tone, "dash": figures.DASHES[i % len(figures.DASHES)], "width": 2}
    shown = markup.figure_text(name)
    base: dict[str, Any] = {
      "type": "scatter",
      "mode": "lines",
      "legendgroup": str(i),
      "name": shown,
    }
    steps, mean = series[0]
    if len(series) > 1:
      steps, mean, low, high = _over_seeds(series)
      band = {
        "x": [*steps, *steps[::-1]],
        "y": [*high, *low[::-1]],
        "fill": "toself",
        "fillcolor": figures.faint(tone, 0.22),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
      }
      data.append(base | band)
    if len(steps) == 1:
      base = base | {"mode": "markers"}
    data.append(base | {"x": _json(steps), "y": _json(mean), "line": line})
    guess = [_series(run, "loss_of_guessing") for run in own[:1]] if monitor.key == "loss" else []
    for at, value in guess:
      if len(at):
        level = {"color": tone, "dash": "dot", "width": 1}
        own_line = {"name": f"guessing, {shown}", "showlegend": False, "mode": "lines"}
        data.append(base | own_line | {"x": _json(at), "y": _json(value), "line": level})
    ends = [f"{x[np.isfinite(x)][-1]:.4g}" if np.isfinite(x).any() else "–" for _, x in series]
    every = np.concatenate([x for _, x in series])
    numbers.append([name, ", ".join(ends), *_range(every)])
  if not numbers:
    return None
  warned = [(run, told) for _, own in found for run in own if (told := monitor.warn(run.rows))]
  warnings = [markup.tag("strong", f"⚠ {run.name}: {told} ") for run, told in warned]
  axis = {"type": "log"} if monitor.log else {"rangemode": "tozero"} if monitor.zero else {}
  return Figure(
    name="curve-" + re.sub(r"[^A-Za-z0-9]+", "-", monitor.key),
    title=monitor.title,
    data=data,
    layout={
      "xaxis": {"title": {"text": "step"}},
      "yaxis": axis,
      "showlegend": len(found) > 1,
    },
    words=markup.join([*warnings, monitor.words], " "),
    numbers=markup.table(["run", "last", "smallest", "largest"], numbers, monitor.title),
  )


def _range(values: np.ndarray) -> list[str]:
  finite = values[np.isfinite(values)]
  return [f"{finite.min():.4g}", f"{finite.max():.4g}"] if len(finite) else ["–", "–"]


def _json(values: np.ndarray) -> list[float | None]:
  return [float(f"{x:.6g}") if np.isfinite(x) else None for x in values.tolist()]


def _series(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
  """Steps and values `[N]`, NaN where a value is not finite; at most `_MOST`, by averages."""
  pairs = [(row["step"], number(row[key])) for row in run.rows if key in row]
  steps = np.array([number(s) or 0.0 for s, _ in pairs])
  values = np.array([np.nan if v is None else v for _, v in pairs], float)
  if len(steps) <= _MOST:
    return steps, values
  parts = np.array_split(np.arange(len(steps)), _MOST)
  return np.array([steps[p[-1]] for p in parts]), np.array([values[p].mean() for p in parts])


def _over_seeds(
  series: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Steps that all seeds have reached, and there the mean, smallest and largest value."""
  grid = max((s for s, _ in series), key=len)
  end = min(float(s[-1]) for s, _ in series)
  grid = grid[grid <= end] if (grid <= end).any() else grid[:1]
  with np.errstate(invalid="ignore"):
    rows = np.stack([np.interp(grid, s, v) for s, v in series])
  return grid, rows.mean(0), rows.min(0), rows.max(0)
