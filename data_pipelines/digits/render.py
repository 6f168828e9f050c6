"""Makes videos from the handwritten digits in scikit-learn, with NumPy alone and no download.

A video shows the same image of a digit in a sequence of short shots; only the image stays the same.
At each cut, the digit's place, size, slant, motion and colors and the background are drawn anew;
within a shot they drift. So two clips of a video share the handwriting and, if they fall into the
same shot, its look. The look says nothing about the class. The ink is lighter than the paper as
often as darker, so a linear classifier of pixels or colors is near chance.

The 1,797 images come from fourteen copies of one form, filled in by hand, with the same digits in
the same order. The split is by forms: the first eleven are for training, the last three for
testing. So no image and no form is in both splits.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from vssl_jax.errors import UserError

CLASSES = tuple("0123456789")
FPS = 8.0  # frames per second, for spans in seconds; a shot lasts between half a second and one
FIRST_TEST_IMAGE = 1415  # first image of the twelfth form
_CELLS = 8  # side of scikit-learn's images, cells
_MARGIN = 2  # blank cells added around a digit
_FINE = 8  # template pixels per cell
_SIDE = (_CELLS + 2 * _MARGIN) * _FINE  # side of a template, pixels
_SALT = {"train": 0, "test": 1}


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


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
  """Loads ink `[1797, 8, 8]` float32 in [0, 1] and class `[1797]`, in the file's order."""
  from sklearn.datasets import load_digits  # takes a second to import

  data = load_digits()
  return (data.images / 16.0).astype(np.float32), data.target.astype(np.int32)


def images(split: str) -> np.ndarray:
  """The images of a split, as indices into scikit-learn's digits, in the file's order.

  Raises:
    UserError: if `split` is neither "train" nor "test".
  """
  if split not in _SALT:
    raise UserError(f"digits: split {split!r} does not exist; use 'train' or 'test'")
  n = len(_load()[0])
  return np.arange(FIRST_TEST_IMAGE) if split == "train" else np.arange(FIRST_TEST_IMAGE, n)


def num_videos(split: str, config: DigitsConfig = DigitsConfig()) -> int:
  """Number of videos in a split; with one video per image, 1,415 train and 382 test."""
  return len(images(split)) * config.videos_per_image


@functools.cache
def _upscale() -> np.ndarray:
  """Matrix `[_SIDE, _CELLS]`: Catmull-Rom from cells (0 outside) to template pixels."""
  position = (np.arange(_SIDE) + 0.5) / _FINE - 0.5 - _MARGIN
  d = np.abs(position[:, None] - np.arange(_CELLS)[None, :])
  near = 1.5 * d**3 - 2.5 * d**2 + 1
  far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
  return np.where(d < 1, near, np.where(d < 2, far, 0)).astype(np.float32)


def _template(ink: np.ndarray) -> np.ndarray:
  """Smoothly upscaled ink with a blank margin: `[8, 8]` to `[_SIDE, _SIDE]`, in [0, 1]."""
  up = _upscale()
  return np.clip(up @ ink @ up.T, 0.0, 1.0)


def _shots(rng: np.random.Generator, config: DigitsConfig) -> tuple[np.ndarray, np.ndarray]:
  """The shot of each frame `[L]`, and the frame's relative position in it `[L]`, in [0, 1)."""
  low, high = config.shot
  lengths = rng.integers(low, high + 1, size=config.length // low + 2)
  ends = np.cumsum(lengths) - rng.integers(0, low)  # the first shot has begun before frame 0
  frame = np.arange(config.length)
  shot = np.searchsorted(ends, frame, side="right")
  return shot, ((frame - (ends - lengths)[shot]) / lengths[shot]).astype(np.float32)


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


def _draw(template: np.ndarray, pose: np.ndarray, size: int) -> np.ndarray:
  """Draws the template `[_SIDE, _SIDE]` in the poses `[L, 5]` of `_pose`: ink `[L, size, size]`."""
  down, across, scale, angle, shear = pose.T[..., None, None]
  grid = (np.arange(size, dtype=np.float32) + 0.5) / size
  dy = (grid[None, :, None] - down) * (_CELLS * _FINE / scale)
  dx = (grid[None, None, :] - across) * (_CELLS * _FINE / scale)
  cos, sin = np.cos(angle), np.sin(angle)
  # Nearest-neighbor sampling is enough: two or three template pixels lie in each frame pixel.
  y = (cos * dy - sin * dx + _SIDE / 2).astype(np.int32)
  x = (sin * dy + cos * dx + shear * dy + _SIDE / 2).astype(np.int32)
  return template[np.clip(y, 0, _SIDE - 1), np.clip(x, 0, _SIDE - 1)]  # the margin is blank


def _colors(
  rng: np.random.Generator, config: DigitsConfig, shots: int
) -> tuple[np.ndarray, np.ndarray]:
  """Colors at the two ends of each shot.

  Paper is RGB on a 3 × 3 grid, `[2, shots, 3, 3, 3]`; ink is `[2, shots, 3]`. The ink is lighter or
  darker than the paper with equal probability; the tints are small compared with the contrast.
  """
  contrast = rng.uniform(*config.contrast, size=shots)
  middle = rng.uniform(contrast / 2, 1 - contrast / 2)
  half = rng.choice([-0.5, 0.5], size=shots) * contrast
  paper_tint = rng.normal(0, 0.12, (2, shots, 1, 1, 3)) + rng.normal(0, 0.1, (2, shots, 3, 3, 3))
  paper = (middle - half)[:, None, None, None] + paper_tint
  ink = (middle + half)[:, None] + rng.normal(0, 0.15, (2, shots, 3))
  return paper, ink


@functools.cache
def _bilinear(size: int) -> np.ndarray:
  """Matrix `[size², 9]` of linear interpolation from a 3 × 3 grid to the pixels of a square."""
  position = np.linspace(0, 2, size, dtype=np.float32)
  line = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(3, dtype=np.float32)))
  return np.kron(line, line)


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
  ink, label = _load()
  image = images(split)[index % len(images(split))]
  rng = np.random.default_rng([seed, _SALT[split], index])
  shot, phase = _shots(rng, config)
  shots = int(shot[-1]) + 1

  pose = _drift(_pose(rng, config, shots), shot, phase)
  paper, pen = (_drift(c, shot, phase) for c in _colors(rng, config, shots))
  digit = _draw(_template(ink[image]), pose, config.size).reshape(config.length, -1, 1)
  paper = _bilinear(config.size) @ paper.reshape(config.length, 9, 3)
  frames = paper + (pen[:, None] - paper) * digit
  frames = (np.clip(frames, 0, 1) * 255 + 0.5).astype(np.uint8)
  return frames.reshape(config.length, config.size, config.size, 3), int(label[image])
