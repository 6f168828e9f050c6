"""The table of a study: mean ± standard deviation over seeds, as numbers and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.evaluation.protocols import PROTOCOLS
from vssl_jax.studies import folder
from vssl_jax.studies.folder import Run
from vssl_jax.studies.study import RESULT, Score, Study

_TRAINED, _RANDOM = "trained/", "random_init/"


def number(found: Any, path: str) -> float | None:
  """The number at a path in the content of a JSON file; None if there is none."""
  value = entry(found, path)
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  return float(value)


def entry(found: Any, path: str) -> Any:
  """What is at a path in the content of a JSON file, see `Score.path`; None if nothing is."""
  for key in path.split("/"):
    if isinstance(found, dict):
      only = next(iter(found.values())) if key == "*" and len(found) == 1 else None
      found = found.get(key, only)
    elif isinstance(found, list) and key.lstrip("-").isdigit():
      at = int(key)
      found = found[at] if -len(found) <= at < len(found) else None
    else:
      return None
  return found


def summarize(values: Mapping[int, float]) -> dict[str, Any]:
  """Mean, standard deviation (n − 1; from two seeds on) and values by seed."""
  row: dict[str, Any] = {"mean": statistics.fmean(values.values()), "seeds": len(values)}
  if len(values) > 1:
    row["std"] = statistics.stdev(values.values())
  return row | {"values": {str(seed): x for seed, x in values.items()}}


def tabulate(
  name: str, study: Study, runs: Sequence[Run], facts: Mapping[str, Any]
) -> dict[str, Any]:
  """The table of all runs that are done.

  Args:
    name: the study's name.
    study: the study.
    runs: all runs of the table, done or not.
    facts: what else the table says, by name.

  Returns:
    `axes` and `columns`, in order; `rows`, one per cell: its labels by axis, scores by column (see
    `summarize`), seeds that are missing, and why seeds failed; `random`, the scores of random
    weights by column; and the facts.

  Raises:
    UserError: a result is damaged; or it is done, and has none of the scores.
  """
  rows, random, scored = [], {}, None
  for cell in {run.cell.name: run.cell for run in runs}.values():
    own = [run for run in runs if run.cell.name == cell.name]
    done = [run for run in own if run.state() == folder.DONE]
    scores = {head: _over_seeds(done, score, score.path) for head, score in study.scores.items()}
    if done and not any(scores.values()):
      raise UserError(
        f"{done[0].folder}: has none of the scores {', '.join(study.scores)}; leave their "
        "protocols on (config.probe), or give the study scores that its runs have."
      )
    if done and scored is None:
      scored = done[0].result(RESULT)
      random = {
        head: _over_seeds(done, score, _RANDOM + score.path.removeprefix(_TRAINED))
        for head, score in study.scores.items()
        if score.path.startswith(_TRAINED) and score.file == RESULT
      }
    failed = {str(run.seed): run.result(folder.FAILED) for run in own if run not in done}
    rows.append(
      {
        "cell": cell.name,
        "settings": dict(cell.labels),
        "scores": {head: summarize(values) for head, values in scores.items() if values},
        "missing": [run.seed for run in own if run not in done],
        "failed": {seed: found["error"] for seed, found in failed.items() if found},
      }
    )
  return {
    "study": name,
    "about": study.about,
    **facts,
    "axes": list(study.axes),
    "columns": [
      {"name": head, "about": describe(score), "scale": score.scale}
      for head, score in study.scores.items()
    ],
    "measured_on": _measured_on(scored) if scored else "",
    "random": {head: summarize(values) for head, values in random.items() if values},
    "rows": rows,
  }


def _over_seeds(runs: Sequence[Run], score: Score, path: str) -> dict[int, float]:
  found = {run.seed: number(run.result(score.file), path) for run in runs}
  return {seed: x for seed, x in found.items() if x is not None}


def describe(score: Score) -> str:
  """What a score is, in words."""
  protocol = score.path.removeprefix(_TRAINED).partition("/")[0]
  words = PROTOCOLS[protocol].words if protocol in PROTOCOLS else ""
  return score.about or words or f"{score.path} of {score.file}"


def _measured_on(result: Mapping[str, Any]) -> str:
  """The split that the scores are of, in words."""
  data = result.get("data")
  if data:
    test, train = data["eval"], data["train"]
    what = (
      f"{data['name'] or data['source']}: {test['videos']} videos of the split {test['name']!r}"
    )
    return f"{what} ({train['videos']} training videos)"
  videos = (result.get(result["method"]) or {}).get("videos")
  return f"{videos} videos of the evaluation split" if videos else "the evaluation split"


def cell_text(row: Mapping[str, Any] | None, scale: float) -> str:
  """`mean ± std`, or a single figure; – without figures."""
  if not row:
    return "–"
  digits = 1 if scale == 100 else 3
  text = f"{scale * row['mean']:.{digits}f}"
  return f"{text} ± {scale * row['std']:.{digits}f}" if "std" in row else text


def markdown(table: Mapping[str, Any]) -> str:
  """The table as Markdown, with all that a reader must know below it."""
  axes, columns = table["axes"], table["columns"]
  lines = [f"# {table['study']}", "", files.markdown(table["about"]), ""]
  lines += [_row([*axes, *(c["name"] for c in columns), "seeds"])]
  lines += ["|" + "---|" * len(axes) + "---:|" * (len(columns) + 1)]
  rows = [([row["settings"][axis] for axis in axes], row["scores"]) for row in table["rows"]]
  if table["random"]:
    rows.append((["random initialization", *[""] * (len(axes) - 1)], table["random"]))
  for labels, scores in rows:
    figures = [cell_text(scores.get(c["name"]), c["scale"]) for c in columns]
    seeds = max((s["seeds"] for s in scores.values()), default=0)
    lines.append(_row([*labels, *figures, str(seeds)]))
  lines += ["", "Mean ± standard deviation (n − 1) over seeds; shares in %.", ""]
  notes = {"measured on": table["measured_on"], "recipes": table["recipes"]}
  notes["checkpoint"] = "each run's last, unless a column says otherwise; none was chosen by these"
  if table["overrides"]:
    notes["fields"] = ", ".join(f"{k}={v}" for k, v in table["overrides"].items())
  notes |= {f"column {c['name']}": c["about"] for c in columns}
  if table["random"]:
    notes["random initialization"] = "the network of the first row that has results, untrained"
  lines += [f"- {k}: {files.markdown(v)}" for k, v in notes.items() if v]
  for row in table["rows"]:
    if row["missing"]:
      why = "; ".join(f"seed {s} failed: {e}" for s, e in row["failed"].items())
      seeds = ", ".join(map(str, row["missing"]))
      text = f"seeds {seeds} are missing" + (f" ({why})" if why else "")
      lines.append(f"- **{files.markdown(row['cell'])}**: {files.markdown(text)}")
  return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
  return f"| {' | '.join(files.markdown(c).replace('|', '&#124;') for c in cells)} |"
