"""The map of the test videos, and the nearest training videos of one that the reader chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vssl_jax.reports import clips as clips_lib
from vssl_jax.reports import figures, markup
from vssl_jax.reports.figures import Figure
from vssl_jax.reports.folders import CLIPS, Case, Run
from vssl_jax.reports.markup import Html
from vssl_jax.reports.page import Section
from vssl_jax.reports.reading import mapping, number, sequence, text, whole

_MOST = 2000  # test videos of one map
_COUNT = 1 << 40
_COLORED = 24  # classes that have a color, a mark and a line of the legend of their own


def sections(runs: Sequence[Run]) -> list[tuple[Section, dict[str, bytes]]]:
  """A part of the page for each run and pair of splits that has videos, with its clips."""
  found = []
  for i, run in enumerate(runs):
    for j, (name, case) in enumerate(run.cases.items()):
      told = _checked(case.videos)
      if told["queries"]:
        title = f"Videos: {run.name}" + (f", {text(name, 60)}" if len(run.cases) > 1 else "")
        found.append((_section(f"videos-{i}-{j}", title, told), _read(run, case, told)))
  return found


def _read(run: Run, case: Case, told: Mapping[str, Any]) -> dict[str, bytes]:
  names = [q["clip"] for q in told["queries"]] + [b["clip"] for b in told["bank"].values()]
  try:
    return clips_lib.read(case.folder / CLIPS, names)
  except OSError as e:
    run.notes.append(f"The clips of videos cannot be shown ({text(e, 120)}).")
    return {}


def _checked(videos: Mapping[str, Any]) -> dict[str, Any]:
  """What `videos.json` holds, where every value has the type that the page's program expects."""
  names = [text(n, 80) for n in sequence(videos.get("label_names"))]
  bank = {}
  for entry in map(mapping, sequence(videos.get("bank"))):
    video, label = whole(entry.get("video"), _COUNT), whole(entry.get("label"), len(names))
    if video is not None and label is not None:
      bank[video] = {
        "name": text(entry.get("name", ""), 120),
        "label": label,
        "clip": f"bank{video}",
      }
  queries = []
  for entry in map(mapping, sequence(videos.get("query"))[:_MOST]):
    video, label = whole(entry.get("video"), _COUNT), whole(entry.get("label"), len(names))
    vote = whole(entry.get("vote"), len(names))
    place = [number(x) for x in sequence(entry.get("place"))]
    if video is None or label is None or vote is None or len(place) != 2 or None in place:
      continue
    pairs = zip(sequence(entry.get("near")), sequence(entry.get("cosine")), strict=False)
    near = [
      {"of": n, "cosine": cosine}
      for n, c in pairs
      if whole(n, _COUNT) in bank and (cosine := number(c)) is not None
    ]
    name = text(entry.get("name", ""), 120) or f"video {video}"
    queries.append(
      {
        "name": name,
        "label": label,
        "vote": vote,
        "place": place,
        "near": near,
        "clip": f"query{video}",
      }
    )
  told = {key: text(videos.get(key, ""), 60) for key in ("split", "bank_split", "projection")}
  return {"label_names": names, "queries": queries, "bank": bank} | told


def _section(name: str, title: str, told: dict[str, Any]) -> Section:
  figure = _map(f"map-{name}", told)
  right = sum(q["label"] == q["vote"] for q in told["queries"])
  words = (
    f"{len(told['queries'])} videos of {told['split']}; the votes of the nearest videos of "
    f"{told['bank_split']} are right for {right} of them (✓). Choose one in the map, in the list, "
    "or with the buttons. The clips are what the encoder sees: the middle clip, center crop."
  )
  control = markup.tag(
    "div",
    markup.tag("label", "Video", markup.tag("select", class_="choose")),
    markup.tag("button", "‹ Previous", type="button", class_="previous"),
    markup.tag("button", "Next ›", type="button", class_="next"),
    markup.tag("label", Html('<input type="checkbox" class="only-wrong">'), "only wrong ones (✗)"),
    markup.tag("button", "Pause clips", type="button", class_="pause", aria_pressed="false"),
    class_="controls",
  )
  chosen = markup.tag(
    "div",
    control,
    markup.tag(
      "div", markup.tag("div", class_="query"), markup.tag("ol", class_="neighbors"),
      aria_live="polite",
    ),
  )  # fmt: skip
  body = markup.tag("div", figure.html(), chosen, class_="explore", data_explore=name)
  videos = {
    "figure": figure.name,
    "names": told["label_names"],
    "queries": told["queries"],
    "bank": told["bank"],
    "clips": {},
  }
  parts = [markup.tag("p", words, class_="words"), body]
  return Section(name, title, markup.join(parts), (figure,), videos)


def _map(name: str, told: Mapping[str, Any]) -> Figure:
  """Points colored by class; those whose neighbors vote for another class are open marks."""
  data: list[dict[str, Any]] = []
  names, queries = told["label_names"], told["queries"]
  many = len({q["label"] for q in queries}) > _COLORED
  groups: dict[tuple[int, bool], list[int]] = {}
  for i, q in enumerate(queries):
    groups.setdefault((0 if many else q["label"], q["label"] == q["vote"]), []).append(i)
  for (label, right), own in sorted(groups.items(), key=lambda g: (g[0][0], not g[0][1])):
    mark = figures.MARKS[label // len(figures.COLORS) % len(figures.MARKS)]
    told_right = "✓" if right else "✗"
    shown = ("right" if right else "wrong") if many else markup.figure_text(names[label], 24)
    data.append(
      {
        "type": "scatter",
        "mode": "markers",
        "x": [round(queries[i]["place"][0], 3) for i in own],
        "y": [round(queries[i]["place"][1], 3) for i in own],
        "customdata": own,
        "name": f"{shown} {told_right}",
        "marker": {
          "color": figures.color(label if not many else int(not right)),
          "symbol": mark if right else f"{mark}-open",
          "size": 8 if right else 9,
          "line": {"width": 0 if right else 2},
        },
        "hoverinfo": "none",
      }
    )
  ring = {"color": "rgba(0,0,0,0)", "size": 20, "line": {"width": 3, "color": "#d04a4a"}}
  data.append(
    {
      "type": "scatter",
      "mode": "markers",
      "x": [],
      "y": [],
      "name": "chosen",
      "marker": ring,
      "hoverinfo": "skip",
      "showlegend": False,
    }
  )
  bare: dict[str, Any] = {
    "showticklabels": False,
    "showgrid": False,
    "showline": False,
    "zeroline": False,
    "ticks": "",
  }
  projection = told["projection"] or "Places"
  return Figure(
    name=name,
    title=f"{projection} of the features",
    data=data,
    layout={
      "xaxis": bare,
      "yaxis": bare | {"scaleanchor": "x"},
      "hovermode": "closest",
      "dragmode": "pan",
      "showlegend": True,
    },
    words="Filled: neighbors vote right. Open: wrong. Only what is near is meant to be alike; "
    "large distances say nothing.",
    height=520,
  )
