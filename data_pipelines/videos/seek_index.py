"""Where the frames of a video are: their times, and the keyframes from which they can be decoded.

The frames and times are those of `container.Source`, by which `prepare` stores them. In MP4, MOV,
MKV and WebM they are read from the packets, without decoding. Other containers, and files with any
fault, are decoded once from their beginning, and so is each clip of them.
"""

from __future__ import annotations

import dataclasses
import fractions
import hashlib
import itertools
import json
import os
import pathlib
import types
from typing import Any

import av
import numpy as np

from data_pipelines.videos import container, decode, display
from data_pipelines.videos.damage import UnreadableError
from vssl_jax import files
from vssl_jax.errors import UserError

_FORMAT = 1  # of the files in the cache
# Containers whose packets have times that say which frames are shown, and when.
_TIMED = frozenset({"mov", "matroska"})
_CHECKED = 8  # first frames of which the times by packets and by frames are compared
# What storages call the version of an object or the time of its change, the best one first.
_VERSIONS = ("ETag", "etag", "generation", "LastModified", "last_modified", "mtime", "created")
TICK = 1e-9  # seconds; two times this close are equal


@dataclasses.dataclass(frozen=True)
class Reading:
  """What else decides which frames a file has; see `decode.FrameSettings`."""

  stream_fps: float = 0.0
  max_gap: float = 0.0


@dataclasses.dataclass(frozen=True)
class SeekIndex:
  """The frames of a video file.

  Attributes:
    times: seconds of each frame, increasing, float64 `[L]`.
    pts: the same in the file's units, int64 `[L]`; `[0]` if frames cannot be found by their times,
      so that they are counted from the beginning.
    keys: times of the keyframes in the file's units, int64 `[K, 2]`: when they are shown, and when
      they are decoded.
    declared_fps: frames per second by the header; 0 if it has none.
    aspect: factor of a frame's width that makes its pixels square.
    size: width and height of the first frame as it is stored, pixels.
    sideways: whether it is shown turned by a quarter.
    notes: what is wrong with the file.
  """

  times: np.ndarray
  pts: np.ndarray
  keys: np.ndarray
  declared_fps: float
  aspect: float
  size: tuple[int, int]
  sideways: bool
  notes: tuple[str, ...] = ()

  def __post_init__(self):
    count, increasing = len(self.times), np.all(np.diff(self.times) > 0)
    timed = len(self.pts) == count and len(self.keys) and np.all(np.diff(self.pts) > 0)
    sound = self.times.shape == (count,) and self.keys.shape[1:] == (2,) and self.pts.ndim == 1
    kinds = [x.dtype.kind for x in (self.times, self.pts, self.keys)]
    if not (count and sound and increasing and (timed or not len(self.pts)) and kinds == [*"fii"]):
      raise ValueError("the arrays of an index do not fit each other")

  def begins(self, times: np.ndarray, count: int) -> bool:
    """Whether the first `count` frames, or all, have these times."""
    agree = len(times) == min(count, len(self.times))
    return agree and bool(np.abs(self.times[: len(times)] - times).max() <= TICK)

  def group_of(self, number: int) -> tuple[int, int]:
    """The keyframe that a frame is decoded from: its row in `keys`, and the number of its frame."""
    return group_of(self.pts, self.keys, number)


def group_of(pts: np.ndarray, keys: np.ndarray, number: int) -> tuple[int, int]:
  """See `SeekIndex.group_of`."""
  row = max(0, int(np.searchsorted(keys[:, 0], pts[number], "right")) - 1)
  return row, int(np.searchsorted(pts, keys[row, 0]))


def make(path: str | os.PathLike, reading: Reading = Reading()) -> SeekIndex:
  """Reads a video file, or what an address names, and returns where its frames are.

  Raises:
    UnreadableError: `prepare` would call it unreadable, too.
  """
  with decode.copied(path) as file, decode.explained():
    how = dataclasses.asdict(reading)
    source = container.Source(file, **how)
    head = list(itertools.islice(source, _CHECKED))
    if not head:
      raise UnreadableError("no frames")
    first = head[0][1]
    shape = (first.width, first.height), display.pose(first).sideways
    found = by_packets(file, reading, shape)
    if found is not None and found.begins(np.array([time for time, _ in head]), _CHECKED):
      return found
    source = container.Source(file, **how)
    times = np.array([time for time, _ in source], np.float64)
    none = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    return SeekIndex(times, *none, source.declared_fps, source.aspect, *shape, source.notes)


def by_packets(
  file: pathlib.Path, reading: Reading, shape: tuple[tuple[int, int], bool]
) -> SeekIndex | None:
  """The index by the packets alone; None if they do not tell all.

  Args:
    file: the video.
    reading: see `make`.
    shape: size of the first frame, and whether it is sideways.
  """
  packets = _Packets(file, **dataclasses.asdict(reading))
  try:
    shown = [(time, frame.pts) for time, frame in packets]
  except UnreadableError:  # perhaps it is; decoding tells
    return None
  if not shown or not packets.sound:
    return None
  times, pts = np.array([t for t, _ in shown]), np.array([p for _, p in shown], np.int64)
  keys = np.array(sorted(packets.keys), np.int64).reshape(-1, 2)
  facts = packets.declared_fps, packets.aspect, *shape, packets.notes
  return SeekIndex(times, pts, keys, *facts)


class _Packets(container.Source):
  """A `container.Source` whose frames are empty, made of packets in the order of their times.

  Attributes:
    keys: when each keyframe is shown, and when it is decoded.
    sound: whether the packets tell which frames are shown.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self.keys: list[tuple[int, int]] = []
    self.sound = True
    self._shown: list[int] = []

  def _describe(
    self,
    container: Any,
    stream: av.VideoStream,
    base: fractions.Fraction,
    names: list[str],
  ) -> None:
    super()._describe(container, stream, base, names)
    self.sound = not _TIMED.isdisjoint(names)
    if not self.sound:
      raise UnreadableError("its packets have no reliable times")

  def _decode(self, context: av.VideoCodecContext, packet: av.Packet) -> list[Any]:
    if not packet.size:
      shown = sorted(self._shown)
      self.sound = self.sound and len(set(shown)) == len(shown) and not self._account.lost
      return [types.SimpleNamespace(pts=pts, is_corrupt=False) for pts in shown]
    if packet.pts is None or packet.is_corrupt or not (self.keys or packet.is_keyframe):
      self.sound = False
      return []
    if packet.is_keyframe:
      self.keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
    if container.is_shown(context, packet):
      self._shown.append(packet.pts)
    return []


def cached(folder: pathlib.Path, path: str, reading: Reading = Reading()) -> SeekIndex:
  """The index of a video from the cache; made and stored if it is not there, old or damaged.

  Args:
    folder: of the cache.
    path: the video file or its address.
    reading: see `make`.

  Raises:
    UnreadableError: see `make`.
    UserError: the cache cannot be written.
  """
  own, now = place(folder, path, reading), stamp(path)
  if now is None:
    raise UnreadableError("no such file")
  if (found := _stored(own, now)) is not None:
    return found
  made = make(path, reading)
  if stamp(path) != now:
    raise UnreadableError("it was changed while it was read", passing=True)
  about = {
    "format": _FORMAT,
    "stamp": list(now),
    "declared_fps": made.declared_fps,
    "aspect": made.aspect,
    "size": list(made.size),
    "sideways": made.sideways,
    "notes": list(made.notes),
  }
  try:
    own.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(own) as file:
      text = np.frombuffer(json.dumps(about).encode(), np.uint8)
      np.savez_compressed(file, about=text, times=made.times, pts=made.pts, keys=made.keys)
  except OSError as error:
    raise UserError(
      f"config.data.videos.cache: {own.parent} cannot be written ({error.strerror or error}); set "
      "it to a folder that can be."
    ) from None
  return made


def place(folder: pathlib.Path, path: str, reading: Reading) -> pathlib.Path:
  """The file of a video's index in a cache."""
  key = json.dumps([files.absolute(path), dataclasses.astuple(reading)])
  name = hashlib.sha256(key.encode()).hexdigest()[:40]
  return folder / name[:2] / f"{name[2:]}.npz"


def stamp(path: str) -> tuple[int, int] | None:
  """Size in bytes and time of the last change in nanoseconds; None without file.

  In a bucket, the latter is a number for its version, by whatever the storage tells of that.
  """
  try:
    if files.is_address(path):
      return _stamp_of_object(path)
    status = os.stat(path)
  except FileNotFoundError:
    return None
  except OSError as error:
    if files.is_address(path):
      raise
    raise UnreadableError(f"cannot be opened: {error.strerror or error}", passing=True) from None
  except ValueError as error:  # a NUL in its name
    raise UnreadableError(f"cannot be opened: {error}") from None
  return status.st_size, status.st_mtime_ns


def _stamp_of_object(path: str) -> tuple[int, int]:
  system, key = files.system_of(path)
  with files.storage_errors(path):
    about = system.info(key)
  known = [str(about[name]) for name in _VERSIONS if about.get(name)]
  version = int(hashlib.sha256(known[0].encode()).hexdigest()[:12], 16) if known else 0
  return int(about["size"]), version


def _stored(own: pathlib.Path, now: tuple[int, int]) -> SeekIndex | None:
  try:
    arrays = files.read_npz(own)
    about = json.loads(arrays["about"].tobytes())
    if (about["format"], about["stamp"]) != (_FORMAT, list(now)):
      return None
    return SeekIndex(
      times=arrays["times"],
      pts=arrays["pts"],
      keys=arrays["keys"],
      declared_fps=float(about["declared_fps"]),
      aspect=float(about["aspect"]),
      size=(int(about["size"][0]), int(about["size"][1])),
      sideways=bool(about["sideways"]),
      notes=tuple(map(str, about["notes"])),
    )
  except Exception:  # whatever is wrong with it, it is made anew
    return None
