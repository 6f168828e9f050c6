"""Reads sequences of features (instead of pixels) with NumPy alone.

`config.data.path` is one of

* a `.npz` file with `features` `[V, L, D]` and optionally `label` `[V]`, `length` `[V]` (number of
  valid frames, from the start), `subset` `[V]` (compared as text with the name of the split) and
  `label_names`;
* a folder of `.npy` files (`[L, D]`, one per video) or of `.npz` files with such an array named
  `features`. `labels.csv` (`path,label[,split]`) lists the files to use. Without it, all files in
  the sub-folder named like the split are used, or all files if no sub-folder is named like a split
  (`data_pipelines.listing.layout`); their labels are the names of the class folders. Folders `rgb`
  and `flow` are no classes but streams of the same videos, whose features are joined; such videos
  have no labels here.

Every sequence becomes `data.frames` = T frames long. A shorter one is padded, and `mask` is False
there. A longer one is divided into T equal segments, and one frame is taken from each: a random
frame in training, else the middle one.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines.listing import csv_table, layout
from data_pipelines.records import fingerprint as fingerprint_lib
from data_pipelines.source import Example, NumpySource, check_labels
from vssl_jax.errors import UserError
from vssl_jax.files import check_name, local, read_npy, read_npz
from vssl_jax.localization import check, feature_folders

Sequence2D = np.ndarray | Callable[[], np.ndarray]  # [L, D], or a function that reads it


class FeatureSource(NumpySource):
  """Feature sequences, in memory or read one by one; implements `source.Source`.

  Batches have `features` float32 `[N, T, D]`, `mask` bool `[N, T]`, `label` int32 `[N]` (−1:
  unknown; `[N, C]` if `labels` has rows of C values), `video` int64 `[N]`.

  Args:
    data: `config.data`.
    sequences: one array `[L, D]` per video; L ≥ 1 may vary, D is the same for all.
    labels: one integer (or row of integers) per video; None if unknown.
    label_names: class names by label index.
    fingerprint: see `source.Source`; by default it is computed from the arrays.
    **kwargs: as for `source.load`.
  """

  def __init__(
    self,
    data: Any,
    sequences: Sequence[Sequence2D],
    labels: np.ndarray | None = None,
    *,
    label_names: Sequence[str] = (),
    fingerprint: str = "",
    **kwargs: Any,
  ):
    rows = None if labels is None else np.asarray(labels).tolist()
    fingerprint = fingerprint or fingerprint_lib.of_arrays(sequences, rows)
    super().__init__(data, len(sequences), fingerprint=fingerprint, **kwargs)
    if data.frames < 1:
      raise UserError(f"config.data.frames: {data.frames} frames per sequence; give at least 1.")
    self.label_names = tuple(label_names)
    self._frames, self._sequences = data.frames, sequences
    where = f"{data.path}: labels" if data.path else "labels"
    labels = np.full(len(sequences), -1) if labels is None else labels
    self._labels = check_labels(labels, len(sequences), self.label_names, where)

  def occurring(self) -> frozenset[int] | None:
    """See `source.occurring`."""
    own = self._labels[self.ids]
    return frozenset(own[own >= 0].tolist()) if own.ndim == 1 else None

  def train_example(self, video: int, rng: np.random.Generator) -> Example:
    """One sequence, with a random frame from each segment."""
    return self._example(video, rng.random(self._frames))

  def eval_example(self, video: int, **views: int) -> Example:
    """One sequence, with the middle frame of each segment; `views` has no effect on features."""
    del views
    return self._example(video, np.full(self._frames, 0.5))

  def _example(self, video: int, within: np.ndarray) -> Example:
    original = int(self.ids[video])
    sequence = self._sequences[original]
    sequence = sequence() if callable(sequence) else sequence
    if sequence.ndim != 2 or not len(sequence):
      raise UserError(f"feature sequence {original} has shape {sequence.shape}, not [L ≥ 1, D].")
    length, frames = len(sequence), self._frames
    if length > frames:
      chosen = ((np.arange(frames) + within) * length / frames).astype(np.int64)
      sequence = sequence[np.minimum(chosen, length - 1)]
    features = np.zeros((frames, sequence.shape[1]), np.float32)
    features[: len(sequence)] = sequence
    return {
      "features": features,
      "mask": np.arange(frames) < length,
      "label": np.asarray(self._labels[original], np.int32),
      "video": np.int64(video),
    }


def load(data: Any, *, split: str, **kwargs: Any) -> FeatureSource:
  """See `source.load`; the module's docstring says what `data.path` may be.

  Raises:
    UserError: the path does not exist, or has no sequences of that split.
  """
  path = local(data.path)
  if not data.path or not path.exists():
    raise UserError(
      f"config.data.path: no .npz file or folder of feature sequences at {data.path!r}."
    )
  read = _read_folder if path.is_dir() else _read_file
  sequences, labels, names, mark = read(path, split)
  if not sequences:
    raise UserError(f"{path}: no feature sequences of split {split!r}.")
  return FeatureSource(
    data, sequences, labels, label_names=names, fingerprint=mark, split=split, **kwargs
  )


def _read_file(path: pathlib.Path, split: str) -> tuple[list, np.ndarray | None, tuple, str]:
  arrays = read_npz(path)
  if "features" not in arrays or arrays["features"].ndim != 3:
    raise UserError(f"{path}: needs an array 'features' [V, L, D]; it has {sorted(arrays)}.")
  count, longest = arrays["features"].shape[:2]
  lengths = arrays.get("length", np.full(count, longest))
  _require_rows(path, arrays, lengths, longest)
  label = arrays.get("label")
  if label is not None:
    label = check_labels(label, count, (), f"{path}: 'label'")
  subset = arrays.get("subset", np.full(count, split)).astype(str)
  rows = np.flatnonzero(subset == split)
  if not len(rows):
    raise UserError(
      f"{path}: no rows of split {split!r}; its 'subset' has {', '.join(sorted(set(subset)))}."
    )
  return (
    [arrays["features"][i, : lengths[i]] for i in rows],
    None if label is None else label[rows],
    tuple(str(n) for n in arrays.get("label_names", np.array(())).ravel()),
    fingerprint_lib.of_npz(path, split),
  )


def _require_rows(
  path: pathlib.Path, arrays: dict[str, np.ndarray], lengths: np.ndarray, longest: int
) -> None:
  """Checks that the arrays of a file have a row for each video, of the types that they need."""
  features = arrays["features"]
  for name, kinds in {"features": "fiub", "length": "iu", "subset": "USiu"}.items():
    x = arrays.get(name)
    if x is None:
      continue
    if x.dtype.kind not in kinds or (name != "features" and x.shape[:1] != features.shape[:1]):
      raise UserError(
        f"{path}: {name!r} is {x.dtype}{list(x.shape)}, which does not fit features "
        f"{list(features.shape)}."
      )
  if lengths.ndim != 1 or not ((lengths > 0) & (lengths <= longest)).all():
    raise UserError(f"{path}: 'length' must be integers from 1 to {longest}, one per video.")
  if "subset" in arrays and arrays["subset"].ndim != 1:
    raise UserError(f"{path}: 'subset' must have one value per video.")


def _read_folder(path: pathlib.Path, split: str) -> tuple[list, np.ndarray | None, tuple, str]:
  table = path / "labels.csv"
  if table.exists():
    rows = _rows(table)
    classes = [r["label"] for r in rows]
    chosen = [r for r in rows if r.get("split", split) == split]
    files, texts = [path / r["path"] for r in chosen], [r["label"] for r in chosen]
  else:
    inner = path / "features"
    path = inner if (inner / split).is_dir() and not (path / split).is_dir() else path
    root = _split_folder(path, split)
    inside = sorted(f.relative_to(root) for f in root.rglob("*") if f.suffix in (".npy", ".npz"))
    inside = [f for f in inside if not any(part.startswith(".") for part in f.parts)]
    files = [root / f for f in inside]
    texts = [f.parts[0] if len(f.parts) > 1 else "" for f in inside]
    if feature_folders.are_streams(texts):
      return _read_streams(path, split)
    # Classes of all splits, so that a class has the same index even if a split lacks some classes.
    roots = [d for d in path.iterdir() if d.is_dir()] if root != path else [path]
    classes = [d.name for r in roots for d in r.iterdir() if d.is_dir()]
    classes = [name for name in classes if not name.startswith(".")]
  names = tuple(sorted({c for c in classes if c}))
  if names and all(c.isdecimal() for c in names):
    labels, names = [int(t) if t else -1 for t in texts], ()
  else:
    labels = [names.index(t) if t else -1 for t in texts]
  mark = fingerprint_lib.of_files(files, path, labels)
  return [_reader(f) for f in files], np.array(labels), names, mark


def _split_folder(path: pathlib.Path, split: str) -> pathlib.Path:
  """The sub-folder of a split, whatever its capitals, or the folder itself if it has no splits.

  Raises:
    UserError: the sub-folders are other splits, or it is not clear which one is meant.
  """
  if (path / split).is_dir():
    return path / split
  parsed = {d: layout.parse(d.name) for d in sorted(path.iterdir()) if d.is_dir()}
  splits = {d: name.split for d, name in parsed.items() if name.split and not name.rest}
  if not splits:
    return path
  same = [d for d, name in splits.items() if name == (layout.parse(split).split or split)]
  if len(same) != 1:
    names = ", ".join(sorted(d.name for d in same or splits))
    raise UserError(
      f"{path}: no folder of split {split!r}; it has {names}: rename a folder, or set "
      "config.data.train_split and config.data.eval_split."
    )
  return same[0]


def _read_streams(path: pathlib.Path, split: str) -> tuple[list, None, tuple, str]:
  where = feature_folders.find(path)
  files = [where.files(video, split) for video in where.videos(split)]
  mark = fingerprint_lib.of_files([f for parts in files for f in parts], path)
  return [functools.partial(check.read_streams, parts) for parts in files], None, (), mark


def _rows(table: pathlib.Path) -> list[dict[str, str]]:
  """The rows of `labels.csv`; each names a file below its folder."""
  listed = csv_table.read(table, ("path", "label", "split"))
  if listed.rows and not {"path", "label"} <= set(listed.columns):
    raise UserError(f"{table}: needs columns 'path' and 'label', has {list(listed.columns)}.")
  for number, row in listed.rows:
    check_name(row["path"], f"{table}, line {number}")
  return [row for _, row in listed.rows]


def _reader(path: pathlib.Path) -> Callable[[], np.ndarray]:
  def read() -> np.ndarray:
    if path.suffix == ".npy":
      return read_npy(path)
    try:
      return read_npz(path, ("features",))["features"]
    except (OSError, KeyError) as e:
      raise UserError(f"{path}: the feature sequence cannot be read ({e}).") from None

  return read
