"""The interface of all data sources, and the table from `config.data.source` to their modules.

Batch k depends on (seed, k) alone: k gives the epoch and the position in it, the epoch's order is
a permutation keyed by (seed, epoch), and the random numbers of an example are keyed by (seed,
epoch, video). So a run can restart at any batch without replaying the ones before it, and the
hosts need not communicate.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from data_pipelines import optional
from vssl_jax.errors import UserError

Batch = dict[str, np.ndarray]
Example = dict[str, np.ndarray | np.generic]  # one row of a batch
Batches = Generator[Batch]  # close it to stop its readers

_MODULES: Mapping[str, str] = {
  "tfrecord": "data_pipelines.sources.tfrecord",
  "videos": "data_pipelines.sources.videos",
  "arrays": "data_pipelines.sources.arrays",
  "tfds": "data_pipelines.sources.tfds",
  "digits": "data_pipelines.sources.tfds",
  "motion": "data_pipelines.sources.tfds",
  "dmvr": "data_pipelines.sources.dmvr",
  "synthetic": "data_pipelines.sources.synthetic",
  "features": "data_pipelines.sources.features",
  "localization": "data_pipelines.untrimmed.sequences",
  "untrimmed": "data_pipelines.untrimmed.simulated",
  "stitched": "data_pipelines.untrimmed.stitched",
}
# Sources that need no TensorFlow.
NUMPY_ONLY = ("synthetic", "features", "localization", "untrimmed", "stitched")

# Sources that can keep decoded videos in memory.
CACHED = ("tfrecord", "videos", "tfds", "digits", "motion")

# Frames beyond these are no video's: the widest panoramas are 8 times as wide as high, and a frame
# of 16K has 2^27 pixels. A short side of 1 enlarged to 256 would fill the memory.
MOST_ASPECT = 20
MOST_PIXELS = 1 << 27

_SUBSET = 0xFFFFFFFF  # replaces the epoch in the random key that chooses the `fraction` subset


class Source(Protocol):
  """A split of a data set, cut into batches."""

  @property
  def num_videos(self) -> int:
    """Number of videos in use, V, after `fraction` is applied."""
    ...

  @property
  def label_names(self) -> tuple[str, ...]:
    """Class names by label index; () if the data has none."""
    ...

  @property
  def video_names(self) -> tuple[str, ...]:
    """Name of each video, by its number in the batches; () if the data has no names."""
    ...

  @property
  def unreadable(self) -> int:
    """Number of failed reads of videos so far; see `data_pipelines.clips.clip_source`."""
    ...

  @property
  def fingerprint(self) -> str:
    """Hex digest of the split's videos and their order.

    It does not depend on the folder of the data, on `fraction` or on the seed. A resumed run must
    find the same fingerprint as when it started.
    """
    ...

  @property
  def steps_per_epoch(self) -> int:
    """V // batch_size; each epoch leaves out a different remainder.

    Raises:
      UserError: the split has fewer videos than one batch.
    """
    ...

  def train_batches(self, start: int = 0) -> Batches:
    """Endless batches, starting with batch number `start` of the run.

    Yields this process's N rows of the global batch: `clips` uint8 `[N, R, T, H, W, C]`,
    `label` int32 `[N]` (−1: unknown), `video` int64 `[N]` in [0, V), `offset` int32 `[N, R]`
    (frame number of each clip's start). Sources of features yield other arrays, see
    `data_pipelines.sources.features`.
    """
    ...

  def only(self, videos: Sequence[int] | np.ndarray) -> Source:
    """The same source restricted to some videos, renumbered from 0 in the given order."""
    ...

  def eval_batches(
    self,
    batch_size: int,
    *,
    clips: int,
    crops: int,
    frames: int,
    stride: int,
    resize: int,
    size: int,
    placement: str = "ends",
    target_fps: float = 0.0,
  ) -> Batches:
    """One ordered pass over the split; rows that pad the last batch have `valid` False.

    Args:
      batch_size: videos per global batch.
      clips: evenly spaced clips per video (`sampler.eval_starts`).
      crops: square crops along the longer side; 3 are left, center, right (or top, center, bottom).
      frames: frames per clip.
      stride: source frames from one frame of a clip to the next.
      resize: short side of the frames before cropping, pixels.
      size: side of the square crops, pixels, at most `resize`.
      placement: see `sampler.eval_starts`. Passed only if it is not "ends".
      target_fps: see `config.data.target_fps`. Passed only if it is not 0.

    Yields:
      `clips` uint8 `[N, S, T, H, W, C]` with S = clips · crops views (all crops of the first clip,
      then of the second, …), `label` int32 `[N]`, `video` int64 `[N]`, `offset` int32 `[N, S]`,
      `valid` bool `[N]`.
    """
    ...


class Wrapped:
  """Passes everything on to another source; a subclass overrides what it changes.

  `only` is passed on as well: it returns a part of the other source, without the change.

  Args:
    source: the other source.
  """

  def __init__(self, source: Source):
    self._source = source

  def __getattr__(self, name: str) -> Any:
    return getattr(self._source, name)


def load(
  data: Any,
  *,
  split: str,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Source:
  """Opens one split of the data set that `config.data` describes.

  Args:
    data: `config.data`.
    split: name of the split; `data.fraction` applies only to `data.train_split`.
    batch_size: videos per global training batch.
    seed: decides the order, clips and crops.
    process_index: index of this process.
    process_count: number of processes that share each batch.

  Raises:
    UserError: the source is unknown, a file is missing, the batch is larger than the split or not
      a multiple of the number of processes, clips have no frames or pixels, or the source needs
      TensorFlow and it is not installed, or its frames do not have `data.channels`.
  """
  for field in ("frames", "size", "channels"):
    if data[field] < 1:
      raise UserError(f"config.data.{field}: {data[field]}; set it to 1 or more.")
  if data.source not in _MODULES:
    names = ", ".join(_MODULES)
    raise UserError(f"config.data.source: unknown source {data.source!r}; choose one of {names}.")
  if data.get("cache", "") and data.source not in CACHED and split == data.train_split:
    raise UserError(
      f"config.data.cache: {data.cache!r}, but the source {data.source!r} decodes no videos, or "
      f"does it by itself; set it to '', or use one of {', '.join(CACHED)}."
    )
  if data.get("cache", "") and data.channels != 3 and split == data.train_split:
    raise UserError(
      f"config.data.cache: {data.cache!r}, but config.data.channels is {data.channels}; decoded "
      "videos are kept in RGB alone: set it to ''."
    )
  module = optional.require(
    _MODULES[data.source],
    f"config.data.source={data.source}",
    instead=f"use a NumPy-only source ({', '.join(NUMPY_ONLY)})",
  )
  return module.load(
    data,
    split=split,
    batch_size=batch_size,
    seed=seed,
    process_index=process_index,
    process_count=process_count,
  )


def subset(total: int, *, data: Any, split: str, seed: int) -> np.ndarray:
  """The videos in use: all, or a share `data.fraction` of the training split, chosen by the seed.

  Returns:
    Positions in the split, int64 `[V]`, ascending.
  """
  if not 0 < data.fraction <= 1:
    raise UserError(f"config.data.fraction: {data.fraction} is not in (0, 1].")
  if data.fraction == 1 or split != data.train_split:
    return np.arange(total)
  count = max(1, round(total * data.fraction))
  return np.sort(generator(seed, _SUBSET).permutation(total)[:count])


def steps_per_epoch(videos: int, batch_size: int, *, split: str) -> int:
  """Number of whole batches in an epoch.

  Raises:
    UserError: the batch is larger than the split.
  """
  if batch_size < 1:
    raise UserError(f"config.batch_size: {batch_size} videos per batch; set it to 1 or more.")
  if batch_size > videos:
    raise UserError(
      f"config.batch_size: {batch_size} videos per batch, but split {split!r} has {videos}; "
      f"set it to {videos} or less."
    )
  return videos // batch_size


def local_rows(batch_size: int, process_index: int, process_count: int) -> range:
  """This process's rows of the global batch, a contiguous range.

  Raises:
    UserError: the batch size is not a multiple of the number of processes.
  """
  if batch_size % process_count:
    raise UserError(
      f"config.batch_size: {batch_size} videos do not divide among {process_count} processes; "
      "set it to a multiple of the number of processes."
    )
  share = batch_size // process_count
  return range(process_index * share, (process_index + 1) * share)


def generator(seed: int, epoch: int, video: int = 0, purpose: int = 0) -> np.random.Generator:
  """A NumPy random generator, independent for each (seed, epoch, video, purpose)."""
  key = [(seed & 0x7FFFFFFF) << 32 | (epoch & 0xFFFFFFFF), video << 16 | purpose]
  return np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))


def check_labels(label: Any, count: int, names: Sequence[str], where: str) -> np.ndarray:
  """Checks class indices, so that a wrong one stops here and not in a probe that looks up its name.

  Args:
    label: one integer per video `[V]`, −1 if unknown, or one row of C values per video `[V, C]`.
    count: V.
    names: the classes; () if their number is unknown.
    where: file and field, for errors.

  Returns:
    The labels as an array; whole numbers in floats become integers.

  Raises:
    UserError: they are no numbers, their number is not V, or one is out of range.
  """
  label = np.asarray(label)
  if label.ndim not in (1, 2) or len(label) != count:
    raise UserError(
      f"{where}: {len(label) if label.ndim else 1} labels of shape {list(label.shape)} for {count} "
      "videos; give one per video."
    )
  if label.dtype.kind not in "biuf":
    raise UserError(f"{where}: labels must be class indices, not {label.dtype}.")
  if label.ndim == 2:
    if names and label.shape[1] != len(names):
      raise UserError(f"{where}: rows of {label.shape[1]} values for {len(names)} classes.")
    return label
  if label.dtype.kind == "f":
    if bad := [x for x in label.tolist() if not float(x).is_integer()]:
      raise UserError(f"{where}: label {bad[0]} is no class index.")
    label = label.astype(np.int64)
  highest = len(names) if names else 1 << 31
  if wrong := np.flatnonzero((label < -1) | (label >= highest)).tolist():
    known = (
      f"the {len(names)} class names end at {len(names) - 1}" if names else "it is out of range"
    )
    raise UserError(
      f"{where}: video {wrong[0]} has label {label[wrong[0]]}, but {known}; -1 is for unknown. "
      "Add the missing names or correct the label."
    )
  return label


def occurring(source: Any) -> frozenset[int] | None:
  """The class indices that some video of a source has; None if only reading all videos would tell.

  A source says it with a method `occurring`, which it need not have.
  """
  tell = getattr(source, "occurring", None)
  return None if tell is None else tell()


class NumpySource:
  """Base class of sources that make their examples with NumPy, one at a time; it makes batches.

  A subclass defines `train_example` and `eval_example`, which return dicts of arrays without a
  batch axis.

  Args:
    data: `config.data`.
    total: number of videos in the split.
    fingerprint: see `Source`.
    split: see `load`.
    batch_size: see `load`.
    seed: see `load`.
    process_index: see `load`.
    process_count: see `load`.
  """

  def __init__(
    self,
    data: Any,
    total: int,
    *,
    fingerprint: str,
    split: str,
    batch_size: int,
    seed: int,
    process_index: int,
    process_count: int,
  ):
    self.fingerprint = fingerprint
    self.ids = subset(total, data=data, split=split, seed=seed)
    self.num_videos = len(self.ids)
    self.label_names: tuple[str, ...] = ()
    self.video_names: tuple[str, ...] = ()
    self.unreadable = 0
    self._batch_size, self._seed, self._split = batch_size, seed, split
    self._processes = process_index, process_count
    self._rows = local_rows(batch_size, process_index, process_count)

  @property
  def steps_per_epoch(self) -> int:
    """Number of whole batches in an epoch; `UserError` if the split is smaller than one batch."""
    return steps_per_epoch(self.num_videos, self._batch_size, split=self._split)

  def only(self, videos: Sequence[int] | np.ndarray) -> Self:
    """See `Source`."""
    few = copy.copy(self)
    few.ids = self.ids[np.asarray(videos, np.int64)]
    few.num_videos = len(few.ids)
    few.video_names = tuple(self.video_names[v] for v in videos) if self.video_names else ()
    return few

  def train_example(self, video: int, rng: np.random.Generator) -> Example:
    """One training example; `video` is a number in [0, `num_videos`)."""
    raise NotImplementedError

  def eval_example(self, video: int, **views: int) -> Example:
    """One video's test views; `views` are the keyword arguments of `eval_batches`."""
    raise NotImplementedError

  def train_batches(self, start: int = 0) -> Batches:
    """See `Source`."""
    steps = self.steps_per_epoch
    order_epoch, order = -1, np.zeros(0, np.int64)
    step = start
    while True:
      epoch, place = divmod(step, steps)
      if epoch != order_epoch:
        order_epoch, order = epoch, generator(self._seed, epoch).permutation(self.num_videos)
      first = place * self._batch_size
      videos = order[first + self._rows.start : first + self._rows.stop]
      # Purpose 1, because purpose 0 of video 0 is already used for the epoch's permutation.
      yield _stack(
        [self.train_example(int(v), generator(self._seed, epoch, int(v), 1)) for v in videos]
      )
      step += 1

  def eval_batches(self, batch_size: int, **views: int) -> Batches:
    """See `Source`."""
    rows = local_rows(batch_size, *self._processes)
    for first in range(0, self.num_videos, batch_size):
      places = [first + r for r in rows]
      examples = [self.eval_example(min(p, self.num_videos - 1), **views) for p in places]
      batch = _stack(examples)
      batch["valid"] = np.array([p < self.num_videos for p in places])
      yield batch


def _stack(examples: Sequence[Example]) -> Batch:
  return {k: np.stack([e[k] for e in examples]) for k in examples[0]}
