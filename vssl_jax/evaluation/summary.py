"""Writes the results of an evaluation for all pairs of splits: `summary.json` and `table.md`."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from vssl_jax import files
from vssl_jax import results as results_lib
from vssl_jax.evaluation import table
from vssl_jax.evaluation.protocols import PROTOCOLS
from vssl_jax.evaluation.task import Result, Task


@dataclasses.dataclass
class Outcome:
  """The results on one pair of splits.

  Attributes:
    task: see `Task`.
    facts: facts that all of its protocols share.
    found: results by protocol.
    skipped: for each protocol that cannot run on this data, the reason.
  """

  task: Task
  facts: Result
  found: dict[str, Result] = dataclasses.field(default_factory=dict)
  skipped: dict[str, str] = dataclasses.field(default_factory=dict)


def with_read(data: Result, read: dict[str, int]) -> Result:
  """`data`, where each split also has `read`, the number of videos that could be read."""
  splits = {k: data[k] | {"read": n} for k, n in read.items()}
  return data | splits


def lost(result: Result) -> int:
  """The number of videos that are missing from a result because they could not be read."""
  splits = [result["data"][k] for k in ("train", "eval")]
  untrimmed = result.get("counts", {}).get("unreadable", 0)
  return untrimmed + sum(d["videos"] - d.get("read", d["videos"]) for d in splits)


def write(outcomes: dict[str, Outcome], checkpoint: Result, output: pathlib.Path) -> Result:
  """Writes both files.

  Args:
    outcomes: at least one outcome, keyed by the name of the pair of splits.
    checkpoint: facts about the checkpoint.
    output: the folder to write to.

  Returns:
    The content of `summary.json`.
  """
  headlines = {
    case: {name: r["headline"] for name, r in o.found.items() if r["headline"]}
    for case, o in outcomes.items()
  }
  first, notes = next(iter(outcomes.values())), _notes(outcomes)
  results = [r for o in outcomes.values() for r in o.found.values()]
  summary = {
    "job": "evaluate",
    "checkpoint": checkpoint,
    "seed": first.facts["seed"],
    "encoder_sha256": first.facts["encoder_sha256"],
    "pretraining": first.facts["pretraining"],
    "notes": notes,
    "views": first.facts["views"],
    "splits": headlines,
    "mean": table.averages(list(headlines.values())),
    "data": {case: o.facts["data"] for case, o in outcomes.items()},
    "lost_videos": {
      case: {name: lost(r) for name, r in o.found.items() if lost(r)}
      for case, o in outcomes.items()
    },
    "skipped": {case: o.skipped for case, o in outcomes.items()},
    "settings": {name: r["settings"] for name, r in first.found.items()},
    "seconds": sum(r["seconds"] for r in results),
  }
  results_lib.write_json(summary, output / "summary.json")
  words = {n: p.words for n, p in PROTOCOLS.items() if any(n in o.found for o in outcomes.values())}
  text = table.markdown(_title(checkpoint), _lines(first), headlines, words, notes=notes)
  files.write_atomic(output / "table.md", text.encode())
  return summary


def _notes(outcomes: dict[str, Outcome]) -> list[str]:
  """Notes that a reader of the figures must know."""
  notes = []
  for case, o in outcomes.items():
    notes += [f"{case}: {note}" for note in o.facts["notes"]]
    for name, r in o.found.items():
      if lost(r):
        counts = ", ".join(_read(r["data"][k]) for k in ("train", "eval") if "read" in r["data"][k])
        what = counts or f"{lost(r)} videos unreadable"
        notes.append(f"{case}, {name}: {what}; the next run tries the others again")
      rows = [row.get("trained_with", {}) for row in (r, *r.get("subsets", ()))]
      if times := sum(row.get("unreadable_reads", 0) for row in rows):
        notes.append(f"{case}, {name}: trained with other videos in place of {times} unreadable")
    notes += [f"{case}, {name}: left out: {why}" for name, why in o.skipped.items()]
  return notes


def _read(split: Result) -> str:
  return f"{split['read']} of {split['videos']} videos of {split['name']} could be read"


def _title(checkpoint: Result) -> str:
  step = checkpoint.get("step")
  return f"Evaluation of {checkpoint['method']}" + ("" if step is None else f", step {step}")


def _training(before: Result) -> str:
  """The result of `pretraining.describe` as text."""
  if before["data"] is None:
    return "unknown"
  d = before["data"]
  where = d["name"] or pathlib.PurePath(d["path"]).name or d["source"]
  share = "" if d["fraction"] == 1 else f", {100 * d['fraction']:g} % of it"
  labels = "with labels" if before["supervised"] else "without labels"
  mark = f"; fingerprint {d['fingerprint'][:16]}" if d["fingerprint"] else ""
  return f"{where}, split {d['split']}{share}, {labels}{mark}"


def _lines(outcome: Outcome) -> dict[str, Any]:
  facts = outcome.facts
  e, v, d = facts["encoder"], facts["views"], facts["data"]
  manifest = d["manifest_sha256"]
  return {
    "trained on": _training(facts["pretraining"]),
    "encoder": f"{e['name']}, depth {e['depth']}, width {e['width']:g}, {e['dtype']}; sha256 "
    f"{facts['encoder_sha256'][:16]}",
    "views": f"{v['clips']} clips x {v['crops']} crops of {v['frames']} frames with stride "
    f"{v['stride']}, short side {v['resize']}, crop {v['size']}",
    "batch norm": facts["bn_mode"],
    "features": facts["feature_layer"],
    "first split": f"{d['train']['videos']} training and {d['eval']['videos']} evaluation videos, "
    f"{d['classes']} classes; manifest sha256 {manifest[:16] if manifest else 'none'}",
    "seed": str(facts["seed"]),
  }
