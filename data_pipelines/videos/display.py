"""How a video's frames are to be shown: which way up, mirrored or not, with which aspect ratio."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from data_pipelines.source import MOST_ASPECT, MOST_PIXELS
from data_pipelines.videos.damage import UnreadableError

# What makes PyAV resize on one thread, if it knows other ways.
_ONE_THREAD: dict[str, Any] = (
  {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}
)
_QUARTER = 1.0  # degrees; a rotation this close to a quarter turn is one
# Sample aspect ratios this close to 1 come from rounding sizes to even numbers; not worth a pixel.
_SQUARE = 0.01
_WIDEST = 16.0  # no camera has pixels this much wider than high; larger ratios are broken headers


@dataclasses.dataclass(frozen=True)
class Pose:
  """How to turn stored frames into upright ones: mirror, then turn.

  Attributes:
    mirrored: mirror left and right first.
    turns: clockwise quarter turns, 0 to 3.
    tilt: clockwise rotation about the center instead of quarter turns, degrees, within the size of
      the stored frame; 0 for none.
  """

  mirrored: bool = False
  turns: int = 0
  tilt: float = 0.0

  @property
  def sideways(self) -> bool:
    """Whether width and height change places."""
    return self.turns % 2 == 1

  def apply(self, pixels: np.ndarray) -> np.ndarray:
    """Mirrors and turns a picture, uint8 `[H, W, 3]`; the corners of a tilted one are black."""
    if self.mirrored:
      pixels = pixels[:, ::-1]
    if self.tilt:
      image = Image.fromarray(np.ascontiguousarray(pixels))
      return np.asarray(image.rotate(-self.tilt, Image.Resampling.BICUBIC))
    return np.rot90(pixels, -self.turns)


UPRIGHT = Pose()


def reformat(
  reformatter: VideoReformatter, frame: av.VideoFrame, size: tuple[int, int], format: str
) -> av.VideoFrame:
  """Resizes a frame, bicubic, on one thread, like all work of a decoding process.

  By default, newer versions of PyAV divide each frame among a thread per core: small frames then
  take four times the CPU time, and wait for threads where other processes use the cores.

  Args:
    reformatter: keeps what it computes for frames of one size.
    frame: the frame.
    size: width and height of the result, pixels.
    format: of its pixels, by FFmpeg's name.
  """
  width, height = size
  return reformatter.reformat(
    frame, width=width, height=height, format=format, interpolation="BICUBIC", **_ONE_THREAD
  )


def pose(frame: av.VideoFrame) -> Pose:
  """The pose that a frame's display matrix asks for; `UPRIGHT` if it has none.

  The matrix maps stored positions to shown ones. Its scale is in the aspect ratio already, and its
  shift has no meaning for a single picture.
  """
  found = frame.side_data.get("DISPLAYMATRIX")
  return UPRIGHT if found is None else pose_of(np.frombuffer(bytes(cast(Any, found)), np.int32))


def pose_of(matrix: np.ndarray) -> Pose:
  """The pose of a display matrix.

  Args:
    matrix: int32 `[9]`, (a, b, u, c, d, v, x, y, w) of ISO 14496-12: a stored position (p, q) is
      shown at (a·p + c·q + x, b·p + d·q + y), both with q downwards.
  """
  a, b, _, c, d = (float(x) for x in matrix[:5])
  mirrored = a * d - b * c < 0
  across = (-a, -b) if mirrored else (a, b)  # where the right side of the (mirrored) frame goes
  if across == (0.0, 0.0):
    return UPRIGHT  # the matrix of a broken header
  degrees = math.degrees(math.atan2(across[1], across[0]))
  turns = round(degrees / 90)
  if abs(degrees - 90 * turns) > _QUARTER:
    return Pose(mirrored, 0, degrees)
  return Pose(mirrored, turns % 4)


def stretch(ratio: float | None) -> float | None:
  """The factor of a frame's width that makes its pixels square.

  Args:
    ratio: sample aspect ratio, width over height of a pixel; None or 0 if unknown.

  Returns:
    The factor; 1 for pixels that are square but for rounding; None if the ratio makes no sense.
  """
  if not ratio or abs(ratio - 1) <= _SQUARE:
    return 1.0
  return ratio if 1 / _WIDEST <= ratio <= _WIDEST else None


def shown(frame: av.VideoFrame, factor: float) -> tuple[float, float]:
  """Width and height of a frame with square pixels, before it is turned and sizes are rounded."""
  return frame.width * factor, frame.height


def check_size(size: tuple[float, float]) -> None:
  """Checks that frames of this width and height, pixels, can be resized and stored.

  Raises:
    UnreadableError: they are too large, or too narrow.
  """
  if max(size) > MOST_ASPECT * min(size) or math.prod(size) > MOST_PIXELS:
    raise UnreadableError(
      f"its frames are {round(size[0])} x {round(size[1])}: at most {MOST_PIXELS:,} pixels, and "
      f"sides of 1 to {MOST_ASPECT}, can be decoded"
    )
