"""Clips from TensorFlow Datasets: any builder with a `Video` feature whose data is prepared.

Random access to TFRecord files uses an offset index, made by one scan; ArrayRecord files use
TFDS's own random access. With both, batch k depends on (seed, k) alone. Only the sampled frames
are decoded. This module never downloads anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core import naming

from data_pipelines import pixels
from data_pipelines.clips import steps
from data_pipelines.clips.builders import IMAGE, LABEL, Features, Graph
from data_pipelines.clips.clip_source import ClipSource
from data_pipelines.records import fingerprint, index
from data_pipelines.sources.tfrecord import RecordReader
from vssl_jax import files
from vssl_jax.errors import UserError


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS's deprecation warnings about its own code, and its progress bars."""
  loggers = (logging.get_absl_logger(), tf.get_logger())
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel("ERROR")
  tfds.disable_progress_bar()
  try:
    yield
  finally:
    tfds.enable_progress_bar()
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)


_MADE = {"digits": "digits_video", "motion": "motion_video"}  # builders of data sets made here
_RATES = ("fps", "frame_rate")  # names of a frame-rate feature; the first that exists is used


class TfdsStore:
  """Random access to a split of a TFDS builder; implements `clip_source.Store`.

  A scalar feature `fps` or `frame_rate` is taken as each video's frame rate.

  Args:
    builder: a prepared builder.
    split: TFDS split; slices such as `train[:80%]` work too.
    where: the data set's name in messages.
    channels: `config.data.channels`.

  Raises:
    UserError: the builder is not prepared, lacks the split, does not have exactly one video
      feature, or has one of other channels.
  """

  def __init__(
    self, builder: tfds.core.DatasetBuilder, split: str, *, where: str, channels: int = 3
  ):
    features = builder.info.features
    videos = [k for k, f in features.items() if isinstance(f, tfds.features.Video)]
    if len(videos) != 1:
      raise UserError(f"{where}: expected one video feature, found {len(videos)}: {videos}.")
    self._video, self._where = videos[0], f"{where}, split {split}"
    stored = features[videos[0]].shape[-1]
    choices = (1, 3) if stored in (1, 3) else (stored,)
    pixels.require_channels(channels, choices, f"{where}: its frames have {stored} channels")
    label = dict(features.items()).get(LABEL)
    is_class = isinstance(label, tfds.features.ClassLabel)
    self._rate = next((k for k in _RATES if _is_number(dict(features.items()).get(k))), None)
    self._label = LABEL if label is not None and label.shape == () else None
    self.label_names = tuple(label.names or ()) if label is not None and is_class else ()
    self._decoders = {self._video: tfds.decode.SkipDecoding()}
    self._features = features
    self._records = (_tfrecords if _is_tfrecord(builder) else _RawRows)(builder, split, where)
    lengths = getattr(self._records, "lengths", np.zeros(0, np.int64)).tolist()
    ends = [self._hash(i) for i in (0, len(self._records) - 1)]
    facts = builder.info.full_name, split, len(self._records)
    self.fingerprint = fingerprint.of(*facts, lengths, ends, self.label_names)
    first = self.read(None, tf.constant(0, tf.int64))[IMAGE][0].numpy()
    self.reads_ahead, self.classes = 0, None
    is_jpeg = first[:2] == b"\xff\xd8"
    self.codec = steps.jpeg(channels) if is_jpeg else steps.png(channels, stored)

  def __len__(self) -> int:
    return len(self._records)

  def _hash(self, i: int) -> str:
    """SHA-256 of a record; "" if it cannot be read."""
    try:
      record = self._records.read(tf.constant(i, tf.int64)).numpy()
    except tf.errors.OpError:
      return ""
    return hashlib.sha256(record).hexdigest()

  def add_parsing(self, graph: Graph, *, with_frame_rate: bool) -> None:
    """Adds nothing: the builder parses its own features."""
    if with_frame_rate and self._rate is None:
      raise UserError(
        f"{self._where}: no scalar feature 'fps' or 'frame_rate', so its frame rate is unknown: "
        "set config.data.target_fps=0 (vssl evaluate: --target_fps=0) and "
        "config.data.interval.unit=frames, give the gap in frames and leave out "
        "config.data.interval.max_seconds and min_seconds."
      )

  def read(self, parse: Callable[[tf.Tensor], Features] | None, i: tf.Tensor) -> Features:
    """See `Store`; `parse` is not used."""
    record = self._records.read(i)
    with _quiet():
      example = self._features.deserialize_example(record, decoders=self._decoders)
    label = example[self._label] if self._label else -1
    parsed = {IMAGE: example[self._video], LABEL: tf.cast(label, tf.int64)}
    return parsed | ({steps.FRAME_RATE: example[self._rate]} if self._rate else {})

  def name_of(self, i: int) -> str:
    """Always "", because TFDS stores no names of videos."""
    del i
    return ""

  def check(self) -> None:
    """See `Store`."""

  def describe(self, i: int) -> str:
    """See `Store`."""
    return f"{self._where}: video {i}"


class _RawRows:
  """Reads serialized examples with TFDS's own random access (ArrayRecord files)."""

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str, where: str):
    try:
      raw = tfds.decode.DeserializeMethod.RAW_BYTES
      self._rows = builder.as_data_source(split=split, deserialize_method=raw)
    except Exception as e:
      reason = str(e).split("\n")[0][:200]
      raise UserError(
        f"{where}: split {split!r} cannot be read ({reason}); prepare it with "
        f"`tfds build {builder.name} --file_format=array_record` (or tfrecord)."
      ) from None

  def __len__(self) -> int:
    return len(self._rows)

  def read(self, i: tf.Tensor) -> tf.Tensor:
    """Reads the serialized example `i`, string `[]`."""
    record = tf.numpy_function(lambda i: self._rows[int(i)], [i], tf.string, stateful=False)
    return tf.ensure_shape(record, [])


def load(data: Any, *, split: str, **kwargs: Any) -> ClipSource:
  """See `source.load`; `data.name` is the builder and `data.path` is TFDS's `data_dir`.

  The sources `digits` and `motion` first generate their small data set in `data.path` if it is
  missing.
  """
  if data.source in _MADE:
    builder, where = _made(data), f"the {data.source} data set"
  else:
    where = f"TFDS data set {data.name!r}"
    if not data.name:
      raise UserError(
        "config.data.name: no TFDS builder named; give one, such as 'ucf101/ucf101_1'. A name with "
        "a namespace, which TFDS fetches and runs, is taken from your own flags or config file, "
        "never from a checkpoint or a card."
      )
    _require_no_code(data.path or tfds.core.constants.DATA_DIR, data.name)
    try:
      builder = tfds.builder(data.name, data_dir=data.path or None)
    except (tfds.core.DatasetNotFoundError, ValueError, TypeError) as e:
      reason = str(e).split("\n")[0]
      raise UserError(f"config.data.name: {where} cannot be opened ({reason}).") from None
  store = TfdsStore(builder, split, where=where, channels=data.channels)
  return ClipSource(data, store, split=split, **kwargs)


def _require_no_code(folder: str, name: str) -> None:
  """Checks that the `features.json` of a data set names no class of a module outside TFDS.

  TFDS imports what this file names, and the file may be a stranger's.

  Args:
    folder: TFDS's `data_dir`, or its address.
    name: as TFDS takes it, `NAME[/CONFIG][:VERSION][/ARGUMENTS]`.

  Raises:
    UserError: it names one that this process has not imported by itself, or is too large to be
      read, or the name leads out of the folder of the data set.
  """
  own, *rest = re.split(r"[/:,]", name)
  if ".." in rest or any(part.startswith(("config=", "data_dir=")) for part in rest):
    raise UserError(
      f"config.data.name: {name!r} leads out of the folder of the data set; write NAME/CONFIG, and "
      "the folder of TFDS's data in config.data.path."
    )
  known = tfds.features.FeatureConnector._registered_features
  found = [
    file
    for root in _roots(files.path(os.path.expanduser(folder)), own)
    for pattern in ("*/features.json", "*/*/features.json")
    for file in files.matching(root, pattern)
  ]
  for file in sorted(found):
    try:
      stored = files.read_json(file)
    except UserError:
      raise
    except (OSError, ValueError):
      continue  # TFDS says what is wrong with it
    for named in _classes(stored):
      if not named.startswith("tensorflow_datasets.") and named not in known:
        raise UserError(
          f"{file}: names the class {named!r}, which is not of TFDS and would be imported from a "
          "program; import it in your own program first, or prepare the data again."
        )


def _roots(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
  """The folders that TFDS may take for those of a data set: it finds `my_data` as `MyData`, too."""
  if files.is_remote(folder):
    return [folder / own for own in {name, naming.camelcase_to_snakecase(name)}]
  try:
    return [path for path in folder.iterdir() if _plain(path.name) == _plain(name)]
  except OSError:
    return []  # TFDS says what is wrong with it


def _plain(name: str) -> str:
  return name.replace("_", "").casefold()


def _classes(tree: Any) -> Iterator[str]:
  """Names of classes anywhere in a `features.json`, which may be nested deeply."""
  left = [tree]
  while left:
    tree = left.pop()
    if isinstance(tree, dict):
      for key in ("type", "pythonClassName", "python_class_name"):
        if isinstance(value := tree.get(key), str):
          yield value
      left += tree.values()
    elif isinstance(tree, list):
      left += tree


def _made(data: Any) -> tfds.core.DatasetBuilder:
  from data_pipelines.digits import motion_builder, tfds_builder  # noqa: F401, register builders

  def opened() -> tfds.core.DatasetBuilder:
    return tfds.builder(data.name or _MADE[data.source], data_dir=data.path or None)

  builder = opened()
  if not builder.info.splits:
    print(f"Making the {data.source} data set in {builder.data_dir}, once.", flush=True)
    try:
      with _quiet(), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    except Exception:
      builder = opened()
      if not builder.info.splits:  # otherwise another process has made it meanwhile
        raise
  return builder


def _is_number(feature: Any) -> bool:
  if feature is None or feature.shape != ():
    return False
  dtype = tf.as_dtype(feature.dtype)
  return dtype.is_floating or dtype.is_integer


def _is_tfrecord(builder: tfds.core.DatasetBuilder) -> bool:
  return bool(builder.info.splits) and builder.info.file_format == tfds.core.FileFormat.TFRECORD


def _tfrecords(builder: tfds.core.DatasetBuilder, split: str, where: str) -> RecordReader:
  try:
    parts = builder.info.splits[split].file_instructions
  except (KeyError, ValueError):
    known = ", ".join(builder.info.splits)
    raise UserError(f"{where}: no split {split!r}; it has {known}.") from None
  if missing := [p.filename for p in parts if not os.path.exists(p.filename)]:
    raise UserError(f"{missing[0]}: missing; prepare the data set again with `tfds build`.")
  whole = index.build([p.filename for p in parts])
  chosen = []
  for number, part in enumerate(parts):
    rows = np.arange(whole.starts[number], whole.starts[number + 1])
    stop = None if part.take < 0 else part.skip + part.take
    chosen.append(rows[part.skip : stop])
  return RecordReader(whole, np.concatenate(chosen))
