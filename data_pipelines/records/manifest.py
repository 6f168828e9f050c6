"""`manifest.json` and `labels.txt`, which describe a folder of prepared records."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vssl_jax import files
from vssl_jax.errors import UserError

MANIFEST = "manifest.json"
LABELS = "labels.txt"
FORMAT = 1
_SECONDS = (0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)  # edges of the histogram
_COUNTERS = ("classes", "durations", "fps", "size", "stored_size")
_READS = 4  # shards that are hashed at the same time
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
    form: str = "",
  ) -> None:
    """Adds one video; `fps` and `size` are those of the file, an empty label means unlabeled.

    `form` is that of an encoded video, "" for JPEGs.
    """
    counts = self.counts
    for name, value in zip(_TOTALS[:4], (1, records, frames, seconds), strict=True):
      counts[name] += value
    counts["shortest"] = min(seconds, counts["shortest"] or seconds)
    counts["longest"] = max(seconds, counts["longest"] or seconds)
    keys = (label, _bin(seconds), f"{fps:.4g}", "{}x{}".format(*size), "{}x{}".format(*stored_size))
    for name, key in zip(_COUNTERS, keys, strict=True):
      counts[name][key] = counts[name].get(key, 0) + 1
    if form:
      forms = counts.setdefault("forms", {})
      forms[form] = forms.get(form, 0) + 1

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
      if forms := counts.get("forms"):  # records of JPEGs have none
        total["forms"] = dict(
          sorted((collections.Counter(total.get("forms")) + collections.Counter(forms)).items())
        )
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


class DamagedError(UserError):
  """A manifest cannot be read any more, or holds what `prepare` never writes."""


class ForeignError(UserError):
  """A manifest is of another program, or of another version's format."""


def read(folder: str | os.PathLike) -> dict[str, Any] | None:
  """Reads a folder's manifest; None if it has none.

  Raises:
    ForeignError: the file is not a manifest of this format.
    DamagedError: the file is damaged.
  """
  path = files.path(folder) / MANIFEST
  try:
    manifest = files.read_json(path)
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    why = getattr(error, "strerror", None) or error
    raise DamagedError(
      f"{path}: damaged, cannot be read ({why}): restore it, or run prepare again, which makes it "
      "anew"
    ) from None
  if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
    raise ForeignError(f"{path}: not a manifest of format {FORMAT}: prepare the data again")
  if why := fault(manifest):
    raise DamagedError(
      f"{path}: damaged, {why}: restore it, or run prepare again, which makes it anew"
    )
  return manifest


def known(folder: str | os.PathLike) -> dict[str, Any] | None:
  """As `read`, but None as well if the manifest is of another program.

  Raises:
    DamagedError: the manifest is damaged.
  """
  try:
    return read(folder)
  except ForeignError:
    return None


def shards_of(
  folder: str | os.PathLike, split: str, stored: dict[str, Any] | None = None
) -> list[dict[str, Any]] | None:
  """What the manifest has of the shards of a split; None without a manifest of `prepare`.

  Args:
    folder: folder of the records.
    split: the split.
    stored: the manifest, if it was read before.

  Raises:
    DamagedError: the manifest is damaged.
  """
  manifest = stored or known(folder)
  found = manifest and manifest["splits"].get(split)
  return found["shards"] if found else None


def check_shards(
  folder: str | os.PathLike,
  split: str,
  found: Mapping[str, tuple[int, int]],
  stored: dict[str, Any] | None = None,
) -> None:
  """Checks that a split's shards are those of the manifest, if there is one that has the split.

  A shard that was emptied or cut where a record ends is a valid shard of fewer videos, which only
  the manifest shows.

  Args:
    folder: folder of the records.
    split: the split.
    found: records and bytes of each shard, by file name.
    stored: the manifest, if it was read before.

  Raises:
    UserError: a shard has other records or bytes, is missing, or is not in the manifest.
  """
  shards = shards_of(folder, split, stored)
  if shards is None:
    return
  told = {s["name"]: (s["records"], s["bytes"]) for s in shards}
  where, again = files.path(folder), "copy the records again, or run prepare again"
  for name in sorted({*told, *found}):
    if name not in found:
      raise UserError(f"{where / name}: missing, but {MANIFEST} has it: {again}")
    if name not in told:
      raise UserError(f"{where / name}: not in {MANIFEST}, which has other shards: {again}")
    if found[name] != told[name]:
      has, had = (
        f"{records:,} records in {size:,} bytes" for records, size in (found[name], told[name])
      )
      raise UserError(f"{where / name}: has {has}, but {MANIFEST} says {had}: {again}")


def verify(folder: str | os.PathLike, splits: Sequence[str] = ()) -> int:
  """Compares the SHA-256 of every shard with the manifest; reads all shards.

  Args:
    folder: folder of the records.
    splits: names of splits; () for all.

  Returns:
    The number of shards.

  Raises:
    UserError: there is no manifest or no such split, or a shard is missing or another one.
  """
  manifest = read(folder)
  if manifest is None:
    raise UserError(f"{folder}: has no {MANIFEST} to verify its shards by")
  if missing := set(splits) - manifest["splits"].keys():
    raise UserError(f"{files.path(folder) / MANIFEST}: has no split {min(missing)!r}")
  shards = [s for name in splits or manifest["splits"] for s in manifest["splits"][name]["shards"]]

  def one(shard: dict[str, Any]) -> None:
    path = files.path(folder) / shard["name"]
    try:
      with files.open_read(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
      raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if found != shard["sha256"]:
      raise UserError(
        f"{path}: damaged or replaced: its sha256 is {found[:12]}…, {MANIFEST} says "
        f"{shard['sha256'][:12]}…: copy it again, or run prepare again"
      )

  with concurrent.futures.ThreadPoolExecutor(_READS) as pool:
    for _ in pool.map(one, shards):
      pass
  return len(shards)


def fault(manifest: dict[str, Any]) -> str:
  """What is wrong with the content of a manifest of this format; "" if nothing is."""
  labels, splits = manifest.get("labels"), manifest.get("splits")
  if not _is_list(labels, str) or not isinstance(manifest.get("sha256"), str):
    return "without its labels or sha256"
  if not isinstance(splits, dict) or not _is_list([*splits.values()], dict):
    return "without its splits"
  for name, split in splits.items():
    numbers = [split.get(k) for k in _TOTALS]
    spans = [split.get(k) for k in ("shortest", "longest")]
    counts = [*(split.get(k) for k in _COUNTERS), split.get("forms", {})]
    sound = (
      all(map(_is_count, numbers))
      and all(x is None or _is_count(x) for x in spans)
      and (not split["videos"] or None not in spans)
      and all(isinstance(c, dict) and all(map(_is_count, c.values())) for c in counts)
      and all(c for c in counts[1:-1] if split["videos"])
      and _is_list(split.get("shards"), dict)
      and _is_list(split.get("unreadable"), dict)
      and all(isinstance(f.get(k), str) for f in split["unreadable"] for k in ("path", "reason"))
      and all(map(_is_shard, split["shards"]))
      and _has_notes(split)
    )
    if not sound:
      return f"its split {name!r} lacks something, or has it in another form"
  return ""


def _has_notes(split: dict[str, Any]) -> bool:
  """Whether the remarks of a split are such, as far as it has any: earlier versions have fewer."""
  noted, left_out = split.get("noted", []), split.get("left_out", 0)
  return (
    _is_list(split.get("notes", []), str)
    and isinstance(split.get("settings", {}), dict)
    and _is_list(noted, dict)
    and all(isinstance(f.get("path"), str) and _is_list(f.get("notes"), str) for f in noted)
    and isinstance(left_out, int)
    and _is_count(left_out)
  )


def _is_list(value: Any, kind: type) -> bool:
  return isinstance(value, list) and all(isinstance(x, kind) for x in value)


def _is_count(value: Any) -> bool:
  known = isinstance(value, int | float) and not isinstance(value, bool)
  return known and 0 <= value < 1 << 62


def _is_shard(shard: dict[str, Any]) -> bool:
  name, counts = shard.get("name"), [shard.get(k) for k in ("records", "bytes")]
  plain = isinstance(name, str) and name not in ("", ".", "..") and not {*"/\\\0"} & {*name}
  return plain and isinstance(shard.get("sha256"), str) and all(map(_is_count, counts))


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
    if forms := split.get("forms"):
      line += f"; encoded videos: {_most(forms)}"
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
