"""The head of the page: what was run, and its most important figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vssl_jax.reports import differences, markup
from vssl_jax.reports.folders import Run
from vssl_jax.reports.markup import Html
from vssl_jax.reports.reading import mapping, number, sequence, text

_WHAT = {
  "trained": "trained",
  "random_init": "random weights",
  "pixels": "pixels",
  "pixels_clip": "pixels of clips",
  "color_means": "mean colors",
}


def facts(run: Run) -> Html:
  """What was run, on which data, at which cost, and what is missing."""
  rows = [(name, value) for name, value in _facts(run) if value]
  listed = markup.tag(
    "dl",
    *(
      markup.tag("div", markup.tag("dt", name), markup.tag("dd", value), class_="fact")
      for name, value in rows
    ),
    class_="facts",
  )
  return markup.join([listed, _notes(run), _differences(run)])


def headline(runs: Sequence[Run]) -> Html:
  """The figures of all runs side by side; nothing if no run has one."""
  figures = [scores(run) for run in runs]
  names = list(dict.fromkeys(name for found in figures for name in found))
  if not names:
    return Html("")
  rows = [[name, *(markup.percent(found.get(name)) for found in figures)] for name in names]
  table = markup.table(["figure, %", *(run.name for run in runs)], rows, "Scores in percent")
  return table


def scores(run: Run) -> dict[str, float]:
  """The scores of a run and of its evaluation, in [0, 1], by name; without the drops of motion."""
  found: dict[str, float] = {}
  for figure, by_what in mapping(run.result, "headline").items():
    for what, value in mapping(by_what).items():
      score = number(value)
      if score is not None:
        told = _WHAT.get(what, what)
        found[text(figure, 60) + ("" if told == "trained" else f", {text(told, 40)}")] = score
  for case, protocols in mapping(run.summary, "splits").items():
    of_case = f" on {text(case, 40)}" if len(mapping(run.summary, "splits")) > 1 else ""
    for protocol, figures in mapping(protocols).items():
      for figure, value in mapping(figures).items():
        score = number(value)
        if score is not None and protocol != "motion":
          found[f"evaluate: {text(protocol, 40)} {text(figure, 60)}{of_case}"] = score
  return found


def _facts(run: Run) -> list[tuple[str, str]]:
  c, result = run.config, run.result
  data = mapping(c, "data") or mapping(run.summary, "pretraining", "data")
  split = mapping(result, "data")
  last = run.rows[-1] if run.rows else {}
  step = last.get("step") or result.get("steps") or mapping(run.summary, "checkpoint").get("step")
  return [
    ("name", text(c.get("name", ""))),
    ("method", run.method),
    ("state", _state(run)),
    ("data", _data(data)),
    ("training videos", _count(result.get("train_videos"))),
    ("test videos", _count(mapping(split, "eval").get("videos"))),
    ("encoder", _encoder(mapping(c, "encoder") or mapping(result, "encoder"))),
    ("batch size", _count(c.get("batch_size"))),
    ("steps", _count(step)),
    ("epochs", _plain(last.get("epoch"))),
    ("seed", text(c["seed"], 20) if "seed" in c else text(run.summary.get("seed", ""), 20)),
    ("training took", duration(number(result.get("train_seconds")))),
    ("all took", duration(number(result.get("seconds")))),
    ("evaluation took", duration(number(run.summary.get("seconds")))),
    ("clips per second", _plain(result.get("clips_per_second", last.get("clips_per_second")))),
    ("folder", text(run.folder)),
  ]


def _state(run: Run) -> str:
  if not run.config:
    return "evaluation of a checkpoint" if run.summary else "localization"
  if run.result:
    return "finished"
  if not run.rows:
    return "started, nothing logged yet"
  left = number(run.rows[-1].get("eta_seconds"))
  return "not finished" + (f", about {duration(left)} left when last logged" if left else "")


def _data(data: dict[str, Any]) -> str:
  parts = [text(data[k], 120) for k in ("source", "name", "path") if data.get(k)]
  share = number(data.get("fraction"))
  return " · ".join(parts + ([f"{100 * share:g} % of it"] if share not in (None, 1.0) else []))


def _encoder(encoder: dict[str, Any]) -> str:
  if not encoder:
    return ""
  depth, width = encoder.get("depth"), number(encoder.get("width"))
  name = text(encoder.get("name", ""), 60)
  return name + (f"-{text(depth, 10)}" if depth else "") + (f", width {width:g}" if width else "")


def _count(value: Any) -> str:
  found = number(value)
  return "" if found is None else f"{found:,.0f}"


def _plain(value: Any) -> str:
  found = number(value)
  return "" if found is None else f"{found:,.4g}" if found < 1000 else f"{found:,.0f}"


def duration(seconds: float | None) -> str:
  """A time in words; "" if it is not known."""
  if seconds is None:
    return ""
  if seconds < 60:
    return f"{seconds:.1f} s"
  minutes, hours = int(seconds // 60), int(seconds // 3600)
  return f"{minutes} min {seconds % 60:.0f} s" if hours == 0 else f"{hours} h {minutes % 60} min"


def _notes(run: Run) -> Html:
  notes = [*run.notes]
  if run.config and not run.rows:
    notes.append("There are no metrics yet: the curves come with the first logged step.")
  if run.config and not run.result:
    notes.append("There is no result.json yet: the scores come when the run ends.")
  if not run.cases and not run.located:
    notes.append(
      "No evaluation was found: vssl evaluate --checkpoint=… adds classes, neighbors and the map."
    )
  notes += [text(note, 400) for note in sequence(run.summary.get("notes")) if isinstance(note, str)]
  if not notes:
    return Html("")
  return markup.tag("ul", *(markup.tag("li", n) for n in notes), class_="notes")


def _differences(run: Run) -> Html:
  if not run.config:
    return Html("")
  words, rows = differences.against_base(run.config)
  if not words:
    return markup.tag("p", "Its method is not known here, so its config is not compared.")
  if not rows:
    return markup.tag("p", f"Its config is {words}, unchanged.")
  table = markup.table(["field", "there", "this run"], rows, f"Fields that differ from {words}")
  return markup.details(f"{len(rows)} config fields differ from {words}", table)
