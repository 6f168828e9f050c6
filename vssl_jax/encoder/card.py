"""What an exported encoder's card says beside its weights: results, data, programs.

A card is believed long after the folders that it was written from are gone, so it says only what
was found to be of these weights: scores whose `encoder_sha256` is the encoder's, a manifest of the
videos trained on, programs written together with it. What is left out is noted in one line.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys
from collections.abc import Collection, Iterable
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import results as results_lib
from vssl_jax.errors import UserError

RESULT = "result.json"  # of a run that was probed
# Where vssl_jax.evaluate writes by default.
SUMMARY = pathlib.PurePath("evaluation", "summary.json")
MANIFEST = "manifest.json"  # of prepared records


def results(folder: pathlib.Path, hashes: Collection[str]) -> dict[str, Any]:
  """What the run's probes found, and `evaluation` where `vssl_jax.evaluate` was run on it.

  Args:
    folder: of the run, or of an exported encoder.
    hashes: `report.tree_hash` of the encoder, as trained and as probes see it.

  Returns:
    Scores of this very encoder; those of another are left out, which a line on stderr says.

  Raises:
    UserError: a file is not JSON.
  """
  probed = _read(folder / RESULT)
  evaluated = _read(folder / SUMMARY)
  # A run that was not probed has no scores that could be another's.
  scored = probed.get("trained", {})
  if scored and not _same(scored.get("encoder_sha256"), hashes, folder / RESULT):
    probed = {}
  if evaluated and not _same(evaluated.get("encoder_sha256"), hashes, folder / SUMMARY):
    evaluated = {}
  return probed | ({"evaluation": evaluated} if evaluated else {})


def _read(file: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
  except ValueError:
    raise UserError(f"{file}: not JSON; remove it or probe again") from None
  if not isinstance(found, dict):
    raise UserError(f"{file}: no results in it; remove it or probe again")
  return found


def _same(told: str | None, hashes: Collection[str], file: pathlib.Path) -> bool:
  if told in hashes:
    return True
  whose = f"is of other weights (sha256 {told[:12]}…)" if told else "does not say of which weights"
  _note(f"{file} {whose}: left out of the card; probe or evaluate again, then export")
  return False


def data(d: ConfigDict) -> dict[str, Any]:
  """Which videos it was trained on: their fingerprint, and the hash of the records' manifest.

  Args:
    d: `config.data` of the run; `fingerprint` is of the videos it was trained on.

  Returns:
    The fields; `manifest_sha256` is None unless the records that lie at `d.path` now are those
    trained on. That others lie there, a line on stderr says.
  """
  manifest = pathlib.Path(d.path) / MANIFEST
  found = {k: d.get(k, "") for k in ("source", "name", "train_split", "fingerprint")}
  known = d.source == "tfrecord" and d.path and found["fingerprint"] and manifest.is_file()
  if known and _fingerprint(d) != found["fingerprint"]:
    _note(
      f"{d.path}: its split {d.train_split!r} is not what the encoder was trained on; the card "
      "has no hash of its manifest"
    )
    known = False
  return found | {"manifest_sha256": results_lib.file_hash(manifest) if known else None}


def _fingerprint(d: ConfigDict) -> str | None:
  from data_pipelines.records import fingerprint, index

  try:
    return fingerprint.of_records(d.path, d.train_split, index.load(d.path, d.train_split))
  except (UserError, OSError):  # no such split there, or no whole one
    return None


def programs(folder: pathlib.Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
  """SHA-256 of each program in the folder: of the file, or of a folder's names and hashes."""
  return {name: {"sha256": _hash(folder / name)} for name in names}


def _hash(path: pathlib.Path) -> str:
  if path.is_file():
    return results_lib.file_hash(path)
  files = sorted(f for f in path.rglob("*") if f.is_file())
  lines = [f"{f.relative_to(path).as_posix()} {results_lib.file_hash(f)}\n" for f in files]
  return hashlib.sha256("".join(lines).encode()).hexdigest()


def _note(text: str) -> None:
  print(f"note: {text}.", file=sys.stderr)
