"""Reads sequences of features (instead of pixels) with NumPy alone.

`config.data.path` is one of

* a `.npz` file with `features` `[V, L, D]` and optionally `label` `[V]`, `length` `[V]` (number of
  valid frames, from the start), `subset` `[V]` (compared as text with the name of the split) and
  `label_names`;
* a folder of `.npy` files (`[L, D]`, one per video) or of `.npz` files with such an array named
  `features`. `labels.csv` (`path,label[,split]`) lists the files to use. Without it, all files in
  the sub-folder named like the split are used, or all files if there is no such sub-folder; their
  labels are the names of the class folders.

Every sequence becomes `data.frames` = T frames long. A shorter one is padded, and `mask` is False
there. A longer one is divided into T equal segments, and one frame is taken from each: a random
frame in training, else the middle one.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines.records import fingerprint as fingerprint_lib
from data_pipelines.source import Example, NumpySource
from vssl_jax.errors import UserError
from vssl_jax.files import check_name, local, read_npy, read_npz, read_text

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
    self._labels = np.full(len(sequences), -1) if labels is None else np.asarray(labels)
    if len(self._labels) != len(sequences):
      raise UserError(
        f"labels: {len(self._labels)} labels for {len(sequences)} feature sequences; give one per "
        "sequence."
      )

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
  subset = arrays.get("subset", np.full(count, split)).astype(str)
  rows = np.flatnonzero(subset == split)
  if not len(rows):
    raise UserError(
      f"{path}: no rows of split {split!r}; its 'subset' has {', '.join(sorted(set(subset)))}."
    )
  label = arrays.get("label")
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
  for name, kinds in {"features": "fiub", "label": "iu", "length": "iu", "subset": "USiu"}.items():
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
    root = path / split if (path / split).is_dir() else path
    files = sorted(f for f in root.rglob("*") if f.suffix in (".npy", ".npz"))
    texts = [f.parent.name if f.parent != root else "" for f in files]
    # Classes of all splits, so that a class has the same index even if a split lacks some classes.
    roots = [d for d in path.iterdir() if d.is_dir()] if root != path else [path]
    classes = [d.name for r in roots for d in r.iterdir() if d.is_dir()]
  names = tuple(sorted({c for c in classes if c}))
  if names and all(c.isdigit() for c in names):
    labels, names = [int(t) if t else -1 for t in texts], ()
  else:
    labels = [names.index(t) if t else -1 for t in texts]
  mark = fingerprint_lib.of_files(files, path, labels)
  return [_reader(f) for f in files], np.array(labels), names, mark


def _rows(table: pathlib.Path) -> list[dict[str, str]]:
  """The rows of `labels.csv`; each names a file below its folder."""
  try:
    rows = list(csv.DictReader(read_text(table, strict=True).splitlines(keepends=True)))
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise UserError(f"{table}: cannot be read as CSV ({e}).") from None
  if rows and not {"path", "label"} <= rows[0].keys():
    raise UserError(f"{table}: needs columns 'path' and 'label', has {list(rows[0])}.")
  for number, row in enumerate(rows, start=2):
    if None in row or None in row.values():
      raise UserError(f"{table}, line {number}: its fields are not those of the first line.")
    check_name(row["path"], f"{table}, line {number}")
  return rows


def _reader(path: pathlib.Path) -> Callable[[], np.ndarray]:
  def read() -> np.ndarray:
    if path.suffix == ".npy":
      return read_npy(path)
    try:
      return read_npz(path, ("features",))["features"]
    except (OSError, KeyError) as e:
      raise UserError(f"{path}: the feature sequence cannot be read ({e}).") from None

  return read
