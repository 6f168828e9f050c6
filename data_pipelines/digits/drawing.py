"""The handwritten digits in scikit-learn, and how they are drawn into frames, with NumPy alone.

The 1,797 images come from fourteen copies of one form, filled in by hand, with the same digits in
the same order. The split is by forms: the first eleven are for training, the last three for
testing. So no image and no form is in both splits.
"""

from __future__ import annotations

import functools

import numpy as np

from vssl_jax.errors import UserError

FIRST_TEST_IMAGE = 1415  # first image of the twelfth form
SALT = {"train": 0, "test": 1}  # of the splits, in keys of random numbers
_CELLS = 8  # side of scikit-learn's images, cells
_MARGIN = 2  # blank cells added around a digit
_FINE = 8  # template pixels per cell
_SIDE = (_CELLS + 2 * _MARGIN) * _FINE  # side of a template, pixels


@functools.cache
def load() -> tuple[np.ndarray, np.ndarray]:
  """Loads ink `[1797, 8, 8]` float32 in [0, 1] and class `[1797]`, in the file's order."""
  from sklearn.datasets import load_digits  # takes a second to import

  data = load_digits()
  return (data.images / 16.0).astype(np.float32), data.target.astype(np.int32)


def images(split: str) -> np.ndarray:
  """The images of a split, as indices into scikit-learn's digits, in the file's order.

  Raises:
    UserError: if `split` is neither "train" nor "test".
  """
  if split not in SALT:
    raise UserError(f"digits: split {split!r} does not exist; use 'train' or 'test'")
  n = len(load()[0])
  return np.arange(FIRST_TEST_IMAGE) if split == "train" else np.arange(FIRST_TEST_IMAGE, n)


@functools.cache
def upscale() -> np.ndarray:
  """Matrix `[_SIDE, _CELLS]`: Catmull-Rom from cells (0 outside) to template pixels."""
  position = (np.arange(_SIDE) + 0.5) / _FINE - 0.5 - _MARGIN
  d = np.abs(position[:, None] - np.arange(_CELLS)[None, :])
  near = 1.5 * d**3 - 2.5 * d**2 + 1
  far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
  return np.where(d < 1, near, np.where(d < 2, far, 0)).astype(np.float32)


def template(ink: np.ndarray) -> np.ndarray:
  """Smoothly upscaled ink with a blank margin: `[8, 8]` to `[_SIDE, _SIDE]`, in [0, 1]."""
  up = upscale()
  return np.clip(up @ ink @ up.T, 0.0, 1.0)


def shots(
  rng: np.random.Generator, length: int, bounds: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts a video into shots.

  Args:
    rng: source of the draws.
    length: L, frames of the video.
    bounds: smallest and largest number of frames from one cut to the next.

  Returns:
    The shot of each frame `[L]`, and the frame's relative position in it `[L]`, in [0, 1).
  """
  low, high = bounds
  lengths = rng.integers(low, high + 1, size=length // low + 2)
  ends = np.cumsum(lengths) - rng.integers(0, low)  # the first shot has begun before frame 0
  frame = np.arange(length)
  shot = np.searchsorted(ends, frame, side="right")
  return shot, ((frame - (ends - lengths)[shot]) / lengths[shot]).astype(np.float32)


def draw(template: np.ndarray, pose: np.ndarray, size: int, *, wrap: bool = False) -> np.ndarray:
  """Draws a digit in one pose per frame.

  Args:
    template: `[_SIDE, _SIDE]`, see `template`.
    pose: `[L, 5]`: vertical and horizontal center and scale, as shares of the frame's side;
      rotation, radians; shear, horizontal over vertical.
    size: side of the frame, pixels.
    wrap: what leaves the frame at one edge enters it at the opposite one; for scales up to 0.6.

  Returns:
    Ink `[L, size, size]`, in [0, 1].
  """
  down, across, scale, angle, shear = pose.T[..., None, None]
  grid = (np.arange(size, dtype=np.float32) + 0.5) / size
  dy, dx = grid[None, :, None] - down, grid[None, None, :] - across
  if wrap:
    dy, dx = (dy + 0.5) % 1 - 0.5, (dx + 0.5) % 1 - 0.5
  dy, dx = dy * (_CELLS * _FINE / scale), dx * (_CELLS * _FINE / scale)
  cos, sin = np.cos(angle), np.sin(angle)
  # Nearest-neighbor sampling is enough: two or three template pixels lie in each frame pixel.
  y = (cos * dy - sin * dx + _SIDE / 2).astype(np.int32)
  x = (sin * dy + cos * dx + shear * dy + _SIDE / 2).astype(np.int32)
  return template[np.clip(y, 0, _SIDE - 1), np.clip(x, 0, _SIDE - 1)]  # the margin is blank


def colors(
  rng: np.random.Generator, contrast: tuple[float, float], shots: int
) -> tuple[np.ndarray, np.ndarray]:
  """Colors at the two ends of each shot.

  Paper is RGB on a 3 × 3 grid, `[2, shots, 3, 3, 3]`; ink is `[2, shots, 3]`. The ink is lighter or
  darker than the paper with equal probability; the tints are small compared with the contrast.

  Args:
    rng: source of the draws.
    contrast: range of the difference in lightness between ink and paper.
    shots: number of shots.
  """
  difference = rng.uniform(*contrast, size=shots)
  middle = rng.uniform(difference / 2, 1 - difference / 2)
  half = rng.choice([-0.5, 0.5], size=shots) * difference
  paper_tint = rng.normal(0, 0.12, (2, shots, 1, 1, 3)) + rng.normal(0, 0.1, (2, shots, 3, 3, 3))
  paper = (middle - half)[:, None, None, None] + paper_tint
  ink = (middle + half)[:, None] + rng.normal(0, 0.15, (2, shots, 3))
  return paper, ink


@functools.cache
def bilinear(size: int) -> np.ndarray:
  """Matrix `[size², 9]` of linear interpolation from a 3 × 3 grid to the pixels of a square."""
  position = np.linspace(0, 2, size, dtype=np.float32)
  line = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(3, dtype=np.float32)))
  return np.kron(line, line)
