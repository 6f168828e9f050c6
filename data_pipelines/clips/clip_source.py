"""Batches of clips through `tf.data`, for any store that can read a video by its number.

Video numbers are shuffled, not frames. From the example number j follow the epoch, the position in
the epoch and, by a keyed permutation, the video; only that video is read and its clips decoded.
The data depends on nothing but j and the seed, so it is byte-identical for any number of threads
or hosts and after a restart.

A training video that cannot be read or decoded is replaced by the next one in the split, the same
in every run; a test video becomes a row with `valid` False. Both are logged and counted in
`unreadable`. With `config.data.strict` the run stops at the first such video instead.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf
from absl import logging

from data_pipelines import source
from data_pipelines.clips import cached, iterators
from data_pipelines.clips import steps as steps_lib
from data_pipelines.clips.builders import IMAGE, Features, Graph
from data_pipelines.clips.store import Store as Store
from data_pipelines.videos import workers
from vssl_jax.errors import UserError

_ROUNDS = 24  # rounds of the cipher that shuffles an epoch
_Process = Callable[[tf.Tensor, Features], Features]
_TRIES = 8  # number of videos tried for an example, the first included
_PRIVATE = (steps_lib.DRAW, steps_lib.FRAME_RATE, steps_lib.NO_FRAME_RATE, "wanted", "failed")


class ClipSource:
  """A split of videos; implements `source.Source`.

  Args:
    data: `config.data`.
    store: the videos.
    split: name of the split.
    batch_size: videos per global training batch.
    seed: decides the order, clips and crops.
    process_index: index of this process.
    process_count: number of processes that share each batch.
    edit: function that may change the graph before it is built, when all its steps are added;
      called with the graph and True for training, False for evaluation.
  """

  def __init__(
    self,
    data: Any,
    store: Store,
    *,
    split: str,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    edit: Callable[[Graph, bool], None] | None = None,
  ):
    self.ids = source.subset(len(store), data=data, split=split, seed=seed)
    self.num_videos = len(self.ids)
    self.label_names = store.label_names
    self.unreadable = 0
    self._data, self._store, self._split, self._edit = data, store, split, edit
    self._batch_size, self._seed = batch_size, seed
    self._processes = process_index, process_count
    self._ids = tf.constant(self.ids, tf.int64)
    self._strict = bool(data.get("strict", False))
    self._warned: set[int] = set()
    self._cache = cached.of(data, store, self.ids, split)

  @property
  def steps_per_epoch(self) -> int:
    """Number of whole batches in an epoch; `UserError` if the split is smaller than one batch."""
    return source.steps_per_epoch(self.num_videos, self._batch_size, split=self._split)

  @property
  def fingerprint(self) -> str:
    """See `source.Source`."""
    return self._store.fingerprint

  def occurring(self) -> frozenset[int] | None:
    """See `source.occurring`."""
    return self._store.classes if len(self.ids) == len(self._store) else None

  def only(self, videos: Sequence[int] | np.ndarray) -> Self:
    """See `source.Source`."""
    few = copy.copy(self)
    few.ids = self.ids[np.asarray(videos, np.int64)]
    few.num_videos, few._ids = len(few.ids), tf.constant(few.ids, tf.int64)
    few._warned = set()
    few.__dict__.pop("video_names", None)
    return few

  def train_batches(self, start: int = 0) -> source.Batches:
    """See `source.Source`."""
    return self._batches(start, steps_lib.add_train_steps)

  def cut_batches(self, start: int = 0) -> source.Batches:
    """As `train_batches`, with `cuts` in the place of `clips`: where each frame is to be cut.

    Yields:
      `cuts` int64 `[N, R, T, 7]`: position in `one_size`'s pixels, height and width of the frame;
      top, left, height and width of the crop.
    """
    with contextlib.closing(self._batches(start, cached.add_cut_steps)) as batches:
      for batch in batches:
        yield {("cuts" if k == "clips" else k): v for k, v in batch.items()}

  def one_size(self, check: Callable[[int], None]) -> tuple[np.ndarray, tuple[int, int]]:
    """All frames of the cache, uint8 `[F, stride]`, and their height and width.

    Args:
      check: raises an error if so many bytes are too many; called before anything is decoded.

    Raises:
      UserError: there is no cache, or not all frames are in it, with one size.
    """
    if self._cache is None:
      raise UserError("config.data.cache: only training videos are kept.")
    return self._cache.one_size(check)

  def _batches(self, start: int, add_steps: Callable[..., None]) -> source.Batches:
    dataset = self._train_dataset(start, add_steps, strict=self._strict)
    batches = iterators.Numpy(dataset.prefetch(max(1, self._data.prefetch)))
    for step in itertools.count(start):
      try:
        batch = next(batches)
      except tf.errors.OpError as e:
        raise self._explained(e, step) from None
      self._store.check()
      self._check_train(batch)
      self._check_labels(batch)
      yield _public(batch)

  def _train_dataset(
    self, start: int, add_steps: Callable[..., None], *, strict: bool
  ) -> tf.data.Dataset:
    steps, size, videos = self.steps_per_epoch, self._batch_size, self.num_videos
    rows = source.local_rows(size, *self._processes)
    add_steps = functools.partial(add_steps, data=self._data)
    with_rate = steps_lib.needs_frame_rate(self._data)
    process, postprocess, ahead = self._build(add_steps, training=True, with_rate=with_rate)
    seed_bits = (self._seed & 0x7FFFFFFF) << 32

    def attempt(wanted: tf.Tensor, epoch: tf.Tensor, failed: tf.Tensor) -> Features:
      video = (wanted + failed) % videos
      draw = tf.stack([seed_bits + epoch, video * 2**16])
      features = process(video, {steps_lib.DRAW: draw})
      return features | {"video": video, "wanted": wanted, "failed": failed}

    def example(j: tf.Tensor) -> Features:
      step, row = j // len(rows), rows.start + j % len(rows)
      epoch, place = step // steps, step % steps * size + row
      wanted = _shuffled(place, self._seed, epoch, videos)
      if strict:
        return attempt(wanted, epoch, tf.constant(0, tf.int64))
      tries = tf.data.Dataset.range(_TRIES).map(functools.partial(attempt, wanted, epoch))
      return tries.ignore_errors().take(1).get_single_element()

    examples = tf.data.Dataset.range(start * len(rows), np.iinfo(np.int64).max)
    dataset = self._mapped(examples, example, ahead).batch(len(rows), drop_remainder=True)
    return dataset.map(postprocess)

  def eval_batches(self, batch_size: int, **views: int) -> source.Batches:
    """See `source.Source`."""
    rows = source.local_rows(batch_size, *self._processes)
    settings: Any = views
    add_steps = functools.partial(steps_lib.add_eval_steps, **settings)
    with_rate = bool(settings.get("target_fps"))
    process, postprocess, ahead = self._build(add_steps, training=False, with_rate=with_rate)

    def attempt(video: tf.Tensor) -> Features:
      return process(video, {}) | {"failed": tf.constant(0, tf.int64)}

    def example(j: tf.Tensor) -> Features:
      place = j // len(rows) * batch_size + rows.start + j % len(rows)
      video = tf.minimum(place, self.num_videos - 1)
      inside = place < self.num_videos
      tries = tf.data.Dataset.from_tensors(video).map(attempt)
      empty = {k: tf.zeros(s.shape, s.dtype) for k, s in tries.element_spec.items()}
      empty["failed"] = tf.constant(1, tf.int64)
      empty["label"] = tf.constant(-1, tf.int32)
      # Rows that pad the last batch decode nothing.
      tries = tries.take(tf.cast(inside, tf.int64))
      tries = tries if self._strict else tries.ignore_errors()
      tries = tries.concatenate(tf.data.Dataset.from_tensors(empty))
      features = tries.take(1).get_single_element()
      features["valid"] = inside & (features["failed"] == 0)
      features["failed"] *= tf.cast(inside, tf.int64)
      return features | {"video": video, "wanted": video}

    batches = -(-self.num_videos // batch_size)
    examples = tf.data.Dataset.range(batches * len(rows))
    # Few videos at a time, because views are large: 30 views of 32 frames at 256² take 190 MB.
    dataset = self._mapped(examples, example, ahead, limit=2).batch(len(rows), drop_remainder=True)
    dataset = dataset.map(postprocess).prefetch(1)
    try:
      for batch in iterators.Numpy(dataset):
        self._store.check()
        self._check_rates(batch)
        for video in batch["wanted"][batch["failed"] > 0]:
          self._warn(int(video), "left out of the evaluation")
        self._check_labels(batch)
        yield _public(batch)
    except tf.errors.OpError as e:
      raise self._user_error(e) from None

  @functools.cached_property
  def video_names(self) -> tuple[str, ...]:
    """Name of each video, by its number in the batches; () if the data has no names."""
    names = tuple(self._store.name_of(int(i)) for i in self.ids)
    return names if any(names) else ()

  def describe(self, video: int) -> str:
    """How a message refers to a video, given its number in the batches."""
    return self._store.describe(int(self.ids[video]))

  def _build(
    self, add_steps: Callable[..., None], *, training: bool, with_rate: bool
  ) -> tuple[_Process, Callable[[Features], Features], int]:
    """What makes a video's features, what is done to a batch of them, and `Store.reads_ahead`."""
    stored, postprocess = self._pipeline(self._store, add_steps, training, with_rate)
    # After the steps, whose settings are checked, because it may take long.
    fill = self._cache and (self._cache.filled if training else self._cache.found)
    held = fill() if fill else None
    if held is None:
      return stored, postprocess, self._store.reads_ahead
    decoded, postprocess = self._pipeline(held, add_steps, training, with_rate)
    here = held.holds[self.ids]
    if here.all():
      return decoded, postprocess, held.reads_ahead
    is_here = tf.constant(here)

    def either(video: tf.Tensor, extra: Features) -> Features:
      return tf.cond(
        tf.gather(is_here, video), lambda: decoded(video, extra), lambda: stored(video, extra)
      )

    return either, postprocess, self._store.reads_ahead

  def _pipeline(
    self,
    store: Store | cached.CachedStore,
    add_steps: Callable[..., None],
    training: bool,
    with_rate: bool,
  ) -> tuple[_Process, Callable[[Features], Features]]:
    graph = Graph()
    store.add_parsing(graph, with_frame_rate=with_rate)
    add_steps(graph, codec=store.codec)
    if fetch := getattr(store, "fetch", None):
      graph.sampler_builder.add_fn(fetch, fn_name="fetch_frames")
    if self._edit:
      self._edit(graph, training)
    parse, run = graph.parser_builder.build(), graph.build()

    def process(video: tf.Tensor, extra: Features) -> Features:
      features = run(store.read(parse, tf.gather(self._ids, video)) | extra)
      features.pop(steps_lib.FRAME_RATE, None)  # not all stores know it
      return features | {"clips": features.pop(IMAGE)}

    return process, graph.postprocessor_builder.build()

  def _mapped(self, examples: Any, example: Callable, ahead: int, limit: int = 0) -> Any:
    threads = self._data.threads
    if ahead:
      threads = (threads or workers.cores()) + ahead  # those that wait for bytes use no core
    options = tf.data.Options()
    options.deterministic = True
    options.threading.max_intra_op_parallelism = 1  # parallel over videos, not within a video
    if threads:
      options.threading.private_threadpool_size = threads
    calls = min(threads, limit) if threads and limit else threads or limit
    calls = calls or tf.data.AUTOTUNE
    example = tf.autograph.experimental.do_not_convert(example)
    return examples.with_options(options).map(example, num_parallel_calls=calls, deterministic=True)

  def _check_rates(self, batch: source.Batch) -> None:
    """Stops at a video whose frame rate is needed and unknown."""
    missing = batch.get(steps_lib.NO_FRAME_RATE, np.zeros(1, bool))
    if not np.any(missing):
      return
    video = int(batch["video"][np.argmax(missing)])
    if target := self._data.target_fps:
      reason = (
        f"config.data.target_fps is {target:g}: set it to 0 to count each video's own frames (vssl "
        "evaluate: --target_fps=0)"
      )
    else:
      reason = (
        "config.data.interval is in seconds: set config.data.interval.unit=frames, give the gap in "
        "frames and leave out config.data.interval.max_seconds and min_seconds"
      )
    raise UserError(
      f"{self.describe(video)}: no frame rate in its record, but {reason}, or prepare records "
      "with frame rates."
    )

  def _check_train(self, batch: source.Batch) -> None:
    self._check_rates(batch)
    for wanted, failed in zip(batch["wanted"], batch["failed"], strict=True):
      for i in range(int(failed)):
        self._warn((int(wanted) + i) % self.num_videos, "the next video replaces it")

  def _check_labels(self, batch: source.Batch) -> None:
    """Stops at a label without a name, of records whose labels could not be checked before."""
    label, names = batch["label"], self.label_names
    if names and (label >= len(names)).any():
      row = int(np.argmax(label >= len(names)))
      raise UserError(
        f"{self.describe(int(batch['video'][row]))}: has label {label[row]}, but there are "
        f"{len(names)} class names: add the missing names, or prepare the data again."
      )

  def _warn(self, video: int, consequence: str) -> None:
    self.unreadable += 1
    if video not in self._warned:
      self._warned.add(video)
      logging.warning("%s cannot be decoded: %s.", self.describe(video), consequence)

  def _explained(self, error: tf.errors.OpError, step: int) -> UserError:
    if not self._strict:  # all tries of an example failed: find the error of the first video
      try:
        steps = steps_lib.add_train_steps
        next(iterators.Numpy(self._train_dataset(step, steps, strict=True)))
      except tf.errors.OpError as first:
        error = first
    return self._user_error(error)

  def _user_error(self, error: tf.errors.OpError) -> UserError:
    self._store.check()
    reason = (error.message or type(error).__name__).split("\n")[0][:300]
    others = (
      "to continue without it, set config.data.strict=False"
      if self._strict
      else f"nor can the next {_TRIES - 1} videos; check the files"
    )
    return UserError(
      f"config.data.path={self._data.path}: a video of split {self._split!r} cannot be decoded "
      f"({reason}); {others}."
    )


def _public(batch: source.Batch) -> source.Batch:
  return {k: v for k, v in batch.items() if k not in _PRIVATE}


def _shuffled(place: tf.Tensor, seed: int, epoch: tf.Tensor, videos: int) -> tf.Tensor:
  """The video at a position of the epoch's order, int64: one value of a keyed permutation."""
  key = tf.stack([tf.constant(seed & 0x7FFFFFFF, tf.int64), epoch, tf.zeros_like(epoch)])
  # The op behind `tf.random.experimental.index_shuffle`, which always uses 4 rounds of the cipher.
  # After 4 rounds neighbors tend to stay neighbors (for 529 videos the serial correlation is
  # twice that of a random order), and the first video of an epoch is far from uniform. From 8
  # rounds on, neither is visible.
  shuffled = tf.raw_ops.RandomIndexShuffle(
    index=place,
    seed=tf.cast(key, tf.int32),
    max_index=tf.constant(videos - 1, tf.int64),
    rounds=_ROUNDS,
  )
  return tf.cast(shuffled, tf.int64)
