"""The plot of a study: a line over one of its axes, bars, or a curve per cell."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vssl_jax import figure as figure_lib
from vssl_jax.figure import GREY
from vssl_jax.studies import table as table_lib
from vssl_jax.studies.folder import Run
from vssl_jax.studies.study import Curve, Study

_MARKS = "osD^vPX*"
Row = Mapping[str, Any]


def draw(
  path: str | os.PathLike[str], study: Study, table: Mapping[str, Any], runs: Sequence[Run]
) -> None:
  """Draws the plot as PNG, with error bars of one standard deviation over seeds.

  Args:
    path: path of the PNG.
    study: the study.
    table: its table, with results of at least one run.
    runs: the runs that are done; only curves read them.
  """
  count = len(study.curves or study.scores)
  wide = 0.5 * len(table["rows"]) if not (study.line or study.curves) else 0
  figure = figure_lib.new(max(3.6, wide) * count, 4.2)
  panels = figure.subplots(1, count, squeeze=False)[0]
  if study.curves:
    for panel, curve in zip(panels, study.curves, strict=True):
      _curves(panel, curve, runs)
  else:
    for panel, (head, score) in zip(panels, study.scores.items(), strict=True):
      (_lines if study.line else _bars)(panel, study, head, score.scale, table["rows"])
      if random := table["random"].get(head):
        level = score.scale * random["mean"]
        panel.axhline(level, color=GREY, ls=":", label="random initialization")
      panel.set_title(f"{head}, %" if score.scale == 100 else head)
  handles, labels = panels[0].get_legend_handles_labels()
  if labels:
    columns = min(len(labels), 4)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
  figure.suptitle(study.about, fontsize=10)
  figure_lib.save(figure, path)


def _groups(study: Study, along: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
  """The rows by the labels of all axes but one."""
  found: dict[str, list[Row]] = {}
  for row in rows:
    others = [label for axis, label in row["settings"].items() if axis != along]
    found.setdefault(", ".join(others), []).append(row)
  return found


def _measured(rows: Sequence[Row], head: str, scale: float) -> list[tuple[float, float]]:
  scores = [row["scores"].get(head, {}) for row in rows]
  return [(scale * s.get("mean", np.nan), scale * s.get("std", 0.0)) for s in scores]


def _lines(panel: Any, study: Study, head: str, scale: float, rows: Sequence[Row]) -> None:
  ticks = list(study.axes[study.line])
  groups = _groups(study, study.line, rows)
  for i, (name, own) in enumerate(groups.items()):
    x = [ticks.index(row["settings"][study.line]) for row in own]
    y, error = zip(*_measured(own, head, scale), strict=True)
    style = {"color": figure_lib.colors(len(groups))[i], "label": name or None}
    panel.errorbar(x, y, error, fmt=_MARKS[i % len(_MARKS)] + "-", capsize=3, **style)
  panel.set_xticks(range(len(ticks)), ticks)
  panel.set_xlabel(study.line)


def _bars(panel: Any, study: Study, head: str, scale: float, rows: Sequence[Row]) -> None:
  along = list(study.axes)[-1]
  ticks, groups = list(study.axes[along]), _groups(study, along, rows)
  width = 0.8 / len(groups)
  for i, (name, own) in enumerate(groups.items()):
    at = [ticks.index(row["settings"][along]) for row in own]
    x = np.array(at) + width * (i - (len(groups) - 1) / 2)
    y, error = zip(*_measured(own, head, scale), strict=True)
    style = {"color": figure_lib.colors(len(groups))[i], "label": name or None}
    panel.bar(x, y, width * 0.95, yerr=error, capsize=3, **style)
  panel.set_xticks(
    range(len(ticks)), [figure_lib.short(t, 28) for t in ticks], rotation=30, ha="right"
  )
  panel.set_xlabel(along)


def _curves(panel: Any, curve: Curve, runs: Sequence[Run]) -> None:
  cells = list(dict.fromkeys(run.cell.name for run in runs))
  for i, name in enumerate(cells):
    own = [run for run in runs if run.cell.name == name]
    found = [table_lib.entry(run.result(curve.file), curve.rows) for run in own]
    rows = list(zip(*(f for f in found if isinstance(f, list)), strict=False))
    if not rows:
      continue
    x = [row[0][curve.x] for row in rows] if curve.x else range(1, len(rows) + 1)
    values = [[curve.scale * r[curve.y] for r in row] for row in rows]
    y = [statistics.fmean(v) for v in values]
    error = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
    label = ", ".join(own[0].cell.labels.values())
    style = {"color": figure_lib.colors(len(cells))[i], "label": label}
    panel.errorbar(x, y, error, fmt=_MARKS[i % len(_MARKS)] + "-", capsize=3, **style)
  panel.set(title=curve.title, xlabel=curve.x or "group, from the most certain")
  panel.set_ylim(0, None)
