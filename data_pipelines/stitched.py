"""Untrimmed sequences stitched from real features of trimmed videos, with exact ground truth.

`config.data.path` is a `.npz` file as `data_pipelines.features` reads it: `features` `[V, L, D]`,
`label` `[V]`, `subset` `[V]` and perhaps `length` `[V]`. Some labels are actions
(`config.data.localization.stitched.actions`), the videos of all others are what lies between. The
features of a source video follow each other as they do in it; where its end comes before the
action's, another of the class goes on. Splits are `subset`'s values as text
(`config.data.train_split` and `eval_split`), so that train and test sequences share no video.

Lengths of actions and gaps are drawn from the real ones of `config.data.localization.annotations`,
or are log-normal. A step is `step_seconds` long whatever the frame rate of the features was.
"""

from __future__ import annotations

import math
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import fingerprint, structure
from data_pipelines.localization import Dataset, LocalizationSource, subset_of
from data_pipelines.source import generator
from vssl_jax.errors import UserError
from vssl_jax.localization import annotations as files
from vssl_jax.localization.annotations import Segment, Video

_STITCH = 5  # purpose of the random numbers, see `source.generator`


def load(data: Any, *, split: str, **kwargs: Any) -> LocalizationSource:
  """See `source.load`; see the module for the file."""
  dataset = make(data, [subset_of(data, split)])
  return LocalizationSource(data, dataset, split=split, **kwargs)


def make(data: Any, splits: Sequence[str] | None = None) -> Dataset:
  """Some splits in memory, in the file's precision; a function of the file and `config.data`.

  Args:
    data: `config.data`.
    splits: None for both.

  Raises:
    UserError: the file is missing or malformed, lacks a split, or has no action or no background.
  """
  fields = data.localization
  arrays = _read(data.path)
  names = _names(fields.stitched.names, np.unique(arrays["label"]))
  actions = _actions(fields.stitched.actions, names)
  lengths = structure.typical()
  if fields.annotations:
    lengths = structure.lengths_of(files.read_annotations(fields.annotations))
  videos, features = {}, {}
  counts = {data.train_split: fields.videos, data.eval_split: fields.eval_videos}
  for subset in counts if splits is None else splits:
    drawn = structure.draw(
      lengths,
      [names[a] for a in actions],
      counts.get(subset, fields.videos),
      subset=subset,
      seed=fields.seed,
      max_seconds=fields.max_seconds,
      second_class=fields.second_class,
    )
    pools = _pools(arrays, subset, {a: names[a] for a in actions}, data.path)
    for v, (name, video) in enumerate(drawn.items()):
      rng = generator(fields.seed, zlib.crc32(subset.encode()), v, _STITCH)
      videos[name], features[name] = stitch(video, pools, rng, step_seconds=fields.step_seconds)
  classes = tuple(sorted(names[a] for a in actions))
  mark = fingerprint.of_npz(data.path, fields.seed)
  return Dataset(videos, features, fields.step_seconds, classes, mark)


def stitch(
  video: Video,
  pools: Mapping[str, Sequence[np.ndarray]],
  rng: np.random.Generator,
  *,
  step_seconds: float,
) -> tuple[Video, np.ndarray]:
  """One sequence after a video's structure.

  Args:
    video: when actions happen; they don't overlap.
    pools: source sequences `[L, D]` of each class by name, and of the background under "".
    rng: chooses among them, and where in them to begin.
    step_seconds: length of a step; actions are moved to whole steps, at least one each.

  Returns:
    The video with its actions where they came to lie, and its features `[L, D]`.
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
  """Excerpts that are `count` steps long together."""
  parts = []
  while count > 0:
    source = pool[rng.integers(len(pool))]
    start = rng.integers(max(len(source) - count, 0) + 1)
    parts.append(source[start : start + count])
    count -= len(parts[-1])
  return parts


def _read(path: str) -> dict[str, np.ndarray]:
  if not path or not pathlib.Path(path).is_file():
    raise UserError(f"config.data.path: {path!r} is no .npz file of features.")
  with np.load(path) as stored:
    arrays = {k: stored[k] for k in stored.files}
  if not {"features", "label", "subset"} <= arrays.keys() or arrays["features"].ndim != 3:
    raise UserError(
      f"{path}: needs arrays 'features' [V, L, D], 'label' [V] and 'subset' [V]; it has "
      f"{sorted(arrays)}."
    )
  return arrays


def _names(path: str, labels: np.ndarray) -> dict[int, str]:
  names = {int(label): str(label) for label in labels}
  if path:
    try:
      rows = [line.split() for line in pathlib.Path(path).read_text("utf-8").splitlines()]
      names |= {int(r[0]): r[1] for r in rows if r and int(r[0]) in names}
    except (OSError, ValueError, IndexError) as e:
      raise UserError(
        f"config.data.localization.stitched.names: {path!r} has no lines of label and name ({e})."
      ) from None
  return names


def _actions(wanted: Sequence[int | str], names: dict[int, str]) -> list[int]:
  labels = sorted(names)
  if not wanted:
    return labels[: (len(labels) + 1) // 2]
  by_name = {name: label for label, name in names.items()}
  actions = [by_name.get(w, w) for w in wanted]
  unknown = [a for a in actions if a not in names]
  if unknown:
    raise UserError(
      f"config.data.localization.stitched.actions: {unknown[0]!r} is none of {sorted(by_name)}."
    )
  return actions


def _pools(
  arrays: dict[str, np.ndarray], subset: str, actions: dict[int, str], path: str
) -> dict[str, list[np.ndarray]]:
  rows = np.flatnonzero(arrays["subset"].astype(str) == subset)
  lengths = arrays.get("length", np.full(len(arrays["label"]), arrays["features"].shape[1]))
  pools: dict[str, list[np.ndarray]] = {name: [] for name in ("", *actions.values())}
  for i in rows:
    pools[actions.get(int(arrays["label"][i]), "")].append(arrays["features"][i, : lengths[i]])
  lacking = [name or "the background" for name, pool in pools.items() if not pool]
  if lacking:
    there = ", ".join(sorted(set(arrays["subset"].astype(str))))
    raise UserError(
      f"{path}: no videos of {lacking[0]} with subset {subset!r} (its subsets: {there}); set "
      "config.data.train_split, config.data.eval_split and localization.stitched.actions."
    )
  return pools
