"""Stitches untrimmed sequences from real features of trimmed videos, with exact ground truth.

`config.data.path` is a `.npz` file in the format of `sources.features` (`features` `[V, L, D]`,
`label` `[V]`, `subset` `[V]` and optionally `length` `[V]`), or a folder with one `[L, D]` array
per video, `<subset>/<label>/<video>.npy`. Some labels are actions
(`config.data.localization.stitched.actions`); the videos of all other labels fill the time between
actions. The features of a source video stay in order; if it is shorter than the action, another
video of the class follows. The splits are the names of the subsets (`config.data.train_split` and
`eval_split`), so train and test sequences share no source video. Sequences held out to choose a
checkpoint do not share any with training either: they use the last videos of each class, in the
order of the file, where excerpts of one recording are usually neighbors.

Lengths of actions and gaps are drawn from the real ones in `config.data.localization.annotations`,
or are log-normal. A step lasts `step_seconds`, for features of any frame rate.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.records import fingerprint
from data_pipelines.source import generator
from data_pipelines.untrimmed import action_times
from data_pipelines.untrimmed.sequences import (
  Dataset,
  LocalizationSource,
  counts,
  held_out,
  part,
  step_of,
  subset_of,
)
from vssl_jax.errors import UserError
from vssl_jax.files import lines, local, read_npz
from vssl_jax.localization import annotations as files
from vssl_jax.localization import check, feature_folders
from vssl_jax.localization.annotations import Segment, Video

_STITCH = 5  # `purpose` of the random numbers, see `source.generator`


def load(data: Any, *, split: str, **kwargs: Any) -> LocalizationSource:
  """See `source.load`; the module's docstring describes the file."""
  dataset = make(data, [subset_of(data, split)])
  return LocalizationSource(data, dataset, split=split, **kwargs)


def make(data: Any, splits: Sequence[str] | None = None) -> Dataset:
  """Makes some splits in memory, in the file's precision; they depend on file and `config.data`.

  Args:
    data: `config.data`.
    splits: names of the splits; None for both.

  Raises:
    UserError: the file is missing or malformed, or lacks videos of a split, of an action or of the
      background.
  """
  fields, step_seconds = data.localization, step_of(data)
  sources = _read_folder(data.path) if local(data.path).is_dir() else _read_npz(data.path)
  if fields.check:
    _require_finite(sources, data.path)
  names = sources.names | _names(fields.stitched.names, sources.names)
  actions = _actions(fields.stitched.actions, names)
  lengths = action_times.typical()
  if fields.annotations:
    lengths = action_times.lengths_of(files.read_annotations(fields.annotations))
  videos, features = {}, {}
  sizes = counts(data)
  if fields.validation_videos and not 0 < fields.validation < 1:
    raise UserError(
      "config.data.localization.validation_videos: sequences that are held out need source videos "
      f"of their own; config.data.localization.validation is {fields.validation}, give their share "
      "in (0, 1)."
    )
  for subset in sizes if splits is None else splits:
    own = data.train_split if subset == held_out(data) else subset  # that of the source videos
    drawn = action_times.draw(
      lengths,
      [names[a] for a in actions],
      sizes.get(subset, fields.videos),
      subset=subset,
      seed=fields.seed,
      max_seconds=fields.max_seconds,
      second_class=fields.second_class,
    )
    rows = np.flatnonzero(sources.subset == own)
    held, apart = np.zeros(len(rows), bool), {}
    if own == data.train_split and fields.validation:
      held = _held_out(sources.label[rows], fields.validation)
      made = fields.validation_videos
      apart = {} if made and subset == own else part(data, drawn, held_out(data))
    pools = {
      side: _pools(sources, rows[held == side], own, {a: names[a] for a in actions}, data.path)
      for side in {name in apart for name in drawn}
    }
    for v, (name, video) in enumerate(drawn.items()):
      rng = generator(fields.seed, zlib.crc32(subset.encode()), v, _STITCH)
      pool = pools[name in apart]
      videos[name], features[name] = stitch(video, pool, rng, step_seconds=step_seconds)
  classes = tuple(sorted(names[a] for a in actions))
  mark = fingerprint.of(sources.fingerprint, fields.seed, fields.validation)
  return Dataset(videos, features, step_seconds, classes, mark)


def stitch(
  video: Video,
  pools: Mapping[str, Sequence[np.ndarray]],
  rng: np.random.Generator,
  *,
  step_seconds: float,
) -> tuple[Video, np.ndarray]:
  """Stitches one sequence with the action times of a given video.

  Args:
    video: annotation with the action times; actions must not overlap.
    pools: source sequences `[L, D]` for each class name, and for the background under "".
    rng: chooses the source sequences and where the excerpts begin.
    step_seconds: length of a step; actions are rounded to whole steps, at least one per action.

  Returns:
    The annotation with the rounded action times, and the features `[L, D]`.
  """
  parts, segments, steps = [], [], 0
  for s in video.segments:
    before = round(s.start / step_seconds) - steps
    parts += _take(pools[""], max(before, 0), rng)
    steps += max(before, 0)
    count = max(1, round(s.end / step_seconds) - steps)
    parts += _take(pools[s.label], count, rng)
    segments.append(Segment(steps * step_seconds, (steps + count) * step_seconds, s.label))
    steps += count
  after = max(0, math.floor((video.duration or 0) / step_seconds) - steps)
  parts += _take(pools[""], after, rng)
  moved = Video(video.subset, (steps + after) * step_seconds, tuple(segments))
  return moved, np.concatenate(parts)


def _take(pool: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> list[np.ndarray]:
  """Random excerpts with a total length of `count` steps."""
  parts = []
  while count > 0:
    source = pool[int(rng.integers(len(pool)))]
    start = rng.integers(max(len(source) - count, 0) + 1)
    parts.append(source[start : start + count])
    count -= len(parts[-1])
  return parts


class _Sources(NamedTuple):
  """Features `[L, D]`, label and subset of each trimmed video, and the names of the labels."""

  features: Sequence[np.ndarray]
  label: np.ndarray
  subset: np.ndarray
  names: dict[int, str]
  fingerprint: str


def _read_folder(path: str) -> _Sources:
  files = sorted(local(path).glob("*/*/*.npy"))
  if not files:
    raise UserError(f"config.data.path: {path}: no <subset>/<label>/<video>.npy in this folder.")
  if feature_folders.are_streams(f.parent.name for f in files):
    raise UserError(
      f"config.data.path: {path} holds streams of untrimmed videos, rgb and flow, not folders of "
      "classes; config.data.source='localization' reads them."
    )
  features = [check.read_sequence(f, mapped=True) for f in files]
  for f, x in zip(files, features, strict=True):
    if x.shape[1] != features[0].shape[1]:
      raise UserError(
        f"{f}: has shape {list(x.shape)}, not [L, {features[0].shape[1]}] as the first file; all "
        "files need the same D."
      )
  classes = sorted({f.parent.name for f in files})
  label = np.array([classes.index(f.parent.name) for f in files])
  subset = np.array([f.parent.parent.name for f in files])
  mark = fingerprint.of_files(files, path)
  return _Sources(features, label, subset, dict(enumerate(classes)), mark)


def _read_npz(path: str) -> _Sources:
  if not path or not local(path).is_file():
    raise UserError(f"config.data.path: {path!r} is neither a .npz file of features nor a folder.")
  arrays = read_npz(path)
  if not {"features", "label", "subset"} <= arrays.keys() or arrays["features"].ndim != 3:
    raise UserError(
      f"{path}: needs arrays 'features' [V, L, D], 'label' [V] and 'subset' [V]; it has "
      f"{sorted(arrays)}."
    )
  every = arrays["features"]
  if every.dtype.kind not in "fiu" or arrays["label"].dtype.kind not in "iu":
    raise UserError(
      f"{path}: 'features' must be numbers and 'label' integers; they are {every.dtype} and "
      f"{arrays['label'].dtype}."
    )
  lengths = arrays.get("length", np.full(len(every), every.shape[1]))
  for name, x in {"label": arrays["label"], "subset": arrays["subset"], "length": lengths}.items():
    if x.shape != every.shape[:1]:
      raise UserError(
        f"{path}: {name!r} has shape {list(x.shape)}, not [{len(every)}], the number of videos in "
        "'features'."
      )
  if lengths.dtype.kind not in "iu" or not ((lengths > 0) & (lengths <= every.shape[1])).all():
    raise UserError(f"{path}: 'length' must be integers from 1 to {every.shape[1]}.")
  names = {int(label): str(label) for label in np.unique(arrays["label"])}
  features = [x[:length] for x, length in zip(every, lengths, strict=True)]
  subset = arrays["subset"].astype(str)
  return _Sources(features, arrays["label"], subset, names, fingerprint.of_npz(path))


def _require_finite(sources: _Sources, path: str) -> None:
  bad = [i for i, x in enumerate(sources.features) if not np.isfinite(x).all()]
  if bad:
    raise UserError(
      f"{path}: the features of {len(bad)} of {len(sources.features)} videos contain NaN or "
      f"infinity, first those of video number {bad[0]}."
    )


def _names(path: str, labels: Mapping[int, str]) -> dict[int, str]:
  if not path:
    return {}
  try:
    rows = (line.split() for line in lines(local(path), strict=True))
    return {int(r[0]): r[1] for r in rows if r and int(r[0]) in labels}
  except UserError:
    raise
  except (OSError, ValueError, IndexError) as e:
    raise UserError(
      f"config.data.localization.stitched.names: {path!r} must be a text file with a label and a "
      f"name on each line ({e})."
    ) from None


def _actions(wanted: Sequence[int | str], names: dict[int, str]) -> list[int]:
  labels = sorted(names)
  if not wanted:
    return labels[: (len(labels) + 1) // 2]
  by_name: dict[int | str, int] = {name: label for label, name in names.items()}
  unknown = [w for w in wanted if w not in by_name and w not in names]
  if unknown:
    raise UserError(
      f"config.data.localization.stitched.actions: unknown label {unknown[0]!r}; choose from "
      f"{sorted(by_name)}."
    )
  return [by_name[w] if w in by_name else int(w) for w in wanted]


def _pools(
  sources: _Sources, rows: np.ndarray, subset: str, actions: dict[int, str], path: str
) -> dict[str, list[np.ndarray]]:
  pools: dict[str, list[np.ndarray]] = {name: [] for name in ("", *actions.values())}
  for i in rows:
    pools[actions.get(int(sources.label[i]), "")].append(sources.features[i])
  lacking = [name or "the background" for name, pool in pools.items() if not pool]
  if lacking:
    there = ", ".join(sorted(set(sources.subset)))
    raise UserError(
      f"{path}: no videos of {lacking[0]} with subset {subset!r} (its subsets: {there}), or all "
      "of them are held out; check config.data.train_split and eval_split, and "
      "config.data.localization.stitched.actions and validation."
    )
  return pools


def _held_out(label: np.ndarray, share: float) -> np.ndarray:
  """Marks the last `share` of the source videos of each label, bool, in the shape of `label`."""
  held = np.zeros(len(label), bool)
  for value in np.unique(label):
    places = np.flatnonzero(label == value)
    held[places[len(places) - max(1, round(share * len(places))) :]] = True
  return held
