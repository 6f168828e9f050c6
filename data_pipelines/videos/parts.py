"""Cuts the stored frames of a video into parts of bounded length and size, one per record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from data_pipelines.videos.damage import UnreadableError
from data_pipelines.videos.rates import CLOCK, LONG_GAP

RECORD_BYTES = (2 << 30) - (1 << 20)  # largest record, bytes; protobuf's limit is 2 GiB
_GAP_COUNTS = 1.0  # seconds that a long gap adds to the length of its part: nothing is stored of it
Stored = list[tuple[float, bytes]]  # seconds from the beginning of the video, JPEG


class _Held:
  """Frames that are not in a part yet, with a clock that long gaps do not advance."""

  def __init__(self, limit: float):
    self._limit = limit
    self._items: list[tuple[float, float, bytes]] = []  # clock, seconds, JPEG
    self._skipped = 0.0
    self._first_bytes = 0  # of the frames within `limit` of the first one

  def __bool__(self) -> bool:
    return bool(self._items)

  def __len__(self) -> int:
    return len(self._items)

  def clock(self, time: float) -> float:
    """The clock at the time of the next frame."""
    if self._items and time - self._items[-1][1] > LONG_GAP:
      self._skipped += time - self._items[-1][1] - _GAP_COUNTS
    return time - self._skipped

  def elapsed(self, clock: float) -> float:
    """Seconds of the clock since the first frame."""
    return clock - self._items[0][0]

  def seconds(self) -> float:
    """Length of all frames; the last one lasts as long as the others do on average."""
    seconds = self.elapsed(self._items[-1][0])
    return seconds + seconds / max(len(self._items) - 1, 1)

  def add(self, clock: float, time: float, jpeg: bytes) -> None:
    """Adds a frame; the first `limit` seconds must fit into a record."""
    self._items.append((clock, time, jpeg))
    if self.elapsed(clock) < self._limit - CLOCK:
      self._first_bytes += len(jpeg)
      _check(self._first_bytes)

  def take(self, seconds: float) -> Stored:
    """Removes and returns the frames of the first `seconds`."""
    cut = next(
      (i for i, (clock, _, _) in enumerate(self._items) if self.elapsed(clock) >= seconds - CLOCK),
      len(self._items),
    )
    part = [(time, jpeg) for _, time, jpeg in self._items[:cut]]
    _check(sum(len(jpeg) for _, jpeg in part))
    self._items = self._items[cut:]
    self._first_bytes = sum(
      len(jpeg) for clock, _, jpeg in self._items if self.elapsed(clock) < self._limit - CLOCK
    )
    _check(self._first_bytes)
    return part

  def start(self) -> float | None:
    """Seconds of the first frame; None without frames."""
    return self._items[0][1] if self._items else None


def cut(
  stored: Iterable[tuple[float, bytes]], limit: float
) -> Iterator[tuple[Stored, float | None]]:
  """Cuts timed frames into parts of at most `limit` seconds.

  The last two parts are equally long, so that no part is very short. A gap in the video does not
  count as length.

  Args:
    stored: seconds and JPEGs, in order of time.
    limit: seconds; infinity for one part.

  Yields:
    Each part, and the start of the next part (None after the last).

  Raises:
    UnreadableError: a part exceeds the largest record; as soon as it does, not at its end.
  """
  held = _Held(limit)
  for time, jpeg in stored:
    clock = held.clock(time)
    if held and held.elapsed(clock) >= 2 * limit - CLOCK:
      part = held.take(limit)
      start = held.start()
      yield part, time if start is None else start
    held.add(clock, time, jpeg)
  if not held:
    return
  seconds = held.seconds()
  if len(held) > 1 and seconds > limit + CLOCK:
    part = held.take(seconds / 2)
    yield part, held.start()
  if held:
    yield held.take(float("inf")), None


def _check(size: int) -> None:
  if size > RECORD_BYTES:
    raise UnreadableError(
      "one of its records would exceed 2 GB: lower --max_seconds, --short_side or --quality"
    )
