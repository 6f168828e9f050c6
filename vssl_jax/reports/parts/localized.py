"""Localization: each video's predictions against the truth over time, and the errors by kind."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.localization import annotations as annotations_lib
from vssl_jax.localization.annotations import Annotations, Prediction, Predictions, Segment, Video
from vssl_jax.localization.outcome import PREDICTIONS, TRUTH
from vssl_jax.localization.segments import tiou
from vssl_jax.reports import figures, markup, page
from vssl_jax.reports.figures import Figure
from vssl_jax.reports.folders import Run
from vssl_jax.reports.page import Section
from vssl_jax.reports.reading import text

REACHED, TOUCHED = 0.5, 0.1  # tIoU of a hit, and below which nothing is overlapped
_MOST = 300  # videos that can be chosen
_SHOWN = 40  # predictions of a video that are drawn, the most certain
KINDS = {
  "hit": "the right class, at the right time",
  "again": "the right action, found a second time",
  "time": "the right class, but its times are off",
  "class": "the right time, but another class",
  "both": "near an action of another class",
  "nothing": "no action is there",
  "missed": "an annotated action that no prediction found",
}


def sections(runs: Sequence[Run]) -> list[Section]:
  """A part of the page for each run with predicted segments."""
  found = []
  for i, run in enumerate(runs):
    if not run.located:
      continue
    try:
      predictions = annotations_lib.read_predictions(run.folder / PREDICTIONS)
      has_truth = (run.folder / TRUTH).is_file()
      truth = annotations_lib.read_annotations(run.folder / TRUTH) if has_truth else {}
    except (UserError, OSError) as e:
      run.notes.append(f"Predicted segments are not shown: {text(e, 300)}")
      continue
    if predictions:
      found.append(_section(f"segments-{i}", run, predictions, truth))
  return found


def kinds(predictions: Predictions, truth: Annotations) -> dict[str, list[str]]:
  """What each prediction is, of `KINDS`, by video and in its order; at a tIoU of 0.5.

  As in the average precision, the most certain prediction takes an action first, and a second one
  is no hit. Predictions of a video that is not annotated are left out.
  """
  return {
    name: _kinds(listed, truth[name]) for name, listed in predictions.items() if name in truth
  }


def _kinds(listed: Sequence[Prediction], video: Video) -> list[str]:
  overlap = tiou(
    np.array([p[:2] for p in listed]).reshape(-1, 2),
    np.array([s[:2] for s in video.segments]).reshape(-1, 2),
  )
  same = np.array([[p.label == s.label for s in video.segments] for p in listed], bool)
  same = same.reshape(overlap.shape)
  taken: set[int] = set()
  found = ["nothing"] * len(listed)
  for i in sorted(range(len(listed)), key=lambda i: -listed[i].score):
    own = np.where(same[i], overlap[i], 0.0)
    free = [j for j in np.argsort(-own, kind="stable") if own[j] >= REACHED and j not in taken]
    if free:
      found[i] = "hit"
      taken.add(int(free[0]))
    elif own.max(initial=0) >= REACHED:
      found[i] = "again"
    elif own.max(initial=0) >= TOUCHED:
      found[i] = "time"
    elif overlap[i].max(initial=0) >= REACHED:
      found[i] = "class"
    elif overlap[i].max(initial=0) >= TOUCHED:
      found[i] = "both"
  return found


def counted(predictions: Predictions, truth: Annotations) -> dict[str, int]:
  """How many of each kind there are among the most certain predictions.

  Of each class, as many predictions count as there are annotated actions: with a low enough
  threshold there are any number of false ones.
  """
  annotated = collections.Counter(s.label for v in truth.values() for s in v.segments)
  best: Predictions = {name: [] for name in truth}
  ordered = sorted(
    ((p, name) for name, listed in predictions.items() if name in truth for p in listed),
    key=lambda one: -one[0].score,
  )
  chosen: dict[str, list[Prediction]] = {name: [] for name in best}
  for p, name in ordered:
    if annotated[p.label] > 0:
      annotated[p.label] -= 1
      chosen[name].append(p)
  found = collections.Counter(k for own in kinds(chosen, truth).values() for k in own)
  total = sum(len(v.segments) for v in truth.values())
  return {kind: found[kind] for kind in KINDS} | {"missed": total - found["hit"]}


def _section(name: str, run: Run, predictions: Predictions, truth: Annotations) -> Section:
  drawn = [_errors(f"errors-{name}", predictions, truth)] if truth else []
  found = kinds(predictions, truth)
  names = sorted(predictions)
  places = np.unique(np.linspace(0, len(names) - 1, min(_MOST, len(names))).round().astype(int))
  videos = [
    _video(n, predictions[n], truth.get(n), found.get(n)) for n in (names[i] for i in places)
  ]
  timeline = Figure(
    name=f"timeline-{name}",
    title="Timeline",
    data=[],
    layout={"xaxis": {"title": {"text": "seconds"}}, "barmode": "overlay", "showlegend": True},
    words="Upper row of a class: annotated. Lower row: predicted, the most certain darkest; ✓ "
    "found an annotated action (tIoU 0.5), ✗ did not."
    if truth
    else "Predicted actions, the most certain darkest.",
    height=360,
    wide=True,
  )
  control = markup.tag(
    "div",
    markup.tag("label", "Video", markup.tag("select", class_="choose")),
    markup.tag("button", "‹ Previous", type="button", class_="previous"),
    markup.tag("button", "Next ›", type="button", class_="next"),
    class_="controls",
  )
  missing = "" if truth else f"There is no {TRUTH}: only predictions are shown."
  said = [markup.tag("p", missing, class_="hint")] if missing else []
  if len(videos) < len(names):
    said.append(markup.tag("p", f"{len(videos)} of {len(names)} videos.", class_="hint"))
  parts = [
    page.grid(drawn),
    *said,
    control,
    page.grid([timeline]),
    markup.tag("div", class_="list"),
  ]
  inside = markup.tag("div", *parts, data_timelines=name)
  told = {
    "figure": timeline.name,
    "segments": videos,
    "colors": figures.COLORS,
    "annotated": bool(truth),
  }
  return Section(name, f"Actions in time: {run.name}", inside, (*drawn, timeline), told)


def _video(
  name: str, listed: Sequence[Prediction], video: Video | None, found: Sequence[str] | None
) -> dict[str, Any]:
  order = sorted(range(len(listed)), key=lambda i: -listed[i].score)[:_SHOWN]
  return {
    "name": text(name, 120),
    "duration": video.duration if video else None,
    "truth": [_place(s) for s in video.segments] if video else [],
    "found": [
      [
        *_place(listed[i]),
        *(float(f"{listed[i].score:.4g}"), found[i] if found else ""),
      ]
      for i in order
    ],
  }


def _place(one: Segment | Prediction) -> list[Any]:
  """Start and end, seconds, and class."""
  return [round(float(one.start), 2), round(float(one.end), 2), text(one.label, 60)]


def _errors(name: str, predictions: Predictions, truth: Annotations) -> Figure:
  found = counted(predictions, truth)
  kept = list(KINDS)
  places = list(range(len(kept)))
  rows = [[kind, KINDS[kind], str(found[kind])] for kind in kept]
  bar = {
    "type": "bar",
    "orientation": "h",
    "y": places,
    "x": [found[kind] for kind in kept],
    "text": [str(found[kind]) for kind in kept],
    "marker": {"color": [figures.COLORS[2], *[figures.COLORS[1]] * (len(kept) - 1)]},
    "hoverinfo": "skip",
  }
  ticks = [f"{'✓' if kind == 'hit' else '✗'} {kind}" for kind in kept]
  return Figure(
    name=name,
    title="Errors by kind",
    data=[bar],
    layout={"yaxis": {"tickvals": places, "ticktext": ticks, "autorange": "reversed"}},
    words="Of each class as many predictions as there are annotated actions, the most certain "
    f"first, at a tIoU of {REACHED}. " + "; ".join(f"{k}: {w}" for k, w in KINDS.items()) + ".",
    numbers=markup.table(["kind", "what it is", "count"], rows, "Errors by kind"),
    height=300,
    wide=True,
  )
