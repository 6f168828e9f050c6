"""Videos in NumPy's files: `.npy` or `.npz` with an array `[T, H, W, C]`, or `[T, H, W]` of C = 1.

They hold what no video format does: 12 bands of a satellite, or depths as floats, without loss. Of
a `.npy` file only the wanted frames are read, here or from a bucket; of an `.npz` file all of them.
A header that asks for more than its file has is not believed.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence

import numpy as np

from data_pipelines import pixels
from data_pipelines.source import MOST_ASPECT, MOST_PIXELS
from vssl_jax import files
from vssl_jax.errors import UserError

EXTENSIONS = frozenset({".npy", ".npz"})  # as `listing.finding.ARRAYS`
_MOST_BYTES = 2 << 30  # of the frames of one request, as they are stored


class BadArrayError(Exception):
  """An array cannot be read as a video; the message says why, without the file's name."""


@dataclasses.dataclass(frozen=True)
class Array:
  """What the header of a file says.

  Attributes:
    path: the file or its address.
    length: T, number of frames.
    size: height and width of the frames, pixels.
    channels: C.
    dtype: type of the values, as NumPy writes it.
    start: position of the first frame in the file, bytes; −1 in an archive.
    size_bytes: size of the file.
  """

  path: str
  length: int
  size: tuple[int, int]
  channels: int
  dtype: str
  start: int
  size_bytes: int

  @property
  def frame_bytes(self) -> int:
    """Bytes of a frame, as it is stored."""
    return math.prod(self.size) * self.channels * np.dtype(self.dtype).itemsize


def is_array(path: str | os.PathLike) -> bool:
  """Whether a file is an array, by its extension."""
  return os.path.splitext(str(path))[1].lower() in EXTENSIONS


def look(path: str) -> Array:
  """Reads the header of a file.

  Raises:
    BadArrayError: it is missing, damaged, or holds no video.
    OSError: its storage cannot be read now.
  """
  try:
    size = files.size(path)
    if str(path).lower().endswith(".npz"):
      found = files.npz_headers(path)
      if len(found) != 1:
        names = ", ".join(sorted(found)[:6]) or "none"
        raise BadArrayError(f"an archive with one array is needed, it has {len(found)}: {names}")
      header = dataclasses.replace(next(iter(found.values())), start=-1)
    else:
      header = files.npy_header(path)
  except FileNotFoundError:
    raise BadArrayError("no such file") from None
  except UserError as error:
    raise BadArrayError(str(error).removeprefix(f"{path} ").removeprefix(f"{path}: ")) from None
  shape = header.shape if len(header.shape) == 4 else (*header.shape, 1)
  if len(shape) != 4 or 0 in shape:
    raise BadArrayError(
      f"its shape is {list(header.shape)}: [T, H, W, C] is needed, of one or more"
    )
  if header.dtype.kind not in "buif":
    raise BadArrayError(f"its values are {header.dtype}, not real numbers")
  if header.fortran and header.start >= 0:
    raise BadArrayError("it is in Fortran's order: save numpy.ascontiguousarray of it")
  length, height, width, channels = shape
  short, long = sorted((height, width))
  if long > MOST_ASPECT * short or short * long > MOST_PIXELS:
    raise BadArrayError(
      f"its frames are {width} x {height}: at most {MOST_PIXELS:,} pixels, and sides of 1 to "
      f"{MOST_ASPECT}, can be read"
    )
  return Array(path, length, (height, width), channels, header.dtype.str, header.start, size)


def read(array: Array, frames: Sequence[int], bounds: Sequence[float] = ()) -> np.ndarray:
  """The wanted frames, uint8 `[n, H, W, C]`, in the order of the request.

  Args:
    array: what `look` returned.
    frames: their numbers, perhaps repeated.
    bounds: see `pixels.to_uint8`; () for values that are uint8.

  Raises:
    BadArrayError: the file has changed or is damaged, the frames would fill the memory, or a value
      is NaN or infinite.
    OSError: the storage cannot be read now.
  """
  wanted, places = np.unique(np.asarray(frames, np.int64), return_inverse=True)
  if len(wanted) * array.frame_bytes > _MOST_BYTES:
    raise BadArrayError(f"{len(wanted)} frames of {array.frame_bytes:,} bytes exceed 2 GB")
  shape, dtype = (*array.size, array.channels), np.dtype(array.dtype)
  found = np.empty((len(wanted), *shape), np.uint8)

  def put(row: int, frame: np.ndarray) -> None:
    try:
      found[row] = pixels.to_uint8(frame, bounds) if bounds else frame
    except pixels.ValueRangeError as error:
      raise BadArrayError(f"frame {wanted[row]}: {error}") from None

  try:
    if files.size(array.path) != array.size_bytes:
      raise BadArrayError("it was changed since it was opened")
    if array.start < 0:
      ((_, whole),) = files.read_npz(array.path).items()
      if whole.dtype != dtype or whole.size != array.length * math.prod(shape):
        raise BadArrayError("it was changed since it was opened")
      whole = whole.reshape(array.length, *shape)
      for row, number in enumerate(wanted):
        put(row, whole[number])
    else:
      with files.ranges(array.path) as part:
        for row, number in enumerate(wanted.tolist()):
          data = part(array.start + number * array.frame_bytes, array.frame_bytes)
          if len(data) != array.frame_bytes:
            raise BadArrayError(f"it ends within frame {number}")
          put(row, np.frombuffer(data, dtype).reshape(shape))
  except FileNotFoundError:
    raise BadArrayError("no such file") from None
  except UserError as error:
    raise BadArrayError(str(error).removeprefix(f"{array.path}: ")) from None
  return found[places.reshape(-1)]
