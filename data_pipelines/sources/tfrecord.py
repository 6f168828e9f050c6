"""Clips from TFRecords of SequenceExamples with DMVR's keys, written by us, DMVR or TF Garden.

A split has records of JPEGs, or of encoded videos, which its first record tells.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines import pixels
from data_pipelines.clips import steps
from data_pipelines.clips.builders import IMAGE, Features, Graph
from data_pipelines.clips.clip_source import ClipSource
from data_pipelines.clips.pictures import Fetcher, in_processes
from data_pipelines.encoded import example as encoded
from data_pipelines.encoded import read
from data_pipelines.records import fingerprint, index, labels, manifest, tfrecord
from data_pipelines.records import sequence_example as example
from data_pipelines.videos import workers
from vssl_jax import files
from vssl_jax.errors import UserError

_AHEAD = 16  # records of a bucket that are read at the same time, beyond one per thread
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between tries to read a record of a bucket
_SIZE = re.compile(r"(?P<width>[0-9]{1,6})x(?P<height>[0-9]{1,6})")
_BESIDE = 2  # videos that are cropped while the worker processes decode others
_MOST_FRAMES = 1 << 24  # of a record; more than a week at 25 frames per second
_ITEM = "item"  # int64 [], number of the record
_RECORD = "record"  # string [], the record


class RecordReader:
  """Reads any record by its number, inside a TensorFlow graph.

  Args:
    where: offset index of the records.
    rows: numbers of the records to use, int64 `[n]`; all by default.

  Attributes:
    failure: why a record of a bucket could not be read, after several tries; "" if all could.
  """

  def __init__(self, where: index.Index, rows: np.ndarray | None = None):
    self.failure = ""
    self._count = len(where) if rows is None else len(rows)
    self._rows = None if rows is None else tf.constant(rows, tf.int64)
    self._where = where if any(map(files.is_address, where.files)) else None
    self._files = tf.constant([os.fsencode(f) for f in where.files])
    self._starts = tf.constant(where.starts, tf.int64)
    self._sizes = tf.constant(where.sizes, tf.int64)
    self._offset = tf.constant(where.offset, tf.int64)

  def __len__(self) -> int:
    return self._count

  def read(self, i: tf.Tensor) -> tf.Tensor:
    """Reads record `i` (int64 `[]`), string `[]`, and verifies its checksum."""
    i = i if self._rows is None else tf.gather(self._rows, i)
    if self._where is not None:
      return self._read_address(i)
    shard = tf.searchsorted(self._starts, i[None], side="right")[0] - 1
    start = tf.gather(self._offset, i) - tfrecord.HEADER
    after = tf.minimum(i + 1, self._offset.shape[0] - 1)
    last = i + 1 == tf.gather(self._starts, shard + 1)
    end = tf.gather(self._offset, after) - tfrecord.HEADER
    end = tf.where(last, tf.gather(self._sizes, shard), end)
    # The raw op can start reading at any byte. It is as fast as pread in numpy_function (2.9 ms for
    # 4.4 MB), and does not hold Python's interpreter lock.
    reader = tf.raw_ops.TFRecordDatasetV2(
      filenames=tf.gather(self._files, shard)[None],
      compression_type="",
      buffer_size=end - start,
      byte_offsets=start[None],
    )
    spec = tf.TensorSpec([], tf.string)
    return tf.data.experimental.from_variant(reader, spec).take(1).get_single_element()

  def _read_address(self, i: tf.Tensor) -> tf.Tensor:
    # TensorFlow knows few kinds of storage, and one request of its reader may become several.
    def read(i: np.ndarray) -> bytes:
      assert self._where is not None
      for pause in _PAUSES:
        with contextlib.suppress(OSError):
          return index.read_record(self._where, int(i), verify=True)
        time.sleep(pause)
      try:
        return index.read_record(self._where, int(i), verify=True)
      except OSError as error:
        # Else the next video would replace this one, and the batches would be others.
        self.failure = f"{error.filename or self._where.files[0]}: {error.strerror or error}"
        raise

    return tf.ensure_shape(tf.numpy_function(read, [i], tf.string), [])


class RecordStore:
  """One split in a folder of records; implements `clip_source.Store`."""

  reads_ahead = 0

  def __init__(self, folder: str, split: str, channels: int = 3):
    if not folder:
      raise UserError(
        "config.data.path: empty; make a folder of records with "
        "`vssl prepare VIDEOS DIR` and pass --config.data.path=DIR."
      )
    pixels.require_channels(channels, (1, 3), f"{folder}: its records hold JPEGs")
    self.codec = steps.jpeg(channels)
    self._folder, self._split = folder, split
    stored = manifest.known(folder)
    self._index = index.load(folder, split, stored)
    self._reader = RecordReader(self._index)
    if any(map(files.is_address, self._index.files)):
      self.reads_ahead = _AHEAD
    names = manifest.read_labels(folder)
    self.classes = labels.occurring(folder, split, self._index, names, stored)
    self.label_names = tuple(map(files.printable, names))

  def __len__(self) -> int:
    return len(self._index)

  def holds_videos(self) -> bool:
    """Whether the first record holds an encoded video.

    Raises:
      UserError: it cannot be read.
    """
    file, offset, length = self._index.place_of(0)
    try:
      head = files.read_range(file, offset, min(length, example.HEAD))
      if example.context_of(head) is None and length > example.HEAD:  # a long caption
        head = files.read_range(file, offset, length)
    except OSError as error:
      raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    return encoded.length_of(head) is not None

  @functools.cached_property
  def fingerprint(self) -> str:
    """See `Store`."""
    return fingerprint.of_records(self._folder, self._split, self._index)

  def add_parsing(self, graph: Graph, *, with_frame_rate: bool) -> None:
    """See `Store`."""
    steps.add_parsing(graph.parser_builder, with_frame_rate=with_frame_rate)

  def read(self, parse: Callable[[tf.Tensor], Features], i: tf.Tensor) -> Features:
    """See `Store`."""
    return parse(self._reader.read(i))

  def decoded(self) -> tuple[int, list[tuple[int, int]]] | None:
    """See `Store`; from the manifest of `prepare`."""
    if manifest.shards_of(self._folder, self._split) is None:
      return None
    stored = (manifest.read(self._folder) or {})["splits"][self._split]
    sizes = [_SIZE.fullmatch(size) for size in stored["stored_size"]]
    if None in sizes:
      return None  # of another program
    return int(stored["frames"]), [(int(m["height"]), int(m["width"])) for m in sizes if m]

  def check(self) -> None:
    """See `Store`."""
    if self._reader.failure:
      raise UserError(
        f"{self._reader.failure}: the records cannot be read now; run the same command again, it "
        "goes on where it stopped"
      )

  def name_of(self, i: int) -> str:
    """The video's name in its record; "" if it has none or the record is damaged."""
    file, offset, length = self._index.place_of(i)
    try:
      name = example.filename_of(tfrecord.read(file, offset, min(length, example.HEAD)))
      if name is None:
        name = example.filename_of(index.read_record(self._index, i))
      return name or ""
    except UserError:  # reported and counted later, when its frames are read
      return ""

  def describe(self, i: int) -> str:
    """File, byte position and, if it can be read, the video's name."""
    file, offset, _ = self._index.place_of(i)
    try:
      name = self.name_of(i)
    except OSError:
      name = ""
    return f"{file}: the record at byte {offset}" + (f" ({name})" if name else "")


class EncodedStore(RecordStore):
  """One split in a folder of records that hold encoded videos.

  The wanted frames are decoded in worker processes, as those of video files are.
  """

  def __init__(self, data: Any, split: str):
    pixels.require_channels(data.channels, (3,), f"{data.path}: its records hold videos in RGB")
    super().__init__(data.path, split, data.channels)
    self.codec = steps.array(data.channels)
    # While some videos wait for their frames, others are cropped.
    self.reads_ahead = max(self.reads_ahead, _BESIDE)
    call = in_processes(
      read.read,
      lambda item, record, frames: read.Request(record, frames),
      processes=data.threads or workers.cores(),
      timeout=float(data.videos.timeout),
    )
    self._fetcher = Fetcher(call, (_ITEM, _RECORD), place=self.describe)

  def add_parsing(self, graph: Graph, *, with_frame_rate: bool) -> None:
    """See `Store`."""
    steps.add_parsing(graph.parser_builder, with_frame_rate=with_frame_rate, frames=False)
    length = tf.io.FixedLenFeature((), tf.int64)
    graph.parser_builder.parse_feature(encoded.LENGTH, length, IMAGE, is_context=True)

  def fetch(self, features: Features) -> Features:
    """See `Store`."""
    return self._fetcher.fetch(features)

  def read(self, parse: Callable[[tf.Tensor], Features], i: tf.Tensor) -> Features:
    """See `Store`; `image` has the numbers of the frames, which are replaced by pictures."""
    record = self._reader.read(i)
    features = dict(parse(record))
    # A record may claim any number; all frames of one cannot be used at once anyway.
    length = tf.clip_by_value(features[IMAGE], 0, _MOST_FRAMES)
    return features | {IMAGE: tf.range(length), _ITEM: i, _RECORD: record}

  def check(self) -> None:
    """See `Store`."""
    super().check()
    self._fetcher.check()

  def describe(self, i: int) -> str:
    """See `RecordStore`; with the reason why it could not be read, if it was tried."""
    reason = self._fetcher.reasons.get(i, "")
    return super().describe(i) + (f": {reason}" if reason else "")


def load(data: Any, *, split: str, **kwargs: Any) -> ClipSource:
  """See `source.load`; `data.path` is the folder of shards."""
  store = RecordStore(data.path, split, data.channels)
  if store.holds_videos():
    store = EncodedStore(data, split)
  return ClipSource(data, store, split=split, **kwargs)
