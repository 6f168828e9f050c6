"""NumPy's files from anywhere: nothing is read that does not fit its file or fills the memory.

NumPy believes the shape that a header states, and an archive the sizes that it lists: a few hundred
bytes may ask for terabytes. Here, header, listing and file are compared before an array is made.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import zipfile
from collections.abc import Collection
from typing import Any, BinaryIO, cast

import numpy as np

from vssl_jax.errors import UserError, brief
from vssl_jax.files import contents
from vssl_jax.files.paths import StrPath

# Deflated numbers shrink to a half at best, masks and padding to a few percent.
MOST_EXPANDED = 1 << 30  # bytes of all arrays that are read, if their file is so much smaller:
MOST_RATIO = 100
_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


_HEAD = 10_064  # bytes of the longest header that NumPy reads, with what is before it


@dataclasses.dataclass(frozen=True)
class Header:
  """What a `.npy` file says about its array.

  Attributes:
    shape: its shape.
    dtype: type of its values.
    fortran: whether its first axis changes fastest.
    start: position of the first value, bytes.
  """

  shape: tuple[int, ...]
  dtype: np.dtype[Any]
  fortran: bool
  start: int


def npy_header(path: StrPath) -> Header:
  """The header of a `.npy` file of plain values, compared with the size of the file.

  Raises:
    OSError: the file is missing or cannot be read.
    UserError: it is no such file, or shorter than its header says.
  """
  size, head = contents.size(path), contents.read_range(path, 0, _HEAD)
  try:
    return _described(io.BytesIO(head), size)
  except Exception as e:  # a damaged header makes NumPy raise many kinds
    raise UserError(f"{path} cannot be read ({_reason(e)})") from None


def npz_headers(path: StrPath) -> dict[str, Header]:
  """The headers of the arrays of an `.npz` file, by name; their starts are within each array.

  Raises:
    OSError: the file is missing or cannot be read.
    UserError: it is no archive, or damaged.
  """
  with contents.open_read(path) as file:
    try:
      with zipfile.ZipFile(file) as archive:
        found = {}
        for info in archive.infolist():
          with archive.open(info) as member:
            header = _described(cast(BinaryIO, member), info.file_size)
          found[info.filename.removesuffix(".npy")] = header
        return found
    except Exception as e:  # zipfile, zlib and NumPy have many kinds for a damaged file
      raise UserError(f"{path}: not a complete .npz file of numbers ({_reason(e)})") from None


def _described(file: BinaryIO, size: int) -> Header:
  shape, fortran, dtype = _header(file, size)
  return Header(shape, dtype, fortran, file.tell())


def read_npy(path: StrPath, *, mapped: bool = False) -> np.ndarray:
  """Reads a `.npy` file of plain values.

  Args:
    path: the file.
    mapped: memory-map the file, so that its values stay on disk until they are used.

  Raises:
    UserError: the file is missing, no `.npy` file, an archive, shorter than its header says, or
      holds Python objects.
  """
  try:
    size = contents.size(path)
    with contents.open_read(path) as file:
      if zipfile.is_zipfile(file):
        raise UserError(f"{path} is an archive of arrays, not one array")
      file.seek(0)
      shape, fortran, dtype = _header(cast(BinaryIO, file), size)
      start = file.tell()
      if mapped and 0 not in shape:
        return np.memmap(os.fspath(path), dtype, "r", start, shape, "F" if fortran else "C")
      file.seek(0)
      return np.lib.format.read_array(file, allow_pickle=False)
  except FileNotFoundError:
    raise UserError(f"{path} is missing") from None
  except UserError:
    raise
  except Exception as e:  # a damaged header makes NumPy raise many kinds
    raise UserError(f"{path} cannot be read ({_reason(e)})") from None


def read_npz(path: StrPath, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
  """Reads the arrays of an `.npz` file of plain values.

  Args:
    path: the file.
    names: the arrays to read, if they are there; None for all.

  Returns:
    Arrays by name.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: the file is no archive, is damaged, holds Python objects, or the arrays are
      compressed so much that together they would fill the memory.
  """
  try:
    with contents.open_read(path) as file, zipfile.ZipFile(file) as archive:
      total = file.seek(0, os.SEEK_END)
      listed = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
      chosen = listed if names is None else {k: listed[k] for k in names if k in listed}
      _check_sizes(path, chosen.values(), total)
      return {name: _member(archive, info) for name, info in chosen.items()}
  except (FileNotFoundError, UserError):
    raise
  except Exception as e:  # zipfile, zlib and NumPy have many kinds for a damaged file
    raise UserError(f"{path}: not a complete .npz file of numbers ({_reason(e)})") from None


def _check_sizes(path: StrPath, members: Collection[zipfile.ZipInfo], total: int) -> None:
  """Checks that members of an archive of `total` bytes would not fill the memory together."""
  # Members may share their bytes, so that their sizes add up to more than the file has.
  packed = min(max(sum(info.compress_size for info in members), 1), total)
  grown = sum(info.file_size for info in members)
  if grown > MOST_EXPANDED and grown > MOST_RATIO * packed:
    raise UserError(
      f"{path}: its arrays would grow from {packed:,} to {grown:,} bytes, more than {MOST_RATIO} "
      "times; save them with numpy.savez if they really are so large"
    )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
  if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
    raise ValueError(f"{info.filename} has two sizes")
  with archive.open(info) as file:
    _header(cast(BinaryIO, file), info.file_size)
  with archive.open(info) as file:
    array = np.lib.format.read_array(file, allow_pickle=False)
    while file.read(1 << 20):  # to the end, where zipfile compares the CRC
      pass
  return array


def _header(file: BinaryIO, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
  """The shape, memory order and type of an array whose file has `size` bytes."""
  version = np.lib.format.read_magic(file)
  if version not in _HEADERS:
    raise ValueError(f"its version {version} is unknown")
  shape, fortran, dtype = _HEADERS[version](file)
  if dtype.hasobject:
    raise ValueError("it holds Python objects, which could run any program")
  if any(n < 0 for n in shape):
    raise ValueError(f"its shape is {shape}")
  wanted = math.prod(shape) * dtype.itemsize
  if max(shape, default=0) >= 1 << 62 or wanted > size - file.tell():
    raise ValueError(f"it says {list(shape)} of {dtype}, which is more than the file has")
  return shape, fortran, dtype


def _reason(error: Exception) -> str:
  return "it is empty" if isinstance(error, EOFError) else brief(error)[:200]
