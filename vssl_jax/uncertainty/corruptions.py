"""Corrupts videos by a known strength, to test a representation and its uncertainty on them.

Each corruption is a pure function of uint8 clips, a strength in [0, 1] and random numbers.
Strength 0 changes nothing. With the same random numbers, a higher strength gives the same
corruption but stronger: the same noise pattern, a larger rectangle, more lost frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data_pipelines.source import Batches, Source, Wrapped
from vssl_jax.errors import UserError

Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
_GREY = 128
_SALT = 0xC0221


def blur(clips: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
  """A Gaussian blur with standard deviation `strength` · H pixels, the same in every frame.

  Args:
    clips: uint8 `[..., T, H, W, C]`.
    strength: in [0, 1].
    rng: not used.

  Returns:
    uint8 of the same shape. Border pixels are repeated outwards, so that borders do not darken.
  """
  from scipy import ndimage

  del rng
  sigma = strength * clips.shape[-3]
  if not sigma:
    return clips
  axes = (0,) * (clips.ndim - 3) + (sigma, sigma, 0)
  return _rounded(ndimage.gaussian_filter(clips.astype(np.float32), axes, mode="nearest"))


def noise(clips: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
  """Gaussian noise with standard deviation `strength` · 255, independent for each value.

  Every frame has its own noise, as from a camera's sensor: this is the only corruption that is not
  consistent in time.

  Args:
    clips: uint8 `[..., T, H, W, C]`.
    strength: in [0, 1].
    rng: draws the noise.
  """
  draw = rng.standard_normal(clips.shape, np.float32)
  return _rounded(clips + 255 * strength * draw) if strength else clips


def occlude(clips: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
  """A gray rectangle with the frame's aspect ratio that covers a fraction `strength` of its area.

  All frames and clips of one call have it at the same place, drawn uniformly among the places where
  it lies inside the frame.

  Args:
    clips: uint8 `[..., T, H, W, C]`.
    strength: in [0, 1].
    rng: draws the place.
  """
  height, width = clips.shape[-3:-1]
  place = rng.random(2)
  sides = np.round(np.sqrt(strength) * np.array([height, width])).astype(int)
  top, left = np.round(place * (np.array([height, width]) - sides)).astype(int)
  out = clips.copy()
  out[..., top : top + sides[0], left : left + sides[1], :] = _GREY
  return out


def drop_frames(clips: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
  """Dropped frames: a fraction `strength` of all frames but the first repeat the frame before.

  Each clip drops different frames. At strength 1, all frames equal the first.

  Args:
    clips: uint8 `[..., T, H, W, C]`.
    strength: in [0, 1].
    rng: draws which frames are dropped.
  """
  frames = clips.shape[-4]
  flat = clips.reshape(-1, frames, *clips.shape[-3:])
  lost = round(strength * (frames - 1))
  order = np.argsort(rng.random((len(flat), frames - 1)), axis=1)  # dropped frames come first
  kept = np.tile(np.arange(frames), (len(flat), 1))
  np.put_along_axis(kept, 1 + order[:, :lost], 0, axis=1)
  source = np.maximum.accumulate(kept, axis=1)
  return np.take_along_axis(flat, source[:, :, None, None, None], axis=1).reshape(clips.shape)


# The strengths range from barely visible to almost nothing left of the video.
CORRUPTIONS: Mapping[str, tuple[Corruption, tuple[float, ...]]] = {
  "blur": (blur, (0.02, 0.04, 0.08, 0.16)),
  "noise": (noise, (0.05, 0.1, 0.2, 0.4)),
  "occlusion": (occlude, (0.1, 0.2, 0.4, 0.6)),
  "dropped frames": (drop_frames, (1 / 3, 2 / 3, 1.0)),  # 1, 2 and 3 of a clip's four frames
}


class Corrupted(Wrapped):
  """A source whose evaluation views are corrupted, with own random numbers for each video.

  Args:
    source: see `data_pipelines.source`.
    name: a key of `CORRUPTIONS`.
    strength: in [0, 1].
    seed: the seed and the video's index determine the random numbers; batches and strength do not.

  Raises:
    UserError: there is no such corruption, or the strength is out of range.
  """

  def __init__(self, source: Source, name: str, strength: float, seed: int = 0):
    if name not in CORRUPTIONS:
      raise UserError(f"corruption {name!r}: choose among {', '.join(CORRUPTIONS)}")
    if not 0 <= strength <= 1:
      raise UserError(f"corruption {name!r}: its strength is {strength}; give one in [0, 1]")
    super().__init__(source)
    self._function, self._strength, self._seed = CORRUPTIONS[name][0], strength, seed

  def eval_batches(self, *args: Any, **kwargs: Any) -> Batches:
    """The batches of the wrapped source, with corrupted clips."""
    for batch in self._source.eval_batches(*args, **kwargs):
      clips = [
        self._function(x, self._strength, np.random.default_rng([_SALT, self._seed, int(v)]))
        for x, v in zip(batch["clips"], batch["video"], strict=True)
      ]
      yield {**batch, "clips": np.stack(clips)}


def _rounded(x: np.ndarray) -> np.ndarray:
  return np.clip(np.rint(x), 0, 255).astype(np.uint8)
