"""Scores by class: bars, confusions, and which classes moved from one run to another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vssl_jax.reports import figures, markup
from vssl_jax.reports.figures import Figure
from vssl_jax.reports.folders import Run
from vssl_jax.reports.markup import Html
from vssl_jax.reports.reading import mapping, number, text

_MOST = 40  # classes in one figure of bars; of more, the weakest and the strongest
_CELLS = 60  # classes in a confusion matrix; of more, the most frequent confusions are listed
_WRITTEN = 20  # classes up to which the cells show their counts
_PAIRS = 30
Scores = dict[str, dict[str, float]]  # by protocol, by class


def per_class(run: Run) -> Iterator[tuple[str, Scores]]:
  """Top-1 by protocol and class: of the evaluation of each pair of splits, and of training."""
  for name, case in run.cases.items():
    yield f"evaluation on {text(name, 60)}", _scores(case.results)
  yield "probes at the end of training", _scores(mapping(run.result, "trained"))


def _scores(found: Mapping[str, Any]) -> Scores:
  scores: Scores = {}
  for protocol, result in found.items():
    by_class = mapping(mapping(result).get("per_class"))
    known = {text(k, 80): x for k, v in by_class.items() if (x := number(v)) is not None}
    if known:
      scores[text(protocol, 40)] = known
  return scores


def bars(run: Run, prefix: str) -> list[Figure]:
  """One figure per pair of splits; of a run that was evaluated, not also of its own probes."""
  for i, (title, scores) in enumerate(per_class(run)):
    if scores:
      return [_bars(f"{prefix}-{i}", f"{run.name}: {title}", scores)]
  return []


def _bars(name: str, title: str, scores: Scores) -> Figure:
  classes = list(dict.fromkeys(c for row in scores.values() for c in row))
  table = np.array([[row.get(c, np.nan) for c in classes] for row in scores.values()])
  with np.errstate(invalid="ignore"):
    order = np.argsort(np.nanmean(table, axis=0), kind="stable")
  shown = order
  if len(order) > _MOST:
    shown = np.concatenate([order[: _MOST // 2], order[-_MOST // 2 :]])
  places = list(range(len(shown)))
  data = [
    {
      "type": "bar",
      "orientation": "h",
      "y": places,
      "x": [_point(100 * x) for x in row[shown]],
      "name": markup.figure_text(protocol),
      "marker": figures.bar(i),
      "hovertemplate": "%{x:.1f} %<extra>%{fullData.name}</extra>",
    }
    for i, (protocol, row) in enumerate(zip(scores, table, strict=True))
  ]
  ticks = [markup.figure_text(classes[c], 28) for c in shown]
  words = "Share of the test videos of each class that are classified right; weakest on top."
  if len(order) > _MOST:
    words += f" Of {len(order)} classes, the {_MOST // 2} weakest and strongest; all in Numbers."
  rows = [[classes[c], *(markup.percent(_value(x)) for x in table[:, c])] for c in order]
  return Figure(
    name=name,
    title=title,
    data=data,
    layout={
      "barmode": "group",
      "xaxis": {"title": {"text": "right, %"}, "range": [0, 100]},
      "yaxis": {"tickvals": places, "ticktext": ticks, "autorange": "reversed"},
      "showlegend": True,
    },
    words=words,
    numbers=markup.table(["class", *scores], rows, f"{title}: right, %"),
    height=110 + len(shown) * (8 + 9 * len(scores)),
  )


def _value(x: float) -> float | None:
  return float(x) if np.isfinite(x) else None


def _point(x: float) -> float | None:
  return round(float(x), 2) if np.isfinite(x) else None


def confusions(run: Run, prefix: str) -> tuple[list[Figure], list[Html]]:
  """Confusion matrices as figures; of many classes, tables of the most frequent confusions."""
  drawn, listed = [], []
  for case_name, case in run.cases.items():
    for protocol, found in case.confusions.items():
      if (cells := _matrix(found)) is None:
        continue
      names, matrix = cells
      title = f"{run.name}: {text(protocol, 40)} on {text(case_name, 60)}"
      if len(names) <= _CELLS:
        anchor = re.sub("[^A-Za-z0-9]+", "-", f"{prefix}-{case_name}-{protocol}")
        drawn.append(_heatmap(anchor, title, matrix, names))
      else:
        listed.append(_frequent(title, matrix, names))
  return drawn, listed


def _matrix(rows: Sequence[tuple[str, str, int]]) -> tuple[list[str], np.ndarray] | None:
  """Classes and int `[K, K]`, videos by true and predicted class; None if there are none."""
  names = list(dict.fromkeys([*(row[0] for row in rows), *(row[1] for row in rows)]))
  if not names:
    return None
  place = {name: i for i, name in enumerate(names)}
  matrix = np.zeros((len(names), len(names)), np.int64)
  for true, predicted, videos in rows:
    matrix[place[true], place[predicted]] += min(videos, 1 << 40)
  return names, matrix


def _pairs(matrix: np.ndarray, names: Sequence[str]) -> list[list[str]]:
  wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
  order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
  cells = [divmod(int(cell), len(matrix)) for cell in order]
  return [
    [names[i], names[j], str(wrong[i, j]), str(matrix[i].sum())] for i, j in cells if wrong[i, j]
  ]


def _frequent(title: str, matrix: np.ndarray, names: Sequence[str]) -> Html:
  head = ["class", "taken for", "videos", "of"]
  return markup.table(head, _pairs(matrix, names), f"{title}: the most frequent confusions")


def _heatmap(name: str, title: str, matrix: np.ndarray, names: Sequence[str]) -> Figure:
  share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  places = list(range(len(names)))
  ticks = [markup.figure_text(n, 20) for n in names]
  trace: dict[str, Any] = {
    "type": "heatmap",
    "z": np.round(100 * share, 1).tolist(),
    "customdata": matrix.tolist(),
    "x": places,
    "y": places,
    "zmin": 0,
    "zmax": 100,
    "colorscale": [[0, figures.faint(figures.COLORS[0], 0)], [1, figures.COLORS[0]]],
    "colorbar": {"title": {"text": "%"}, "thickness": 12},
    "xgap": 1,
    "ygap": 1,
    "hovertemplate": "%{y} taken for %{x}: %{customdata} videos, %{z} %<extra></extra>",
  }
  if len(names) <= _WRITTEN:
    trace |= {"text": [[str(x) if x else "" for x in row] for row in matrix.tolist()]}
    trace |= {"texttemplate": "%{text}"}
  axis = {"tickvals": places, "ticktext": ticks, "showgrid": False, "zeroline": False}
  return Figure(
    name=name,
    title=title,
    data=[trace],
    layout={
      "xaxis": axis | {"title": {"text": "predicted"}, "tickangle": -45},
      "yaxis": axis | {"title": {"text": "true"}, "autorange": "reversed"},
    },
    words="Rows are true classes, columns what was predicted; shades are shares of the true class.",
    numbers=markup.table(
      ["class", "taken for", "videos", "of"], _pairs(matrix, names), "Most frequent confusions"
    ),
    height=min(720, 190 + 26 * len(names)),
  )


def moved(runs: Sequence[Run]) -> list[Figure]:
  """Which classes are better or worse than in the first run, by the protocol most runs have."""
  every = [dict(_all_scores(run)) for run in runs]
  known = list(dict.fromkeys(p for scores in every for p in scores))
  if len(runs) < 2 or not known:
    return []
  protocol = max(known, key=lambda p: sum(p in s for s in every))  # of equal ones, the first
  having = [(run, s[protocol]) for run, s in zip(runs, every, strict=True) if protocol in s]
  if len(having) < 2:
    return []
  (first, base), *others = having
  names = [c for c in base if all(c in s for _, s in others)]
  if not names:
    return []
  change = np.array([[s[c] - base[c] for c in names] for _, s in others])
  order = np.argsort(-np.abs(change).max(axis=0), kind="stable")[:_MOST]
  order = order[np.argsort(change[:, order].mean(axis=0), kind="stable")]
  places = list(range(len(order)))
  data = [
    {
      "type": "bar",
      "orientation": "h",
      "y": places,
      "x": [round(100 * float(x), 2) for x in row[order]],
      "name": markup.figure_text(run.name),
      "marker": figures.bar(i),
      "hovertemplate": "%{x:+.1f}<extra>%{fullData.name}</extra>",
    }
    for i, ((run, _), row) in enumerate(zip(others, change, strict=True), start=1)
  ]
  rows = [
    [names[c], markup.percent(base[names[c]]), *(markup.percent(s[names[c]]) for _, s in others)]
    for c in order
  ]
  title = f"Classes that moved: {protocol}, against {first.name}"
  return [
    Figure(
      name="moved",
      title=title,
      data=data,
      layout={
        "barmode": "group",
        "xaxis": {"title": {"text": "change, percentage points"}},
        "yaxis": {
          "tickvals": places,
          "ticktext": [markup.figure_text(names[c], 28) for c in order],
        },
        "showlegend": True,
      },
      words=f"To the right: better than {first.name}. One class has few test videos, so that one "
      "video more or less already moves it.",
      numbers=markup.table(["class", first.name, *(r.name for r, _ in others)], rows, title),
      height=110 + len(order) * (8 + 9 * len(others)),
      wide=True,
    )
  ]


def _all_scores(run: Run) -> Iterator[tuple[str, dict[str, float]]]:
  """Scores by protocol; the evaluation's own come last, and so count where both exist."""
  for _, scores in reversed(list(per_class(run))):
    yield from scores.items()
