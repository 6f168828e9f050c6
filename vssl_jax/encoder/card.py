"""Collects the facts in an exported encoder's card: results, training data, programs.

Readers cannot check a card after the original folders are gone. So it contains only what provably
belongs to these weights: scores whose `encoder_sha256` equals the encoder's, the manifest of the
training videos, and programs written with the card. One line on stderr says what was left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import sys
from collections.abc import Collection, Iterable
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import files
from vssl_jax import results as results_lib
from vssl_jax.errors import UserError

RESULT = "result.json"  # written by a run with probes
# What vssl_jax.evaluate writes by default: `evaluation`, `evaluation_best`, `evaluation_STEP`.
SUMMARIES = "evaluation*/summary.json"
MANIFEST = "manifest.json"  # in a folder of prepared records


def results(folder: pathlib.Path, hashes: Collection[str]) -> dict[str, Any]:
  """The scores of the run's probes, and under `evaluation` those of `vssl_jax.evaluate`, if any.

  Args:
    folder: folder of the run, or of an exported encoder.
    hashes: `results.tree_hash` of the encoder, both as trained and as the probes use it.

  Returns:
    Only scores of exactly this encoder. Scores of other weights are left out, with a line on
    stderr.

  Raises:
    UserError: a file is not JSON.
  """
  probed = _read(folder / RESULT)
  # A run without probes has no scores to check.
  scored = probed.get("trained") or {}
  if not isinstance(scored, dict):
    raise UserError(f"{folder / RESULT}: holds no results; remove it or probe again")
  if scored and _weights(scored) not in hashes:
    _note_others(scored, folder / RESULT)
    probed = {}
  evaluated = _evaluated(folder, hashes)
  return probed | ({"evaluation": evaluated} if evaluated else {})


def _evaluated(folder: pathlib.Path, hashes: Collection[str]) -> dict[str, Any]:
  """The first summary of this encoder; each checkpoint of a run has a folder of its own."""
  summaries = {file: _read(file) for file in files.matching(folder, SUMMARIES)}
  for summary in summaries.values():
    if _weights(summary) in hashes:
      return summary
  for file, summary in summaries.items():
    _note_others(summary, file)
  return {}


def _read(file: pathlib.Path) -> dict[str, Any]:
  try:
    found = files.read_json(file) if file.is_file() else {}
  except UserError:
    raise
  except ValueError:
    raise UserError(f"{file}: not JSON; remove it or probe again") from None
  if not isinstance(found, dict):
    raise UserError(f"{file}: holds no results; remove it or probe again")
  return found


def _weights(scores: dict[str, Any]) -> str:
  """The hash of the encoder that scores are of; "" if they do not say."""
  stored = scores.get("encoder_sha256")
  return stored if isinstance(stored, str) else ""


def _note_others(scores: dict[str, Any], file: pathlib.Path) -> None:
  stored = _weights(scores)
  reason = f"is of other weights (sha256 {stored[:12]}…)" if stored else "has no encoder_sha256"
  _note(f"{file} {reason}: left out of the card; probe or evaluate again, then export")


def data(d: ConfigDict) -> dict[str, Any]:
  """Identifies the training videos: their fingerprint, and the hash of the records' manifest.

  Args:
    d: `config.data` of the run; its `fingerprint` is that of the training videos.

  Returns:
    The card's fields. `manifest_sha256` is None unless the records now at `d.path` are those that
    the encoder was trained on; if they are not, a line on stderr says so.
  """
  found = {k: d.get(k, "") for k in ("source", "name", "train_split", "fingerprint")}
  known, manifest = False, pathlib.Path(MANIFEST)
  if d.source == "tfrecord" and d.path and found["fingerprint"]:
    with contextlib.suppress(UserError, OSError):  # a bucket that this machine cannot reach
      manifest = files.path(d.path) / MANIFEST
      known = manifest.is_file()
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
  except (UserError, OSError):  # the split is missing or incomplete
    return None


def programs(folder: pathlib.Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
  """The SHA-256 of each program: of its file, or of the names and hashes of its folder's files."""
  return {name: {"sha256": _hash(folder / name)} for name in names}


def _hash(path: pathlib.Path) -> str:
  if path.is_file():
    return results_lib.file_hash(path)
  inside = sorted(pathlib.PurePosixPath(name) for name in files.tree(path))
  lines = [f"{name} {results_lib.file_hash(path / name)}\n" for name in inside]
  return hashlib.sha256("".join(lines).encode()).hexdigest()


def _note(text: str) -> None:
  print(f"note: {files.printable(text)}.", file=sys.stderr)
