"""Makes videos whose classes differ by how a handwritten digit moves, and by nothing else.

There are six pairs of classes. The videos of a pair's second class are those of its first with the
order of the frames reversed:

| first class | second class | movement |
|---|---|---|
| right_slow | left_slow | straight, by a sixth to a quarter of the frame in 8 frames |
| right_fast | left_fast | straight, by half to four fifths of the frame in 8 frames |
| down | up | straight, at any speed from slow to fast |
| clockwise | counterclockwise | along a circle, at constant speed |
| speeding_up | slowing_down | straight in any direction; every 8 frames the speed starts again |
| horizontal_vertical | vertical_horizontal | one after the other, then a rest, every 8 frames |

A video is a sequence of shots. Its movement stays the same, with its speed and direction. At each
cut the image of the digit, its start, size, slant and colors and the background are drawn anew, of
all ten digits, from one distribution for all classes.

A single frame says nothing about the class. What leaves the frame at one edge enters it at the
opposite one, and the start is uniform over the frame: so the position is uniform in each frame,
whatever the movement, and independent of how the digit looks. The set of frames without their order
(and so the average frame) may tell the pair, but never which of its two classes: what ignores the
order of frames is right in at most half of the videos on average.

Mirroring, a rotation by 90 degrees and reversed time turn one class into another, so augmentation
must do none of them. Inverted or other colors, blur and crops keep the class.

Images of training videos come from other forms than those of test videos, see `drawing`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.digits import drawing
from vssl_jax.errors import UserError

PAIRS = (
  ("right_slow", "left_slow"),
  ("right_fast", "left_fast"),
  ("down", "up"),
  ("clockwise", "counterclockwise"),
  ("speeding_up", "slowing_down"),
  ("horizontal_vertical", "vertical_horizontal"),
)
CLASSES = tuple(name for pair in PAIRS for name in pair)
FPS = 8.0  # frames per second, for spans in seconds
VIDEOS = {"train": 1440, "test": 384}  # 120 and 32 of each class
_CYCLE = 8  # frames after which a movement of the last two pairs begins again


@dataclasses.dataclass(frozen=True)
class MotionConfig:
  """How the videos look and move; each pair is the range of a uniform draw.

  Attributes:
    length: frames per video.
    size: side of the square frame, pixels.
    shot: frames from one cut to the next (integers, both ends included).
    scale: side of the digit's 8 × 8 cells, as a share of the frame's side.
    rotation: rotation of the digit, radians; it stays the same while the digit moves.
    shear: slant added to that of the handwriting, horizontal over vertical.
    contrast: difference in lightness between ink and paper; lightness is in [0, 1].
    slow: speed of slow movements, as a share of the frame's side per frame.
    fast: speed of fast movements.
    steady: speed on the circle, and of the movements one after the other.
    turn: change of direction on the circle, radians per frame.
    peak: highest speed of movements that speed up.
    tilt: direction of horizontal and vertical movements relative to the axis, radians.

  Raises:
    UserError: a count below 1, or a range that is empty or out of bounds.
  """

  length: int = 48
  size: int = 32
  shot: tuple[int, int] = (12, 20)
  scale: tuple[float, float] = (0.3, 0.45)
  rotation: tuple[float, float] = (-0.25, 0.25)
  shear: tuple[float, float] = (-0.2, 0.2)
  contrast: tuple[float, float] = (0.5, 0.8)
  slow: tuple[float, float] = (0.02, 0.03)
  fast: tuple[float, float] = (0.07, 0.1)
  steady: tuple[float, float] = (0.05, 0.09)
  turn: tuple[float, float] = (0.3, 0.5)
  peak: tuple[float, float] = (0.1, 0.14)
  tilt: tuple[float, float] = (-0.25, 0.25)

  def __post_init__(self):
    for name in ("length", "size"):
      if getattr(self, name) < 1:
        raise UserError(f"motion: {name} is {getattr(self, name)}; set it to 1 or more")
    bounds = {"shot": (1, np.inf), "scale": (0.01, 0.6), "contrast": (0, 1), "turn": (0, np.pi)}
    bounds |= dict.fromkeys(("slow", "fast", "steady", "peak"), (0, 0.5))
    for name, (low, high) in bounds.items():
      a, b = getattr(self, name)
      if not low <= a <= b <= high:
        raise UserError(
          f"motion: {name} is ({a}, {b}); its two values must be ascending and in [{low}, {high}]"
        )


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a video shows, before it is drawn.

  Attributes:
    label: the class, an index into `CLASSES`.
    shot: int `[L]`, the shot of each frame.
    position: float32 `[L, 2]` in [0, 1), the digit's center in each frame, vertical and horizontal,
      as a share of the frame's side.
    image: int `[S]`, the image in each shot, an index into scikit-learn's digits.
    shape: float32 `[S, 3]`, scale, rotation and shear in each shot.
    paper: float32 `[S, 3, 3, 3]`, RGB on a 3 × 3 grid.
    ink: float32 `[S, 3]`, RGB.
  """

  label: int
  shot: np.ndarray
  position: np.ndarray
  image: np.ndarray
  shape: np.ndarray
  paper: np.ndarray
  ink: np.ndarray


def num_videos(split: str) -> int:
  """Number of videos in a split: 1,440 train and 384 test."""
  drawing.images(split)  # checks the name
  return VIDEOS[split]


def _polar(speed: np.ndarray | float, angle: np.ndarray) -> np.ndarray:
  """Steps `[L, 2]`, vertical and horizontal; at angle 0 to the right, at π / 2 down."""
  return np.stack([speed * np.sin(angle), speed * np.cos(angle)], axis=-1)


def _steps(
  rng: np.random.Generator, pair: int, config: MotionConfig, time: np.ndarray
) -> np.ndarray:
  """The movement of a pair's first class, from each frame to the next.

  Args:
    rng: source of the draws, one of each for the whole video.
    pair: index into `PAIRS`.
    config: see `MotionConfig`.
    time: int `[L]`, frames since a random moment before the frame's shot.

  Returns:
    float `[L, 2]`, vertical and horizontal, as a share of the frame's side.
  """
  tilt, anywhere = rng.uniform(*config.tilt), rng.uniform(0, 2 * np.pi)
  signs = rng.choice([-1.0, 1.0], size=2)
  slow, fast, steady, peak = (
    rng.uniform(*r) for r in (config.slow, config.fast, config.steady, config.peak)
  )
  any_speed, turn = rng.uniform(config.slow[0], config.fast[1]), rng.uniform(*config.turn)
  still, cycle = np.zeros(len(time)), time % _CYCLE
  if pair in (0, 1):
    return _polar((slow, fast)[pair], still + tilt)
  if pair == 2:
    return _polar(any_speed, still + np.pi / 2 + tilt)
  if pair == 3:
    return _polar(steady, anywhere + turn * time)
  if pair == 4:
    return _polar(peak * (cycle + 0.5) / _CYCLE, still + anywhere)
  across, along = cycle < 3, (cycle >= 3) & (cycle < 6)
  return steady * np.stack([signs[0] * along, signs[1] * across], axis=-1)


def draw_plan(
  rng: np.random.Generator,
  label: int,
  images: Sequence[int] | np.ndarray,
  config: MotionConfig = MotionConfig(),
) -> Plan:
  """Draws a video of a class.

  Args:
    rng: source of the draws; in the same state, it gives both classes of a pair the same frames, in
      opposite orders.
    label: the class, an index into `CLASSES`.
    images: the images to draw from.
    config: see `MotionConfig`.
  """
  pair, backwards = divmod(label, 2)
  shot, _ = drawing.shots(rng, config.length, config.shot)
  shots = int(shot[-1]) + 1
  frame = np.arange(config.length)
  first = np.searchsorted(shot, np.arange(shots))  # frame of each shot
  phase = rng.integers(0, _CYCLE, size=shots)
  steps = _steps(rng, pair, config, frame + phase[shot])
  moved = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)[:-1]])
  start = rng.uniform(size=(shots, 2))
  position = (start[shot] + moved - moved[first[shot]]) % 1
  ranges = (config.scale, config.rotation, config.shear)
  shape = np.stack([rng.uniform(*r, size=shots) for r in ranges], axis=-1)
  paper, ink = (c[0] for c in drawing.colors(rng, config.contrast, shots))
  image = np.asarray(images)[rng.integers(0, len(images), size=shots)]
  if backwards:
    shot, position = shot[::-1], position[::-1]
  arrays = (x.astype(np.float32) for x in (shape, paper, ink))
  return Plan(label, shot, position.astype(np.float32), image, *arrays)


def plan(index: int, split: str, seed: int = 0, config: MotionConfig = MotionConfig()) -> Plan:
  """What a video shows; see `video` for the arguments and errors."""
  if not 0 <= index < num_videos(split):
    raise UserError(
      f"motion: video {index} of split {split!r} does not exist; "
      f"it has videos 0 to {num_videos(split) - 1}"
    )
  rng = np.random.default_rng([seed, 2 + drawing.SALT[split], index])
  return draw_plan(rng, index % len(CLASSES), drawing.images(split), config)


def draw(shown: Plan, size: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
  """Draws frames of a video.

  Args:
    shown: what the video shows.
    size: side of the frames, pixels.
    frames: numbers of the frames.

  Returns:
    uint8 `[len(frames), size, size, 3]`.
  """
  ink, _ = drawing.load()
  out = np.zeros((len(frames), size, size, 3), np.uint8)
  shot = shown.shot[np.asarray(frames)]
  for s in np.unique(shot):
    (rows,) = np.nonzero(shot == s)
    position = shown.position[np.asarray(frames)[rows]]
    pose = np.concatenate([position, np.tile(shown.shape[s], (len(rows), 1))], axis=1)
    # Small digits: the mean of 2 × 2 samples per pixel, so that parts of a pixel can be seen.
    fine = drawing.draw(drawing.template(ink[shown.image[s]]), pose, 2 * size, wrap=True)
    digit = fine.reshape(len(rows), size, 2, size, 2).mean((2, 4))[..., None]
    paper = (drawing.bilinear(size) @ shown.paper[s].reshape(9, 3)).reshape(size, size, 3)
    pixels = paper + (shown.ink[s] - paper) * digit
    out[rows] = (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
  return out


def video(
  index: int, split: str, seed: int = 0, config: MotionConfig = MotionConfig()
) -> tuple[np.ndarray, int]:
  """Makes one video.

  Args:
    index: number of the video, in `[0, num_videos(split))`.
    split: "train" or "test".
    seed: another seed gives other videos; the images of a split stay the same.
    config: see `MotionConfig`.

  Returns:
    Frames uint8 `[L, H, W, 3]` and the class, an index into `CLASSES`. The same arguments give the
    same bytes.

  Raises:
    UserError: the split does not exist, or has no such video.
  """
  shown = plan(index, split, seed, config)
  return draw(shown, config.size, range(config.length)), shown.label
