"""Makes videos from the handwritten digits in scikit-learn, with NumPy alone and no download.

A video shows the same image of a digit in a sequence of short shots; only the image stays the same.
At each cut, the digit's place, size, slant, motion and colors and the background are drawn anew;
within a shot they drift. So two clips of a video share the handwriting and, if they fall into the
same shot, its look. The look says nothing about the class. The ink is lighter than the paper as
often as darker, so a linear classifier of pixels or colors is near chance.

No image of a digit, and no form that it was written on, is in both splits; see `drawing`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.digits import drawing
from data_pipelines.digits.drawing import images
from vssl_jax.errors import UserError

CLASSES = tuple("0123456789")
FPS = 8.0  # frames per second, for spans in seconds; a shot lasts between half a second and one


@dataclasses.dataclass(frozen=True)
class DigitsConfig:
  """How the videos look; each pair is the range of a uniform draw.

  Attributes:
    length: frames per video.
    size: side of the square frame, pixels.
    videos_per_image: videos made from each image.
    shot: frames from one cut to the next (integers, both ends included).
    scale: side of the digit's 8 × 8 cells, as a share of the frame's side.
    rotation: rotation, radians.
    shear: slant added to that of the handwriting, horizontal over vertical.
    centre: position of the digit's center, vertical and horizontal, as a share of the frame.
    travel: largest movement of the center in each direction during a shot, as a share of the frame.
    contrast: difference in lightness between ink and paper; lightness is in [0, 1].

  Raises:
    UserError: a count below 1, or a range that is empty or out of bounds.
  """

  length: int = 32
  size: int = 32
  videos_per_image: int = 1
  shot: tuple[int, int] = (4, 8)
  scale: tuple[float, float] = (0.6, 0.8)
  rotation: tuple[float, float] = (-0.25, 0.25)
  shear: tuple[float, float] = (-0.2, 0.2)
  centre: tuple[float, float] = (0.35, 0.65)
  travel: float = 0.15
  contrast: tuple[float, float] = (0.5, 0.8)

  def __post_init__(self):
    for name in ("length", "size", "videos_per_image"):
      if getattr(self, name) < 1:
        raise UserError(f"digits: {name} is {getattr(self, name)}; set it to 1 or more")
    for name, low, high in (("shot", 1, np.inf), ("scale", 0.01, np.inf), ("contrast", 0, 1)):
      a, b = getattr(self, name)
      if not low <= a <= b <= high:
        raise UserError(
          f"digits: {name} is ({a}, {b}); its two values must be ascending and in [{low}, {high}]"
        )


def num_videos(split: str, config: DigitsConfig = DigitsConfig()) -> int:
  """Number of videos in a split; with one video per image, 1,415 train and 382 test."""
  return len(images(split)) * config.videos_per_image


def _drift(draw: np.ndarray, shot: np.ndarray, phase: np.ndarray) -> np.ndarray:
  """Interpolates values at frames `[L, ...]` from the two ends of each shot, `[2, S, ...]`."""
  w = phase.reshape(-1, *[1] * (draw.ndim - 2))
  return (draw[0, shot] * (1 - w) + draw[1, shot] * w).astype(np.float32)


def _pose(rng: np.random.Generator, config: DigitsConfig, shots: int) -> np.ndarray:
  """Poses at the two ends of each shot, `[2, shots, 5]`.

  They are the vertical and horizontal center, scale, rotation and shear.
  """
  start = rng.uniform(*config.centre, size=(shots, 2))
  step = rng.uniform(-config.travel, config.travel, size=(shots, 2))
  place = np.stack([start, np.clip(start + step, *config.centre)])
  ranges = (config.scale, config.rotation, config.shear)
  shape = np.stack([rng.uniform(*r, size=(2, shots)) for r in ranges], axis=-1)
  shape[1] = (shape[0] + shape[1]) / 2  # changes within a shot are half as large as at a cut
  return np.concatenate([place, shape], axis=-1)


def video(
  index: int, split: str, seed: int = 0, config: DigitsConfig = DigitsConfig()
) -> tuple[np.ndarray, int]:
  """Makes one video.

  Args:
    index: number of the video, in `[0, num_videos(split, config))`.
    split: "train" or "test".
    seed: another seed shows the same handwriting with other looks; the split stays the same.
    config: see `DigitsConfig`.

  Returns:
    Frames uint8 `[L, H, W, 3]` and the class, 0 to 9. The same arguments give the same bytes.

  Raises:
    UserError: the split does not exist, or has no such video.
  """
  if not 0 <= index < num_videos(split, config):
    raise UserError(
      f"digits: video {index} of split {split!r} does not exist; "
      f"it has videos 0 to {num_videos(split, config) - 1}"
    )
  ink, label = drawing.load()
  image = images(split)[index % len(images(split))]
  rng = np.random.default_rng([seed, drawing.SALT[split], index])
  shot, phase = drawing.shots(rng, config.length, config.shot)
  shots = int(shot[-1]) + 1

  pose = _drift(_pose(rng, config, shots), shot, phase)
  paper, pen = (_drift(c, shot, phase) for c in drawing.colors(rng, config.contrast, shots))
  digit = drawing.draw(drawing.template(ink[image]), pose, config.size)
  digit = digit.reshape(config.length, -1, 1)
  paper = drawing.bilinear(config.size) @ paper.reshape(config.length, 9, 3)
  frames = paper + (pen[:, None] - paper) * digit
  frames = (np.clip(frames, 0, 1) * 255 + 0.5).astype(np.uint8)
  return frames.reshape(config.length, config.size, config.size, 3), int(label[image])
