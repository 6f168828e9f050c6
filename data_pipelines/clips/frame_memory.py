"""Decoded frames of many videos in memory that all processes of a machine share.

The memory is a file of `/dev/shm`, or of a folder of a fast disk. Who comes first makes and fills
it, others wait; all map it. The last process to end removes it. A process that is killed leaves its
file: the next run of the same data uses it, and one of other data removes it. All this rests on one
`flock` per process, which the system releases however the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import pathlib
import tempfile
import threading
import weakref
from collections.abc import Callable

import numpy as np

from vssl_jax.errors import UserError

ALIGN = 64  # bytes; each frame starts at a multiple, where TensorFlow slices without copying
_PREFIX = "vssl-frames-"
_PAGE = 4096  # bytes
_COMPLETE = 0x46524D31  # of a file that is filled
_SPARE = 0.05  # share of the free memory that is left to the run
_ROW = np.dtype(
  [
    ("offset", "<i8"),  # of its first frame, bytes
    ("length", "<i8"),  # frames; 0: the video is not here
    ("height", "<i4"),
    ("width", "<i4"),
    ("label", "<i8"),  # −1: unknown
    ("fps", "<f8"),  # 0: unknown
  ]
)


def stride(height: int, width: int) -> int:
  """Bytes from one frame to the next."""
  return -(-height * width * 3 // ALIGN) * ALIGN


class Frames:
  """Frames of n videos.

  Attributes:
    rows: for each video `offset`, `length`, `height`, `width`, `label` and `fps`, `[n]`.
    pixels: all frames, uint8 `[bytes]`; frame t of a video starts at offset + t · stride.
  """

  def __init__(self, descriptor: int, count: int):
    self._descriptor = descriptor
    size = os.fstat(descriptor).st_size
    self._memory = mmap.mmap(descriptor, size)
    self._end = _begin(count)
    self._lock = threading.Lock()
    self._head = np.frombuffer(self._memory, np.uint64, 1)
    self.rows = np.frombuffer(self._memory, _ROW, count, offset=ALIGN)
    self.pixels = np.frombuffer(self._memory, np.uint8, size - self._end, offset=self._end)

  @property
  def held(self) -> np.ndarray:
    """Which videos are here, bool `[n]`."""
    return self.rows["length"] > 0

  def allocate(self, length: int, height: int, width: int) -> tuple[int, np.ndarray]:
    """Room for a video: its offset, and uint8 `[length, stride]` to write its frames to.

    Raises:
      UserError: there is no room.
    """
    each = stride(height, width)
    with self._lock:
      begin, self._end = self._end, self._end + length * each
      if self._end > len(self._memory):
        raise UserError("the videos have more frames than before they were counted")
      try:
        _reserve(self._descriptor, begin, length * each)
      except OSError as e:
        raise UserError(f"there is no more room for its frames ({e.strerror or e})") from None
    offset = begin - _begin(len(self.rows))
    return offset, self.pixels[offset : offset + length * each].reshape(length, each)

  def complete(self) -> None:
    """Marks the frames as complete, when all of them are written."""
    self._memory.flush()  # to a disk; after a crash of the machine, the mark is not there alone
    self._head[0] = _COMPLETE

  def picture(self, video: int, t: int) -> np.ndarray:
    """Frame t of a video, uint8 `[H, W, 3]`, a view."""
    row = self.rows[video]
    height, width = int(row["height"]), int(row["width"])
    begin = int(row["offset"]) + t * stride(height, width)
    return self.pixels[begin : begin + height * width * 3].reshape(height, width, 3)


def _reserve(descriptor: int, begin: int, size: int) -> None:
  """Takes room in a file; where a file system is full, writing to its map would end the process."""
  if hasattr(os, "posix_fallocate"):  # not on macOS
    os.posix_fallocate(descriptor, begin, size)


def _begin(count: int) -> int:
  """Where the frames begin, behind the rows."""
  return -(-(ALIGN + count * _ROW.itemsize) // _PAGE) * _PAGE


def find(folder: str, key: str, count: int) -> Frames | None:
  """The frames that a process of this machine holds, or left; None if they are not there whole.

  Args:
    folder: see `make`.
    key: digest of what they are made of.
    count: n, number of videos.
  """
  path = _path(folder, key)
  if not path.exists():
    return None
  try:
    descriptor = _opened(path, wait=False)
  except BlockingIOError:
    return None
  if _is_complete(descriptor, count):
    return _kept(descriptor, path, count)
  _release(descriptor, path)
  return None


def make(
  folder: str,
  key: str,
  count: int,
  *,
  need: Callable[[], int],
  fill: Callable[[Frames], None],
  where: str,
) -> Frames:
  """The frames, which are made if no process of this machine has made them yet.

  Args:
    folder: of a file system in memory, or of a fast disk; "" takes the machine's memory.
    key: digest of what they are made of.
    count: n, number of videos.
    need: counts the bytes of all frames.
    fill: writes the rows and frames.
    where: names the config's field, for errors.

  Raises:
    UserError: the memory is too small, or cannot be used.
  """
  path = _path(folder, key)
  _remove_unused(path)
  descriptor = _opened(path)
  try:
    while not _is_complete(descriptor, count):
      fcntl.flock(descriptor, fcntl.LOCK_EX)
      if not _is_current(descriptor, path):  # another process failed, and removed it
        os.close(descriptor)
        descriptor = -1  # if it cannot be opened again, there is none to release
        descriptor = _opened(path)
        continue
      if not _is_complete(descriptor, count):
        _fill(descriptor, path, count, need, fill, where)
      fcntl.flock(descriptor, fcntl.LOCK_SH)
  except BaseException:
    _release(descriptor, path)
    raise
  return _kept(descriptor, path, count)


def _kept(descriptor: int, path: pathlib.Path, count: int) -> Frames:
  frames = Frames(descriptor, count)
  weakref.finalize(frames, _release, descriptor, path)
  return frames


def _fill(
  descriptor: int,
  path: pathlib.Path,
  count: int,
  need: Callable[[], int],
  fill: Callable[[Frames], None],
  where: str,
) -> None:
  wanted = _begin(count) + need()
  check(path.parent, wanted, where)
  os.ftruncate(descriptor, 0)
  os.ftruncate(descriptor, wanted)
  frames = Frames(descriptor, count)
  try:
    _reserve(descriptor, 0, _begin(count))
    fill(frames)
  except OSError as e:
    raise UserError(f"{where}: {path.parent} cannot be written ({e.strerror or e})") from None
  except UserError as e:
    raise UserError(f"{where}: {e}") from None
  frames.complete()


def check(folder: str | os.PathLike[str], wanted: int, where: str) -> None:
  """Checks that so many bytes fit.

  Raises:
    UserError: they do not.
  """
  free = room(pathlib.Path(folder))
  if wanted > free:
    raise UserError(
      f"{where}: the decoded training videos take {wanted / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB "
      f"are free in {folder}: set config.data.cache='', prepare smaller frames (--short_side) or "
      "fewer (--fps), or set config.data.cache_folder to a folder of a fast disk with more room."
    )


def room(folder: pathlib.Path) -> int:
  """Bytes that may be written to a folder: what is free, and for memory what the run can spare."""
  about = os.statvfs(folder)
  free = about.f_bavail * about.f_frsize
  if _in_memory(folder):
    return int(min(free, (1 - _SPARE) * min(_available(), _allowed())))
  return free


def _in_memory(folder: pathlib.Path) -> bool:
  device = os.stat(folder).st_dev
  with contextlib.suppress(OSError):
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
      _, place, kind, *_ = line.split()
      with contextlib.suppress(OSError):
        if kind in ("tmpfs", "ramfs") and os.stat(place).st_dev == device:
          return True
  return False


def _available() -> float:
  """Bytes of memory that the system can give, its cache of files included."""
  with contextlib.suppress(OSError, LookupError, ValueError):
    text = pathlib.Path("/proc/meminfo").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
  return float("inf")


def _allowed() -> float:
  """Bytes that this process's container still allows."""
  root = pathlib.Path("/sys/fs/cgroup")
  for most, used in (
    (root / "memory.max", root / "memory.current"),
    (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"),
  ):
    with contextlib.suppress(OSError, ValueError):
      stat = (most.parent / "memory.stat").read_text().splitlines()
      files = next((int(s.split()[1]) for s in stat if s.startswith("inactive_file ")), 0)
      return int(most.read_text()) - int(used.read_text()) + files
  return float("inf")


def _path(folder: str, key: str) -> pathlib.Path:
  return place(folder) / f"{_PREFIX}{os.getuid()}-{key[:32]}"


def place(folder: str) -> pathlib.Path:
  """The folder of a file system; "" is one in memory.

  Raises:
    UserError: there is no such folder.
  """
  in_memory = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
  found = pathlib.Path(folder or in_memory)
  if not found.is_dir():
    raise UserError(f"config.data.cache_folder: {found} is no folder on this machine.")
  return found


def _opened(path: pathlib.Path, *, wait: bool = True) -> int:
  """Opens the file of a key, with a lock that it shares.

  Args:
    path: of the file.
    wait: wait for a process that fills it.

  Raises:
    BlockingIOError: a process fills it, and `wait` is False.
    UserError: it cannot be opened, or is another user's.
  """
  while True:
    try:
      descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as e:
      raise UserError(
        f"config.data.cache_folder: {path} cannot be opened ({e.strerror}); give another folder."
      ) from None
    if os.fstat(descriptor).st_uid != os.getuid():
      os.close(descriptor)
      raise UserError(f"{path}: is another user's; set config.data.cache_folder.")
    try:
      fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      if not wait:
        os.close(descriptor)
        raise
      print("Waiting for the process that decodes the training videos into memory.", flush=True)
      fcntl.flock(descriptor, fcntl.LOCK_SH)
    if _is_current(descriptor, path):
      return descriptor
    os.close(descriptor)


def _is_current(descriptor: int, path: pathlib.Path) -> bool:
  """Whether an open file still has its name."""
  with contextlib.suppress(FileNotFoundError):
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  return False


def _is_complete(descriptor: int, count: int) -> bool:
  """Whether a file is filled, of so many videos."""
  marked = int.from_bytes(os.pread(descriptor, 8, 0), "little") == _COMPLETE
  return marked and os.fstat(descriptor).st_size >= _begin(count)


def _release(descriptor: int, path: pathlib.Path) -> None:
  """Closes a file, and removes it if no other process uses it."""
  with contextlib.suppress(OSError):
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if _is_current(descriptor, path):
      path.unlink()
  with contextlib.suppress(OSError):
    os.close(descriptor)


def _remove_unused(path: pathlib.Path) -> None:
  """Removes what killed processes left of other data."""
  for other in path.parent.glob(f"{_PREFIX}{os.getuid()}-*"):
    if other != path:
      with contextlib.suppress(OSError):
        _release(os.open(other, os.O_RDWR | os.O_NOFOLLOW), other)
