"""What is lost where the frames of test clips are reversed, shuffled or frozen."""

from __future__ import annotations

from collections.abc import Sequence

from vssl_jax.reports import figures, markup
from vssl_jax.reports.figures import Figure
from vssl_jax.reports.folders import Run
from vssl_jax.reports.reading import mapping, number, text

_SHOWN = {"retrieval": ("R@1",)}  # as in the table of `evaluate`
_NORMAL = "normal"


def draw(runs: Sequence[Run]) -> list[Figure]:
  """One figure per run and pair of splits that has the protocol `motion`."""
  found = []
  for i, run in enumerate(runs):
    for j, (name, case) in enumerate(run.cases.items()):
      orders = {k: mapping(v) for k, v in mapping(case.results.get("motion"), "orders").items()}
      if _NORMAL in orders:
        title = f"{run.name}: frames in other orders, {text(name, 60)}"
        found += _figure(f"motion-{i}-{j}", title, orders)
  return found


def _figure(name: str, title: str, orders: dict[str, dict]) -> list[Figure]:
  order = [_NORMAL, *(o for o in orders if o != _NORMAL)]
  scores = {
    (text(protocol, 40), text(figure, 40)): [
      number(mapping(orders[o], protocol).get(figure)) for o in order
    ]
    for protocol, figures_ in orders[_NORMAL].items()
    for figure in mapping(figures_)
    if figure in _SHOWN.get(protocol, (figure,))
  }
  if not scores:
    return []
  titles = [f"{protocol} {figure}" for protocol, figure in scores]
  places = list(range(len(titles)))
  data = [
    {
      "type": "bar",
      "x": places,
      "y": [_percent(row[i]) for row in scores.values()],
      "name": markup.figure_text(told),
      "marker": figures.bar(i),
      "hovertemplate": "%{y:.1f} %<extra>%{fullData.name}</extra>",
    }
    for i, told in enumerate(order)
  ]
  rows = [
    [told, *(markup.percent(x) for x in row), *(_drop(row[0], x) for x in row[1:])]
    for told, row in zip(titles, scores.values(), strict=True)
  ]
  head = ["score, %", *order, *(f"drop, {o}" for o in order[1:])]
  return [
    Figure(
      name=name,
      title=title,
      data=data,
      layout={
        "barmode": "group",
        "xaxis": {"tickvals": places, "ticktext": [markup.figure_text(t) for t in titles]},
        "yaxis": {"title": {"text": "%"}, "rangemode": "tozero"},
        "showlegend": True,
      },
      words="A score that does not drop owes nothing to motion: single frames are enough for it.",
      numbers=markup.table(head, rows, title),
      height=320,
    )
  ]


def _drop(normal: float | None, other: float | None) -> str:
  return "–" if normal is None or other is None else f"{100 * (normal - other):+.1f}"


def _percent(score: float | None) -> float | None:
  return None if score is None else round(100 * score, 2)
