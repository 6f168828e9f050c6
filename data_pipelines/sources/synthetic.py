"""Small labeled videos made with NumPy alone, for tests and for machines without data.

A video is a colored texture (three plane waves) that drifts over a second texture that stands
still. The class is the direction of the drift. Colors, wavelengths and phases differ per video, so
a single frame says nothing about the class. The texture is a function of place and time, so a crop
only changes the coordinates; nothing is resized.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipelines.clips import sampler
from data_pipelines.records import fingerprint
from data_pipelines.source import Example, NumpySource, generator
from vssl_jax.errors import UserError

_WAVES = 3
_SPEED = 0.03  # frame widths per frame
_FPS = 25.0
_CONTENT_SEED = {"train": 0x5EED, "eval": 0x7E57}  # the data set is the same for every run's seed


def _rate(target_fps: float) -> np.ndarray | None:
  return np.asarray(_FPS / target_fps) if target_fps else None


def load(data: Any, *, split: str, **kwargs: Any) -> SyntheticSource:
  """See `source.load`; `data.eval_split` has its own videos, any other split is for training."""
  return SyntheticSource(data, split=split, **kwargs)


class SyntheticSource(NumpySource):
  """Drifting textures, made as `config.data.synthetic` says; implements `source.Source`."""

  def __init__(self, data: Any, *, split: str, **kwargs: Any):
    self._part = "eval" if split == data.eval_split and split != data.train_split else "train"
    fields = data.synthetic
    super().__init__(
      data,
      fields.eval_videos if self._part == "eval" else fields.videos,
      fingerprint=fingerprint.of(fields.to_dict(), self._part),
      split=split,
      **kwargs,
    )
    if fields.classes < 1 or fields.length < 1:
      raise UserError("config.data.synthetic: classes and length must be at least 1.")
    self.label_names = tuple(f"direction_{i}" for i in range(fields.classes))
    self._data = data
    self._interval = sampler.from_config(data.interval, data.clips)

  def occurring(self) -> frozenset[int]:
    """See `source.occurring`."""
    return frozenset((self.ids % self._data.synthetic.classes).tolist())

  def train_example(self, video: int, rng: np.random.Generator) -> Example:
    """R clips of one video, each with its own crop."""
    data, length = self._data, self._data.synthetic.length
    starts = sampler.starts(
      rng.random(sampler.num_uniforms(data.clips)),
      np.asarray(length),
      frames=data.frames,
      stride=data.stride,
      clips=data.clips,
      interval=self._interval,
      fps=_FPS,
      rate=_rate(data.target_fps),
    )
    times = sampler.frame_indices(
      starts,
      np.asarray(length),
      frames=data.frames,
      stride=data.stride,
      rate=_rate(data.target_fps),
    )
    windows = np.stack(
      [self._windows(rng, 1 if data.crop.consistent else data.frames) for _ in range(data.clips)]
    )
    return self._example(video, starts, times, windows, data.size)

  def eval_example(self, video: int, **views: Any) -> Example:
    """Evenly spaced clips; the frame is square, so the crops are placed along its width."""
    clips, crops, size = views["clips"], views["crops"], views["size"]
    frames, stride = views["frames"], views["stride"]
    length = np.asarray(self._data.synthetic.length)
    rate, placement = _rate(views.get("target_fps", 0.0)), views.get("placement", "ends")
    shape = {"frames": frames, "stride": stride, "rate": rate}
    starts = sampler.eval_starts(length, clips=clips, placement=placement, **shape)
    times = sampler.frame_indices(starts, length, **shape)
    side = size / views["resize"]
    left = np.linspace(0, 1 - side, crops) if crops > 1 else np.array([(1 - side) / 2])
    rest = np.broadcast_to([(1 - side) / 2, side, side], (crops, 3))
    windows = np.concatenate([rest[:, :1], left[:, None], rest[:, 1:]], axis=1)
    return self._example(
      video,
      np.repeat(starts, crops),
      np.repeat(times, crops, axis=0),
      np.tile(windows, (clips, 1))[:, None],
      size,
    )

  def _windows(self, rng: np.random.Generator, count: int) -> np.ndarray:
    """Random crops `[count, 4]` as (top, left, height, width), in shares of the frame's side."""
    crop = self._data.crop
    if not crop.random:
      return np.tile([0.0, 0.0, 1.0, 1.0], (count, 1))
    if any(crop.short):  # frames are square
      side = 1 / rng.uniform(1 / crop.short[1], 1 / crop.short[0], count)
      return np.concatenate(
        [rng.random((count, 2)) * (1 - side[:, None]), np.stack([side, side], axis=-1)], axis=-1
      )
    area = rng.uniform(crop.area[0], crop.area[1], count)
    if crop.log_aspect:
      low, high = np.log(crop.aspect)
      aspect = np.exp(rng.uniform(low, high, count))
    else:
      aspect = rng.uniform(crop.aspect[0], crop.aspect[1], count)
    size = np.minimum(np.sqrt(np.stack([area / aspect, area * aspect], axis=-1)), 1.0)
    return np.concatenate([rng.random((count, 2)) * (1 - size), size], axis=-1)

  def _example(
    self, video: int, starts: np.ndarray, times: np.ndarray, windows: np.ndarray, size: int
  ) -> Example:
    original = int(self.ids[video])
    label = original % self._data.synthetic.classes
    return {
      "clips": _render(
        generator(_CONTENT_SEED[self._part], 0, original),
        angle=2 * np.pi * label / self._data.synthetic.classes,
        times=times,
        windows=windows,
        size=size,
        channels=self._data.channels,
      ),
      "label": np.int32(label),
      "video": np.int64(video),
      "offset": starts.astype(np.int32),
    }


def _render(
  rng: np.random.Generator,
  *,
  angle: float,
  times: np.ndarray,
  windows: np.ndarray,
  size: int,
  channels: int = 3,
) -> np.ndarray:
  """Pixels of a video's texture, uint8 `[R, T, H, W, C]`.

  Args:
    rng: random numbers of this video.
    angle: direction of the drift, radians.
    times: frame numbers `[R, T]`.
    windows: (top, left, height, width) `[R, 1 or T, 4]`.
    size: H = W.
    channels: C.
  """
  waves = 2 * _WAVES
  frequency = rng.uniform(1.0, 4.0, waves)
  heading = rng.uniform(0, 2 * np.pi, waves)
  kx, ky = 2 * np.pi * frequency * np.cos(heading), 2 * np.pi * frequency * np.sin(heading)
  phase = rng.uniform(0, 2 * np.pi, waves)
  color = rng.uniform(-1, 1, (waves, channels)) / waves
  base = rng.uniform(0.4, 0.6, channels)

  pixel = (np.arange(size) + 0.5) / size
  y = windows[..., 0, None] + windows[..., 2, None] * pixel  # [R, 1 or T, H]
  x = windows[..., 1, None] + windows[..., 3, None] * pixel
  clips = np.broadcast_to(base, (*times.shape, size, size, channels)).copy()
  for i in range(waves):
    speed = _SPEED if i < _WAVES else 0.0
    drift = speed * (kx[i] * np.cos(angle) + ky[i] * np.sin(angle)) * times[..., None]
    # sin(a + b) from sines and cosines per axis: H + W of them are computed instead of H · W.
    a, b = ky[i] * y + phase[i] - drift, kx[i] * x
    wave = np.sin(a)[..., :, None] * np.cos(b)[..., None, :]
    wave = wave + np.cos(a)[..., :, None] * np.sin(b)[..., None, :]
    clips += wave[..., None] * color[i]
  return (np.clip(clips, 0, 1) * 255 + 0.5).astype(np.uint8)
