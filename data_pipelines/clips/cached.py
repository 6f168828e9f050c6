"""Decoded videos in memory (`config.data.cache`): clips are cut from them as from what is stored.

The frames of the training videos are decoded once, all of them, at their stored size, before the
first batch. Batches are those without the cache, bit for bit: clips and crops are drawn in the same
way, and a crop of a decoded frame has the pixels of a decoded crop. A video with a frame that
cannot be decoded is left out, and read from its store at each use: whether such a video gives a
clip depends on the frames and crops that are drawn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines.clips import frame_memory, steps
from data_pipelines.clips.builders import IMAGE, LABEL, Features, Graph
from data_pipelines.clips.store import Store
from data_pipelines.records import fingerprint
from data_pipelines.videos import workers
from vssl_jax.cli import progress
from vssl_jax.errors import UserError

PLACES = ("", "host", "device")
_WHERE = "config.data.cache"
_PIECE = 32 << 20  # bytes of frames that a thread decodes at a time


class CachedStore:
  """The videos of a `Store` that are in memory, under the same numbers.

  Attributes:
    holds: which videos these are, bool `[n]`.
    frames: the memory.
  """

  reads_ahead = 0

  def __init__(self, frames: frame_memory.Frames):
    self.holds, self.frames = frames.held, frames
    # Memory that TensorFlow and NumPy share. A constant would be a copy.
    self._pixels = tf.experimental.dlpack.from_dlpack(frames.pixels.__dlpack__())
    self._rows = {name: tf.constant(frames.rows[name]) for name in frames.rows.dtype.names or ()}
    self.codec = steps.Codec(shape=lambda frame: tf.cast(frame[1:], tf.int32), crop=self._crop)

  def add_parsing(self, graph: Graph, *, with_frame_rate: bool) -> None:
    """Adds nothing: there are no records to parse."""

  def read(self, parse: Callable[[tf.Tensor], Features], i: tf.Tensor) -> Features:
    """See `Store`; each frame in `image` is its position, height and width, int64 `[3]`."""
    del parse
    row = {name: tf.gather(values, i) for name, values in self._rows.items()}
    height, width = (tf.cast(row[side], tf.int64) for side in ("height", "width"))
    each = -(-height * width * 3 // frame_memory.ALIGN) * frame_memory.ALIGN
    offset = row["offset"] + tf.range(row["length"]) * each
    image = tf.stack([offset, tf.zeros_like(offset) + height, tf.zeros_like(offset) + width], 1)
    return {IMAGE: image, LABEL: row["label"][None], steps.FRAME_RATE: row["fps"][None]}

  def _crop(self, frame: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    begin, height, width = tf.unstack(frame)
    picture = tf.reshape(self._pixels[begin : begin + height * width * 3], [height, width, 3])
    top, left, height, width = tf.unstack(window)
    return picture[top : top + height, left : left + width]


class Cache:
  """Fills the memory of one split when it is needed, and finds it when another process has."""

  def __init__(self, data: Any, store: Store, ids: np.ndarray):
    self._data, self._store, self._ids = data, store, ids
    self._folder, self._threads = str(data.cache_folder), data.threads or workers.cores()
    self._held: CachedStore | None = None

  def filled(self, check: Callable[[int], None] | None = None) -> CachedStore:
    """The videos in memory, which are decoded first if no process of this machine has done it.

    Args:
      check: called with the number of bytes of all frames before they are decoded.

    Raises:
      UserError: the memory is too small, or a storage failed.
    """
    if self._held is None:
      reader = _Reader(self._store)
      frames = frame_memory.make(
        self._folder,
        self._key(),
        len(self._store),
        need=lambda: self._need(reader, check),
        fill=lambda frames: self._fill(reader, frames),
        where=f"{_WHERE}={self._data.cache}",
      )
      self._held = CachedStore(frames)
    return self._held

  def found(self) -> CachedStore | None:
    """The videos in memory, if they are there; to read each once, it is not worth decoding all."""
    if self._held is not None:
      return self._held
    if (frames := frame_memory.find(self._folder, self._key(), len(self._store))) is not None:
      self._held = CachedStore(frames)
    return self._held

  def _key(self) -> str:
    place = [self._data.source, os.path.abspath(str(self._data.path)), self._data.name]
    made = [tf.__version__, self._store.fingerprint]
    return fingerprint.of_arrays([np.asarray(self._ids, np.int64)], place, made)

  def one_size(self, check: Callable[[int], None]) -> tuple[np.ndarray, tuple[int, int]]:
    """See `ClipSource.one_size`."""
    held = self.filled(check)
    where = f"{_WHERE}={self._data.cache}"
    if bad := self._ids[~held.holds[self._ids]].tolist():
      raise UserError(
        f"{where}: {self._store.describe(bad[0])} has a frame that cannot be decoded, as have "
        f"{len(bad) - 1} more videos; set {_WHERE}=host, or prepare the data without them."
      )
    rows = held.frames.rows[self._ids]
    sizes = sorted({*zip(rows["height"].tolist(), rows["width"].tolist(), strict=True)})
    if len(sizes) > 1:
      (h, w), (other_h, other_w) = sizes[0], sizes[-1]
      raise UserError(
        f"{where}: the videos have {len(sizes)} sizes, from {w} x {h} to {other_w} x {other_h}; "
        f"set {_WHERE}=host, or prepare videos of one size."
      )
    each, count = frame_memory.stride(*sizes[0]), int(rows["length"].sum())
    return held.frames.pixels[: each * count].reshape(count, each), sizes[0]

  def _need(self, reader: _Reader, check: Callable[[int], None] | None) -> int:
    wanted = self._counted(reader)
    if check is not None:
      check(wanted)
    return wanted

  def _counted(self, reader: _Reader) -> int:
    """Bytes of all frames: from what the store knows, else by a look at each video."""
    tell = getattr(self._store, "decoded", None)
    if tell and len(self._ids) == len(self._store) and (known := tell()) is not None:
      total, sizes = known
      each = [frame_memory.stride(*size) for size in sizes]
      if len(each) == 1:
        return total * each[0]
      where = f"{_WHERE}={self._data.cache}"
      frame_memory.check(frame_memory.place(self._folder), total * min(each), where)
    return sum(self._each(reader.size, "measuring, once"))

  def _fill(self, reader: _Reader, frames: frame_memory.Frames) -> None:
    for _ in self._each(lambda i: reader.copy(i, frames), "decoding into memory"):
      pass

  def _each(self, work: Callable[[int], int], title: str) -> Iterator[int]:
    """Calls `work` for each video; its results, in any order."""
    with (
      ThreadPoolExecutor(self._threads) as pool,
      progress.bar(title, len(self._ids)) as bar,
    ):
      try:
        for result in pool.map(work, self._ids.tolist()):
          self._store.check()
          bar.update()
          yield result
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


class _Reader:
  """Reads and decodes the videos of a store, some frames at a time."""

  def __init__(self, store: Store):
    graph = Graph()
    try:
      store.add_parsing(graph, with_frame_rate=True)  # a probe may need it, if the run does not
    except UserError:
      store.add_parsing(graph := Graph(), with_frame_rate=False)
    parse, codec, fetch = graph.parser_builder.build(), store.codec, getattr(store, "fetch", None)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
    def opened(i: tf.Tensor) -> Features:
      features = store.read(parse, i)
      length = tf.shape(features[IMAGE], out_type=tf.int64)[0]
      label = steps.first_label(features.pop(LABEL))
      fps = steps.frame_rate(features, length)
      return {"features": features, "length": length, "label": label, "fps": fps}

    def chosen(features: Features, numbers: tf.Tensor) -> tf.Tensor:
      features = features | {IMAGE: tf.gather(features[IMAGE], numbers)}
      return (fetch(features) if fetch else features)[IMAGE]

    @tf.function(autograph=False, reduce_retracing=True)
    def size(features: Features) -> tf.Tensor:
      return codec.shape(chosen(features, tf.constant([0], tf.int64))[0])

    @tf.function(autograph=False, reduce_retracing=True)
    def decoded(features: Features, numbers: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
      whole = tf.concat([[0, 0], size], axis=0)

      def one(frame: tf.Tensor) -> tf.Tensor:
        same = tf.debugging.assert_equal(codec.shape(frame), size)
        with tf.control_dependencies([same]):
          return codec.crop(frame, whole)

      spec = tf.TensorSpec([None, None, 3], tf.uint8)
      return tf.map_fn(one, chosen(features, numbers), fn_output_signature=spec)

    self._opened, self._size, self._decoded = opened, size, decoded

  def size(self, i: int) -> int:
    """Bytes of the frames of video `i`; 0 if it cannot be read."""
    try:
      video = self._opened(tf.constant(i, tf.int64))
      return int(video["length"]) * frame_memory.stride(*self._size(video["features"]).numpy())
    except tf.errors.OpError:
      return 0

  def copy(self, i: int, frames: frame_memory.Frames) -> int:
    """Writes the frames of video `i` and then its row, unless one cannot be decoded."""
    try:
      video = self._opened(tf.constant(i, tf.int64))
      length, size = int(video["length"]), self._size(video["features"])
      height, width = map(int, size.numpy())
      offset, room = frames.allocate(length, height, width)
      used = height * width * 3
      for numbers in _pieces(length, room.shape[1]):
        pictures = self._decoded(video["features"], tf.constant(numbers), size).numpy()
        room[numbers[0] : numbers[-1] + 1, :used] = pictures.reshape(len(numbers), used)
    except tf.errors.OpError:
      return 0
    row = (offset, length, height, width, int(video["label"]), float(video["fps"]))
    frames.rows[i] = row
    return length * room.shape[1]


def _pieces(length: int, each: int) -> Iterable[np.ndarray]:
  numbers = np.arange(length, dtype=np.int64)
  count = max(1, _PIECE // each)
  return (numbers[first : first + count] for first in range(0, length, count))


def add_cut_steps(graph: Any, data: Any, *, codec: steps.Codec) -> None:
  """`steps.add_train_steps`, but instead of a clip its frames and windows, int64 `[R, T, 7]`."""
  steps.add_train_steps(graph, data, codec=codec)

  def cuts(frames: tf.Tensor, state: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.concat([frames, tf.cast(state["windows"], tf.int64)], axis=-1)

  graph.decoder_builder.replace_fn("decode_crop", cuts)


def of(data: Any, store: Store, ids: np.ndarray, split: str) -> Cache | None:
  """The cache that a config asks for; None without one. Only training videos are read often.

  Args:
    data: `config.data`.
    store: the videos.
    ids: the numbers of those in use.
    split: the split that they are of.

  Raises:
    UserError: the field has an unknown value.
  """
  place = data.get("cache", "")
  if place not in PLACES:
    raise UserError(f"{_WHERE}: {place!r}; choose '' (none) or {', '.join(map(repr, PLACES[1:]))}.")
  return Cache(data, store, ids) if place and split == data.train_split else None
