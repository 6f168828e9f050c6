"""What every data source offers, and which module each `config.data.source` names.

Batch k is a function of (seed, k) alone: epoch and place follow from k, the epoch's order is a
permutation keyed by (seed, epoch), and an example's draws are keyed by (seed, epoch, video). So a
run restarts at any batch without replaying, and hosts need no word with each other.
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
Batches = Generator[Batch]  # to be closed, so that readers end with it

_MODULES: Mapping[str, str] = {
  "tfrecord": "data_pipelines.sources.tfrecord",
  "tfds": "data_pipelines.sources.tfds",
  "digits": "data_pipelines.sources.tfds",
  "dmvr": "data_pipelines.sources.dmvr",
  "synthetic": "data_pipelines.sources.synthetic",
  "features": "data_pipelines.sources.features",
  "localization": "data_pipelines.untrimmed.sequences",
  "untrimmed": "data_pipelines.untrimmed.simulated",
  "stitched": "data_pipelines.untrimmed.stitched",
}
# Need no TensorFlow.
NUMPY_ONLY = ("synthetic", "features", "localization", "untrimmed", "stitched")

_SUBSET = 0xFFFFFFFF  # stands where the epoch does, in the key of the `fraction` draw


class Source(Protocol):
  """A split of a data set, cut into batches."""

  @property
  def num_videos(self) -> int:
    """Videos in use, V; `fraction` is already applied."""
    ...

  @property
  def label_names(self) -> tuple[str, ...]:
    """Class names by label index; () where the data has none."""
    ...

  @property
  def video_names(self) -> tuple[str, ...]:
    """Each video's own name, by its number in the batches; () where the data has none."""
    ...

  @property
  def unreadable(self) -> int:
    """Times a video could not be read, so far; see `data_pipelines.clips.clip_source`."""
    ...

  @property
  def fingerprint(self) -> str:
    """Hex; changes with the split's videos or their order.

    Not with the folder they lie in, `fraction` or seed. A run that goes on must find the one it
    began with.
    """
    ...

  @property
  def steps_per_epoch(self) -> int:
    """V // batch_size; each epoch leaves out another remainder.

    Raises:
      UserError: the split has fewer videos than one batch.
    """
    ...

  def train_batches(self, start: int = 0) -> Batches:
    """Endless batches, the first being batch number `start` of the run.

    Yields this process's rows of the global batch, N of them: `clips` uint8 `[N, R, T, H, W, C]`,
    `label` int32 `[N]` (−1: unknown), `video` int64 `[N]` in [0, V), `offset` int32 `[N, R]`
    (frame number of each clip's start). Feature sources: see `data_pipelines.sources.features`.
    """
    ...

  def only(self, videos: Sequence[int] | np.ndarray) -> Source:
    """The same source with some of its videos alone, numbered anew from 0 in the order given."""
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
  ) -> Batches:
    """One ordered pass over the split; rows that pad the last batch have `valid` False.

    Args:
      batch_size: videos a global batch.
      clips: evenly spaced clips per video (`sampler.eval_starts`).
      crops: squares along the longer side: 3 are left, centre, right or top, centre, bottom.
      frames: frames per clip.
      stride: source frames from one to the next.
      resize: short side before cropping, pixels.
      size: side of the squares, pixels, at most `resize`.

    Yields:
      `clips` uint8 `[N, S, T, H, W, C]` with S = clips · crops views, crops running fastest,
      `label` int32 `[N]`, `video` int64 `[N]`, `offset` int32 `[N, S]`, `valid` bool `[N]`.
    """
    ...


class Wrapped:
  """Another source as it is; a subclass changes some of what passes through.

  Its `only` is the other source's own, without the change.

  Args:
    source: the other.
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
    split: name of the split; `data.fraction` applies where it is `data.train_split`.
    batch_size: videos a global training batch.
    seed: decides order, clips and crops.
    process_index: this process.
    process_count: processes that share each batch.

  Raises:
    UserError: an unknown source, a missing file, a batch that the split or the processes do not
      divide into, or no TensorFlow where the source needs it.
  """
  if data.source not in _MODULES:
    names = ", ".join(_MODULES)
    raise UserError(f"config.data.source: unknown source {data.source!r}; choose one of {names}.")
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
  """Videos in use: all, or `data.fraction` of the training split, chosen by seed.

  Returns:
    int64 `[V]`, ascending positions in the split.
  """
  if not 0 < data.fraction <= 1:
    raise UserError(f"config.data.fraction: {data.fraction} is not in (0, 1].")
  if data.fraction == 1 or split != data.train_split:
    return np.arange(total)
  count = max(1, round(total * data.fraction))
  return np.sort(generator(seed, _SUBSET).permutation(total)[:count])


def steps_per_epoch(videos: int, batch_size: int, *, split: str) -> int:
  """Whole batches in an epoch.

  Raises:
    UserError: the batch is larger than the split.
  """
  if batch_size < 1:
    raise UserError(f"config.batch_size: {batch_size} is not a number of videos.")
  if batch_size > videos:
    raise UserError(
      f"config.batch_size: {batch_size} videos per batch, but split {split!r} has {videos}; "
      f"set it to {videos} or less."
    )
  return videos // batch_size


def local_rows(batch_size: int, process_index: int, process_count: int) -> range:
  """Rows of the global batch that belong to this process, a contiguous share.

  Raises:
    UserError: the processes do not divide the batch.
  """
  if batch_size % process_count:
    raise UserError(
      f"config.batch_size: {batch_size} videos do not divide among {process_count} processes."
    )
  share = batch_size // process_count
  return range(process_index * share, (process_index + 1) * share)


def generator(seed: int, epoch: int, video: int = 0, purpose: int = 0) -> np.random.Generator:
  """NumPy random numbers of their own for each (seed, epoch, video, purpose)."""
  key = [(seed & 0x7FFFFFFF) << 32 | (epoch & 0xFFFFFFFF), video << 16 | purpose]
  return np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))


class NumpySource:
  """The batching of a source whose examples are made by NumPy, one at a time.

  A subclass gives `train_example` and `eval_example`, dicts of arrays without batch axis.

  Args:
    data: `config.data`.
    total: videos of the split.
    fingerprint: see `Source`.
    split: as the rest, see `load`.
    batch_size: likewise.
    seed: likewise.
    process_index: likewise.
    process_count: likewise.
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
    """Whole batches in an epoch; `UserError` where the split has fewer videos than one."""
    return steps_per_epoch(self.num_videos, self._batch_size, split=self._split)

  def only(self, videos: Sequence[int] | np.ndarray) -> Self:
    """See `Source`."""
    few = copy.copy(self)
    few.ids = self.ids[np.asarray(videos, np.int64)]
    few.num_videos = len(few.ids)
    few.video_names = tuple(self.video_names[v] for v in videos) if self.video_names else ()
    return few

  def train_example(self, video: int, rng: np.random.Generator) -> Example:
    """One training example; `video` counts the videos in use."""
    raise NotImplementedError

  def eval_example(self, video: int, **views: int) -> Example:
    """One video's test views; `views` are the keyword arguments of `eval_batches`."""
    raise NotImplementedError

  def train_batches(self, start: int = 0) -> Batches:
    """See `Source`."""
    steps = self.steps_per_epoch
    order_of, order = -1, np.zeros(0, np.int64)
    step = start
    while True:
      epoch, place = divmod(step, steps)
      if epoch != order_of:
        order_of, order = epoch, generator(self._seed, epoch).permutation(self.num_videos)
      first = place * self._batch_size
      videos = order[first + self._rows.start : first + self._rows.stop]
      # Purpose 1: purpose 0 of video 0 is the epoch's permutation.
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
