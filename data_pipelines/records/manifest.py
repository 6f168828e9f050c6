"""`manifest.json` and `labels.txt`, which describe a folder of prepared records."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from vssl_jax import files
from vssl_jax.errors import UserError

MANIFEST = "manifest.json"
LABELS = "labels.txt"
FORMAT = 1
_SECONDS = (0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)  # edges of the histogram
_COUNTERS = ("classes", "durations", "fps", "size", "stored_size")
_TOTALS = ("videos", "records", "frames", "seconds", "bytes")


class Tally:
  """Statistics of videos that can be merged over shards.

  Attributes:
    counts: plain data for JSON: totals (`videos`, `records`, `frames`, `seconds`, `bytes`), the
      `shortest` and `longest` video in seconds, histograms of videos (`classes`, `durations`,
      `fps`, `size` of the files' frames, `stored_size`), the `unreadable` files, and the files
      that are `noted`: kept, but something is wrong with them.
  """

  def __init__(self, counts: dict[str, Any] | None = None):
    self.counts = counts or {
      **dict.fromkeys(_TOTALS, 0),
      "shortest": None,
      "longest": None,
      **{name: {} for name in _COUNTERS},
      "unreadable": [],
      "noted": [],
    }

  def add_video(
    self,
    *,
    label: str,
    records: int,
    frames: int,
    seconds: float,
    fps: float,
    size: tuple[int, int],
    stored_size: tuple[int, int],
  ) -> None:
    """Adds one video; `fps` and `size` are those of the file, an empty label means unlabeled."""
    counts = self.counts
    for name, value in zip(_TOTALS[:4], (1, records, frames, seconds), strict=True):
      counts[name] += value
    counts["shortest"] = min(seconds, counts["shortest"] or seconds)
    counts["longest"] = max(seconds, counts["longest"] or seconds)
    keys = (label, _bin(seconds), f"{fps:.4g}", "{}x{}".format(*size), "{}x{}".format(*stored_size))
    for name, key in zip(_COUNTERS, keys, strict=True):
      counts[name][key] = counts[name].get(key, 0) + 1

  def add_unreadable(self, path: str, reason: str) -> None:
    """Adds a video that could not be read and so has no record."""
    self.counts["unreadable"].append({"path": path, "reason": reason})

  def add_notes(self, path: str, notes: Sequence[str]) -> None:
    """Adds remarks about a video that is kept."""
    if notes:
      self.counts["noted"].append({"path": path, "notes": list(notes)})

  @staticmethod
  def merge(tallies: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Adds up the counts of several tallies; unreadable and noted files are sorted by path."""
    total = Tally().counts
    for counts in tallies:
      for name in _TOTALS:
        total[name] += counts[name]
      for name, choose in (("shortest", min), ("longest", max)):
        values = [v for v in (total[name], counts[name]) if v is not None]
        total[name] = choose(values, default=None)
      for name in _COUNTERS:
        total[name] = dict(collections.Counter(total[name]) + collections.Counter(counts[name]))
      total["unreadable"] += counts["unreadable"]
      total["noted"] += counts.get("noted", [])  # a shard of an earlier version has none
    for name in ("seconds", "shortest", "longest"):
      total[name] = None if total[name] is None else round(total[name], 3)
    for name in _COUNTERS:
      total[name] = dict(sorted(total[name].items(), key=lambda item: _natural(item[0])))
    for name in ("unreadable", "noted"):
      total[name].sort(key=lambda file: file["path"])
    return total


def build(labels: Sequence[str], splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """Builds the manifest; equal records give equal manifests.

  Args:
    labels: class names by index.
    splits: for each split name, its merged counts, `settings`, `notes` and `shards` (name,
      records, bytes, sha256).
  """
  splits = dict(sorted(splits.items()))
  digest = hashlib.sha256()
  for split in splits.values():
    for shard in split["shards"]:
      digest.update(f"{shard['name']} {shard['sha256']}\n".encode())
  return {
    "format": FORMAT,
    "sha256": digest.hexdigest(),
    "labels": list(labels),
    "splits": splits,
  }


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes JSON atomically, as valid UTF-8 even if a file name is not."""
  written = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
  with files.replacing(path) as file:
    # A lone surrogate stands for a byte of a name that is not UTF-8; this writes a JSON escape.
    file.write(written.encode("utf-8", "backslashreplace"))


def read(folder: str | os.PathLike) -> dict[str, Any] | None:
  """Reads a folder's manifest; None if it has none.

  Raises:
    UserError: the file is not a manifest of this format.
  """
  path = files.path(folder) / MANIFEST
  try:
    manifest = json.loads(files.read_text(path))
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise UserError(f"{path}: not valid JSON ({error}): delete it and run prepare again") from None
  if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
    raise UserError(f"{path}: not a manifest of format {FORMAT}: prepare the data again")
  return manifest


def read_labels(folder: str | os.PathLike) -> tuple[str, ...]:
  """Class names by index, from `labels.txt`; () if there is no such file."""
  try:
    return label_lines(files.path(folder) / LABELS)
  except FileNotFoundError:
    return ()


def label_lines(path: str | os.PathLike) -> tuple[str, ...]:
  """Class names by index, from a text file with one name per line; a blank line is an empty name.

  Raises:
    OSError: the file cannot be read.
  """
  return tuple(files.read_text(path).rstrip("\n").splitlines())


def summary(manifest: dict[str, Any]) -> str:
  """A summary of the manifest in a few lines of text."""
  lines = [f"  {'split':<10}{'videos':>9}{'records':>9}{'frames':>11}{'hours':>8}{'MB':>9}  shards"]
  for name, split in manifest["splits"].items():
    lines.append(
      f"  {name:<10}{split['videos']:>9,}{split['records']:>9,}{split['frames']:>11,}"
      f"{split['seconds'] / 3600:>8.2f}{split['bytes'] / 1e6:>9,.0f}  {len(split['shards'])}"
    )
  for name, split in manifest["splits"].items():
    if not split["videos"]:
      continue
    classes = {k: n for k, n in split["classes"].items() if k}
    line = f"  {name}: "
    if classes:
      low, high = min(classes.values()), max(classes.values())
      line += f"{len(classes)} class{'es' if len(classes) > 1 else ''} of {low}"
      line += f"{f' to {high}' if high > low else ''} videos"
    if unlabeled := split["classes"].get(""):
      line += f"{', ' if classes else ''}{unlabeled} without label"
    line += f"; {split['shortest']:.1f} to {split['longest']:.1f} s"
    line += f"; fps {_most(split['fps'])}; size {_most(split['size'])}"
    line += f", stored {_most(split['stored_size'])}"
    lines.append(line)
  return "\n".join(lines)


def _most(histogram: dict[str, int]) -> str:
  """The most frequent keys of a histogram, with their counts if there is more than one key."""
  ranked = sorted(histogram.items(), key=lambda item: -item[1])
  if len(ranked) == 1:
    return ranked[0][0]
  shown = ", ".join(f"{key} ({count})" for key, count in ranked[:3])
  return shown + (f" and {len(ranked) - 3} more" if len(ranked) > 3 else "")


def _bin(seconds: float) -> str:
  for low, high in itertools.pairwise(_SECONDS):
    if seconds < high:
      return f"{low}-{high}"
  return f"{_SECONDS[-1]}-"


def _natural(key: str) -> tuple:
  """Sorts keys by their leading number, then as text."""
  digits = "".join(c if c.isdigit() or c == "." else " " for c in key).split()
  is_number = key[:1].isdigit() and digits and digits[0].count(".") <= 1
  return (0, float(digits[0]), key) if is_number else (1, 0.0, key)
