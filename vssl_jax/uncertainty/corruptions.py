"""Videos made worse by a known amount: what is a representation, or its uncertainty, worth then?

Each corruption is a pure function of uint8 clips, a strength in [0, 1] and random numbers, and
strength 0 changes nothing. The same numbers at two strengths give the same corruption more or
less strongly: noise of one pattern, a square that grows where it is, further frames that are lost.
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
    rng: nothing is drawn.

  Returns:
    uint8 of the same shape. Beyond the border its pixels go on, so that borders don't darken.
  """
  from scipy import ndimage

  del rng
  sigma = strength * clips.shape[-3]
  if not sigma:
    return clips
  axes = (0,) * (clips.ndim - 3) + (sigma, sigma, 0)
  return _rounded(ndimage.gaussian_filter(clips.astype(np.float32), axes, mode="nearest"))


def noise(clips: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
  """Gaussian noise with standard deviation `strength` · 255, of each value for itself.

  Drawn anew for every frame, as a camera's sensor does: it is the one that isn't consistent in
  time.

  Args:
    clips: uint8 `[..., T, H, W, C]`.
    strength: in [0, 1].
    rng: of the noise.
  """
  draw = rng.standard_normal(clips.shape, np.float32)
  return _rounded(clips + 255 * strength * draw) if strength else clips


def occlude(clips: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
  """A grey rectangle of the frame's shape over the share `strength` of its area.

  It stays at one place in all frames and clips given together, drawn evenly among those where it
  lies inside the frame.

  Args:
    clips: uint8 `[..., T, H, W, C]`.
    strength: in [0, 1].
    rng: of the place.
  """
  height, width = clips.shape[-3:-1]
  place = rng.random(2)
  sides = np.round(np.sqrt(strength) * np.array([height, width])).astype(int)
  top, left = np.round(place * (np.array([height, width]) - sides)).astype(int)
  out = clips.copy()
  out[..., top : top + sides[0], left : left + sides[1], :] = _GREY
  return out


def drop_frames(clips: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
  """Frames lost on the way: the share `strength` of all but the first repeat the one before.

  Each clip loses others. At strength 1 its first frame stands still.

  Args:
    clips: uint8 `[..., T, H, W, C]`.
    strength: in [0, 1].
    rng: of which frames.
  """
  frames = clips.shape[-4]
  flat = clips.reshape(-1, frames, *clips.shape[-3:])
  lost = round(strength * (frames - 1))
  order = np.argsort(rng.random((len(flat), frames - 1)), axis=1)  # those lost come first
  kept = np.tile(np.arange(frames), (len(flat), 1))
  np.put_along_axis(kept, 1 + order[:, :lost], 0, axis=1)
  source = np.maximum.accumulate(kept, axis=1)
  return np.take_along_axis(flat, source[:, :, None, None, None], axis=1).reshape(clips.shape)


# Strengths that go from barely seen to hardly anything left.
CORRUPTIONS: Mapping[str, tuple[Corruption, tuple[float, ...]]] = {
  "blur": (blur, (0.02, 0.04, 0.08, 0.16)),
  "noise": (noise, (0.05, 0.1, 0.2, 0.4)),
  "occlusion": (occlude, (0.1, 0.2, 0.4, 0.6)),
  "dropped frames": (drop_frames, (1 / 3, 2 / 3, 1.0)),  # each another number of four frames
}


class Corrupted(Wrapped):
  """A source whose evaluation views are corrupted, each video by its own draws.

  Args:
    source: see `data_pipelines.source`.
    name: of `CORRUPTIONS`.
    strength: in [0, 1].
    seed: with the video's number it decides the draws; neither batches nor strength do.

  Raises:
    UserError: no such corruption, or a strength out of range.
  """

  def __init__(self, source: Source, name: str, strength: float, seed: int = 0):
    if name not in CORRUPTIONS:
      raise UserError(f"corruption {name!r}: choose among {', '.join(CORRUPTIONS)}")
    if not 0 <= strength <= 1:
      raise UserError(f"corruption {name!r}: its strength is {strength}; give one in [0, 1]")
    super().__init__(source)
    self._function, self._strength, self._seed = CORRUPTIONS[name][0], strength, seed

  def eval_batches(self, *args: Any, **kwargs: Any) -> Batches:
    """As the source's own, but for the clips."""
    for batch in self._source.eval_batches(*args, **kwargs):
      clips = [
        self._function(x, self._strength, np.random.default_rng([_SALT, self._seed, int(v)]))
        for x, v in zip(batch["clips"], batch["video"], strict=True)
      ]
      yield {**batch, "clips": np.stack(clips)}


def _rounded(x: np.ndarray) -> np.ndarray:
  return np.clip(np.rint(x), 0, 255).astype(np.uint8)
