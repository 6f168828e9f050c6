"""Writes the page of one or several runs: `vssl_jax.report`."""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Sequence

from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.files import StrPath, listed
from vssl_jax.reports import curves, folders, header, markup, page
from vssl_jax.reports.folders import Run
from vssl_jax.reports.page import Section

FILE = "report.html"


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
  files.write_atomic(path, page.render(title, f"Written {now} by vssl report.", sections(found)))
  return path


def sections(runs: Sequence[Run]) -> list[Section]:
  """All parts of the page that the runs have something for."""
  found = [*_heads(runs), *_curves(runs)]
  return [s for s in found if s.body]


def _heads(runs: Sequence[Run]) -> list[Section]:
  single = len(runs) == 1
  facts = [
    header.facts(run) if single else markup.join([markup.tag("h3", run.name), header.facts(run)])
    for run in runs
  ]
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
