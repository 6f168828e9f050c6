"""Finds what a folder holds: a run that may still go on, an evaluation, or a localization."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Any

from vssl_jax import files
from vssl_jax.errors import UserError, brief
from vssl_jax.files import StrPath
from vssl_jax.localization.outcome import PREDICTIONS
from vssl_jax.probes.confusion import CELLS, COLUMNS
from vssl_jax.reports.reading import mapping, text
from vssl_jax.training import metrics_log

CONFIG, RESULT, SUMMARY = "config.json", "result.json", "summary.json"
VIDEOS, CLIPS = "page/videos.json", "page/clips.zip"  # what `evaluate` writes for the page


@dataclasses.dataclass(frozen=True)
class Case:
  """One pair of splits of an evaluation.

  Attributes:
    folder: its folder.
    results: the results by protocol.
    confusions: rows of class, predicted class and videos, by protocol.
    videos: what `page/videos.json` holds; empty if there is none.
  """

  folder: pathlib.Path
  results: dict[str, dict[str, Any]]
  confusions: dict[str, list[tuple[str, str, int]]]
  videos: dict[str, Any]


@dataclasses.dataclass
class Run:
  """Everything that was found in one folder; what is missing is empty.

  Attributes:
    name: a short name, different for each run of a page.
    folder: the folder.
    config: `config.json` of training.
    result: `result.json` of training.
    rows: the rows of `metrics.jsonl`.
    summary: `summary.json` of an evaluation.
    cases: its pairs of splits by name.
    located: whether there are predicted segments of untrimmed videos.
    notes: what is missing or damaged, one sentence each.
  """

  name: str
  folder: pathlib.Path
  config: dict[str, Any] = dataclasses.field(default_factory=dict)
  result: dict[str, Any] = dataclasses.field(default_factory=dict)
  rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  summary: dict[str, Any] = dataclasses.field(default_factory=dict)
  cases: dict[str, Case] = dataclasses.field(default_factory=dict)
  located: bool = False
  notes: list[str] = dataclasses.field(default_factory=list)

  @property
  def method(self) -> str:
    """The method's name; "" if no file tells it."""
    told = mapping(self.summary, "checkpoint").get("method")
    for found in (self.config.get("method"), self.result.get("method"), told):
      if isinstance(found, str):
        return text(found, 60)
    return ""


def read_all(folders: Sequence[StrPath]) -> list[Run]:
  """Reads several folders; each gets a name of its own.

  Raises:
    UserError: no folder is given, or one holds nothing that can be shown.
  """
  if not folders:
    raise UserError("RUN is missing: give one or more folders of runs or evaluations.")
  runs = [read(folder) for folder in folders]
  names = [run.name for run in runs]
  for i, run in enumerate(runs):
    if names.count(run.name) > 1:
      above = f"{run.folder.absolute().parent.name}/{run.name}"
      taken = {other.name for other in runs[:i]}
      run.name = above if above not in taken else f"{above} ({i + 1})"
  return runs


def read(folder: StrPath) -> Run:
  """Reads one folder.

  Raises:
    UserError: there is no such folder, it holds nothing that can be shown, or what says which kind
      of folder it is is damaged.
  """
  path = files.path(folder)
  if not path.is_dir() and not files.is_remote(path):
    raise UserError(f"{folder}: no such folder; give the folder of a run or of an evaluation.")
  run = Run(text(path.name or path.absolute().name or str(path), 80), path)
  run.config = _json(path / CONFIG, run, needed=True)
  if run.config:
    run.result = _json(path / RESULT, run)
    run.rows = _rows(path, run)
    where = _newest_evaluation(path)
  else:
    where = path
  if where is not None:
    summary = _json(where / SUMMARY, run, needed=not run.config)
    if summary.get("job") == "evaluate":
      run.summary = summary
      run.cases = {name: _case(where, name, run) for name in mapping(summary, "splits")}
  run.located = (path / PREDICTIONS).is_file()
  if not (run.config or run.summary or run.located):
    raise UserError(
      f"{folder}: neither a run ({CONFIG}) nor an evaluation ({SUMMARY}) nor a localization "
      f"({PREDICTIONS}); give the folder that vssl train, evaluate or localize wrote."
    )
  if run.config and not isinstance(run.config.get("method"), str):
    raise UserError(
      f"{path / CONFIG}: no config of a run, as it names no method; give the folder of a run."
    )
  return run


def _newest_evaluation(path: pathlib.Path) -> pathlib.Path | None:
  """The evaluation in the folder of a run: of its last checkpoint if there is one."""
  found = [file.parent for file in files.matching(path, f"evaluation*/{SUMMARY}")]
  return min(found, key=lambda folder: folder.name, default=None)


def _rows(path: pathlib.Path, run: Run) -> list[dict[str, Any]]:
  try:
    return [dict(row) for row in metrics_log.read(path)]
  except OSError as e:
    run.notes.append(f"{metrics_log.FILE} cannot be read ({e.strerror}).")
    return []


def _json(file: pathlib.Path, run: Run, *, needed: bool = False) -> dict[str, Any]:
  """A JSON object; empty if there is no file. A damaged one is noted, or an error if `needed`."""
  if not file.is_file():
    return {}
  try:
    found = files.read_json(file)
    if isinstance(found, dict):
      return mapping(found)
    reason = "no JSON object"
  except (OSError, ValueError, RecursionError) as e:
    reason = f"not JSON: {text(brief(e), 120)}"
  if needed:
    raise UserError(f"{file}: damaged, {reason}; restore it, or give another folder.")
  run.notes.append(f"{text(file.name)} is damaged ({reason}) and is not shown.")
  return {}


def _case(where: pathlib.Path, name: str, run: Run) -> Case:
  """The files of a pair of splits. The name comes from a file: it must not lead elsewhere."""
  try:
    folder = where / files.check_name(name, SUMMARY)
  except UserError:
    run.notes.append(f"{SUMMARY} names a pair of splits {text(name, 60)!r}, which is no folder.")
    return Case(where, {}, {}, {})
  results: dict[str, dict[str, Any]] = {}
  confusions: dict[str, list[tuple[str, str, int]]] = {}
  for file in files.names(folder):
    if file.endswith(CELLS):
      confusions[file.removesuffix(CELLS)] = _confusion(folder / file, run)
    elif file.endswith(".json"):
      found = _json(folder / file, run)
      if "protocol_name" in found:
        results[file.removesuffix(".json")] = found
  return Case(folder, results, confusions, _json(folder / VIDEOS, run))


def _confusion(file: pathlib.Path, run: Run) -> list[tuple[str, str, int]]:
  try:
    head, *rows = csv.reader(io.StringIO(files.read_text(file)))
    if tuple(head) != COLUMNS:
      raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
    return [(text(a, 80), text(b, 80), max(0, int(n))) for a, b, n in rows]
  except (OSError, ValueError, csv.Error) as e:
    run.notes.append(f"{text(file.name)} is damaged ({text(brief(e), 120)}) and is not shown.")
    return []
