"""Writes the page of one or several runs: `vssl_jax.report`."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping, Sequence

from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.files import StrPath, listed
from vssl_jax.reports import clips as clips_lib
from vssl_jax.reports import differences, folders, markup, page
from vssl_jax.reports.folders import Run
from vssl_jax.reports.page import Section
from vssl_jax.reports.parts import classes, curves, header, localized, motion, videos

FILE = "report.html"
LARGEST = 15_000_000  # bytes of the page
_MARGIN = 50_000


def report(runs: StrPath | Sequence[StrPath], output: StrPath | None = None) -> pathlib.Path:
  """Writes one self-contained HTML page that shows runs.

  It reads files alone, also of a run that goes on, and loads nothing from the network. What is
  missing or damaged is said in the page.

  Args:
    runs: folder or folders of runs, of evaluations or of localizations.
    output: the page; by default `report.html` in the first folder.

  Returns:
    The path of the page.

  Raises:
    UserError: a folder holds nothing that can be shown, the page cannot be written, or Plotly is
      not installed.
  """
  found = folders.read_all(listed(runs))
  path = files.path(output) if output else found[0].folder / FILE
  if path.is_dir():
    raise UserError(f"--output: {path} is a folder; give the name of a file, such as page.html.")
  title = " · ".join(run.name for run in found[:4]) + (" …" if len(found) > 4 else "")
  now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
  made = f"Written {now} by vssl report."
  parts, clips = sections(found)
  bare = page.render(title, made, parts)
  if clips:
    bare = page.render(title, made, _with_clips(parts, clips, LARGEST - len(bare)))
  files.write_atomic(path, bare)
  return path


def sections(runs: Sequence[Run]) -> tuple[list[Section], dict[str, dict[str, bytes]]]:
  """All parts of the page that the runs have something for, and the clips of some by their name."""
  shown = videos.sections(runs)
  actions = localized.sections(runs)
  parts = [*_curves(runs), *_classes(runs), *_motion(runs), *(s for s, _ in shown), *actions]
  found = [s for s in (*_heads(runs), *parts) if s.body]
  return found, {section.name: clips for section, clips in shown if clips}


def _with_clips(
  parts: Sequence[Section], clips: Mapping[str, dict[str, bytes]], room: float
) -> list[Section]:
  """The parts with their clips, which share the room, in bytes, by their number."""
  total = sum(map(len, clips.values()))
  found = []
  for part in parts:
    if own := clips.get(part.name):
      # A name, quotes, a colon and a comma for each.
      budget = (room - _MARGIN) * len(own) / total - sum(len(name) + 6 for name in own)
      fitted, words = clips_lib.fit(own, budget)
      body = markup.join([part.body, markup.tag("p", words, class_="hint")]) if words else part.body
      part = dataclasses.replace(part, videos=part.videos | {"clips": fitted}, body=body)
    found.append(part)
  return found


def _heads(runs: Sequence[Run]) -> list[Section]:
  single = len(runs) == 1
  facts = [
    header.facts(run) if single else markup.join([markup.tag("h3", run.name), header.facts(run)])
    for run in runs
  ]
  if not single:
    rows = differences.between([run.config for run in runs if run.config])
    names = [run.name for run in runs if run.config]
    if len(names) > 1 and rows:
      table = markup.table(["field", *names], rows, "Config fields in which the runs differ")
      facts.append(markup.details(f"{len(rows)} config fields differ between the runs", table))
  what = Section("what", "What was run", markup.join(facts))
  return [what, Section("scores", "Scores", header.headline(runs))]


def _curves(runs: Sequence[Run]) -> list[Section]:
  first, others = curves.draw(runs)
  if not first and not others:
    return []
  seeds = any(len(own) > 1 for _, own in curves.groups(runs))
  words = "Runs of equal configs but for the seed: the line is their mean, the shade their range."
  parts = [markup.tag("p", words, class_="words")] if seeds else []
  parts.append(page.grid(first))
  if others:
    parts.append(markup.details(f"{len(others)} further numbers", page.grid(others)))
  return [Section("curves", "Training", markup.join(parts), (*first, *others))]


def _classes(runs: Sequence[Run]) -> list[Section]:
  moved = classes.moved(runs)
  drawn, listed = [], []
  for i, run in enumerate(runs):
    drawn += classes.bars(run, f"classes-{i}")
    own, tables = classes.confusions(run, f"confusion-{i}")
    drawn += own
    listed += tables
  if not moved and not drawn and not listed:
    return []
  parts = [page.grid([*moved, *drawn]), *listed]
  old = [r.name for r in runs if r.cases and not any(c.confusions for c in r.cases.values())]
  if old:
    words = "was evaluated before confusions were saved: vssl evaluate --again adds them."
    parts.append(markup.tag("p", f"{', '.join(old)} {words}", class_="hint"))
  return [Section("classes", "Classes", markup.join(parts), (*moved, *drawn))]


def _motion(runs: Sequence[Run]) -> list[Section]:
  drawn = motion.draw(runs)
  return [Section("motion", "Motion", page.grid(drawn), tuple(drawn))] if drawn else []
