"""Clips from a user's own DMVR factory, `config.data.name = "module:function"`.

The name is taken from the user's flags or config file alone: one that came with a checkpoint or a
card would run a stranger's program (`vssl_jax.config.without_code`). The module may lie in the
current folder.

The function takes `config.data` and the split, and returns `(factory, num_videos)` or
`(factory, num_videos, label_names)` with a configured factory. The factory's `image` is uint8, or
float in [0, 1], of shape `[R, T, H, W, C]`, `[R · T, H, W, C]` or, for one clip, `[T, H, W, C]`,
with C = `config.data.channels`.
Its `label` is an integer or a one-hot vector, or absent. `clips.steps.add_train_steps(factory,
data)` adds our sampler and crops to it.

DMVR uses its own random state and a shuffle buffer. So order and clips do not follow the run's
seed, a restart does not continue the same sequence of batches, videos have no numbers (`video` is
−1), and the data is not divided among hosts.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from data_pipelines import optional, pixels, source
from data_pipelines.clips import iterators
from data_pipelines.clips.builders import IMAGE, LABEL
from data_pipelines.records import fingerprint
from vssl_jax import config_file
from vssl_jax.errors import UserError


class DmvrSource:
  """Training batches from a DMVR factory; a `source.Source` without evaluation or determinism."""

  def __init__(
    self,
    data: Any,
    factory: Any,
    num_videos: int,
    label_names: tuple[str, ...] = (),
    *,
    split: str,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
  ):
    self.num_videos, self.label_names, self.unreadable = num_videos, tuple(label_names), 0
    self.video_names: tuple[str, ...] = ()
    facts = data.name, split, num_videos, self.label_names
    self.fingerprint = fingerprint.of(*facts, _shards(factory))
    self._data, self._factory, self._split = data, factory, split
    self._batch_size = batch_size
    self._rows = source.local_rows(batch_size, process_index, process_count)

  @property
  def steps_per_epoch(self) -> int:
    """Number of whole batches in an epoch; `UserError` if the split is smaller than one batch."""
    return source.steps_per_epoch(self.num_videos, self._batch_size, split=self._split)

  def train_batches(self, start: int = 0) -> source.Batches:
    """Endless batches in DMVR's own random order; `start` has no effect."""
    del start
    dataset = self._factory.make_dataset(
      shuffle=True, num_epochs=None, batch_size=len(self._rows), drop_remainder=True
    )
    for features in iterators.Numpy(dataset):
      yield self._batch(features)

  def only(self, videos: Sequence[int] | np.ndarray) -> Self:
    """Not supported, because the factory's videos have no numbers; raises `UserError`."""
    del videos
    raise UserError(
      "config.data.source=dmvr: cannot select some of the videos of a DMVR factory; read its "
      "records with config.data.source=tfrecord."
    )

  def eval_batches(self, batch_size: int, **views: int) -> source.Batches:
    """Not supported, because DMVR cannot make this project's test views; raises `UserError`."""
    del batch_size, views
    raise UserError(
      "config.data.source=dmvr: a DMVR factory gives training batches only; evaluate on its "
      "records with config.data.source=tfrecord."
    )

  def _batch(self, features: dict[str, np.ndarray]) -> source.Batch:
    data, count = self._data, len(self._rows)
    if IMAGE not in features:
      raise UserError(
        f"config.data.name={data.name}: the factory has no feature {IMAGE!r}, only "
        f"{sorted(features)}."
      )
    image = features[IMAGE]
    clips_shape = (count, data.clips, data.frames)
    if image.ndim < 5 or image.size != np.prod(clips_shape) * np.prod(image.shape[-3:]):
      raise UserError(
        f"config.data.name={data.name}: the factory's {IMAGE!r} has shape {image.shape}, which "
        f"does not make [N, R, T] = {list(clips_shape)} frames."
      )
    pixels.require_channels(
      data.channels,
      (image.shape[-1],),
      f"config.data.name={data.name}: the factory's frames have {image.shape[-1]} channels",
    )
    if image.dtype != np.uint8:
      image = (np.clip(image.astype(np.float32), 0, 1) * 255 + 0.5).astype(np.uint8)
    offset = features.get("offset", np.full((count, data.clips), -1))
    return {
      "clips": image.reshape(*clips_shape, *image.shape[-3:]),
      "label": source.check_labels(
        _labels(features.get(LABEL), count),
        count,
        self.label_names,
        f"config.data.name={data.name}: the factory's {LABEL!r}",
      ),
      "video": np.full(count, -1, np.int64),
      "offset": np.asarray(offset, np.int32),
    }


def load(data: Any, *, split: str, seed: int, **kwargs: Any) -> DmvrSource:
  """See `source.load`; `seed` has no effect."""
  del seed
  if not data.name:
    raise UserError(
      "config.data.name: empty; a DMVR factory is a program, so its name 'module:function' comes "
      "from your own flags or config file, never from a checkpoint or a card. To evaluate or to "
      "export features, read its records: --data=DIR."
    )
  module, _, function = data.name.partition(":")
  if not all(part.isidentifier() for part in (*module.split("."), function)):
    raise UserError(
      f"config.data.name: {data.name!r} must be 'module:function', naming the function that makes "
      "the DMVR factory."
    )
  config_file.find_modules_here()
  try:
    make = getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError) as e:
    missing = (getattr(e, "name", None) or "").partition(".")[0] == "dmvr"
    way_out = f"; {optional.install('dmvr')}" if missing else ""
    raise UserError(f"config.data.name: {data.name} cannot be imported ({e}){way_out}.") from None
  return DmvrSource(data, *make(data, split), split=split, **kwargs)


def _shards(factory: Any) -> list[tuple[str, int]]:
  """Names and sizes of the factory's shards; () for factories without DMVR's list of shards.

  The size is −1 for a shard that is not on this machine.
  """
  paths = [os.fspath(p) for p in getattr(factory, "_shards", ())]
  return [(os.path.basename(p), os.path.getsize(p) if os.path.exists(p) else -1) for p in paths]


def _labels(label: np.ndarray | None, count: int) -> np.ndarray:
  if label is None:
    return np.full(count, -1, np.int32)
  if label.ndim > 1 and label.shape[-1] > 1:
    label = label.argmax(-1)
  return label.reshape(count).astype(np.int32)
