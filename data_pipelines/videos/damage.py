"""Counts what a damaged or cut off video has lost, and decides whether the rest is of use."""

from __future__ import annotations

from data_pipelines.videos.rates import LONG_GAP, MISSING, Gaps

LEAST_SHARE = 0.8  # of the frames, and of the seconds that the header declares
_AFTER = 32  # frames after damage in which a gap counts as lost: decoders deliver frames late
_SPARSE = 0.1  # of the frames: worth a note if so many are missing and the others are even
_SHORT = 1.0  # seconds missing at the end that are worth a note, and 2 % of the length
_SHORT_SHARE = 0.02


class UnreadableError(Exception):
  """A video has no usable frames; the message gives the reason, which goes into the report.

  Attributes:
    passing: the storage or the memory failed, not the video, so that it may be readable later.
  """

  def __init__(self, reason: str, *, passing: bool = False):
    super().__init__(reason)
    self.passing = passing


class Account:
  """What was found wrong in a video so far.

  Attributes:
    shown: number of frames that were decoded.
  """

  def __init__(self) -> None:
    self.shown = 0
    self._failed = 0  # packets that could not be decoded
    self._packets = 0  # packets that should give a frame each
    self._lead = 0  # packets before the first frame, which a decoder may hold back or not need
    self._missing = 0  # frames missing by the time stamps, around damage
    self._silent = 0  # frames missing although nothing failed, known at the end
    self._sparse = 0  # frames missing for no known reason, if they are many
    self._damaged = 0  # frames that the decoder has patched up
    self._recent = 0  # frames after the last damage in which gaps still count
    self._reason = ""
    self._gaps: list[tuple[float, float]] = []  # start and length of long ones, seconds
    self._jumps_back = 0
    self._other: list[str] = []

  def failed(self, reason: str) -> None:
    """A packet could not be read or decoded."""
    self._failed += 1
    self._recent = _AFTER
    self._reason = self._reason or reason

  def packet(self) -> None:
    """A packet was decoded that should give a frame, now or later."""
    self._packets += 1

  def frame(self, gap: float, start: float, gaps: Gaps, damaged: bool) -> None:
    """A frame was decoded.

    Args:
      gap: seconds since the frame before; 0 for the first.
      start: time of the frame before, seconds.
      gaps: all gaps so far.
      damaged: the decoder says that part of the frame is made up.
    """
    if not self.shown:
      self._lead = self._packets
    self.shown += 1
    if damaged:
      self._damaged += 1
      self._recent = _AFTER
    if gap > LONG_GAP:
      self._gaps.append((start, gap))
    elif self._recent and gap > MISSING * (median := gaps.median()) > 0:
      self._missing += round(gap / median) - 1
    self._recent = max(0, self._recent - 1)

  def jump_back(self) -> None:
    """The time stamps began anew."""
    self._jumps_back += 1

  def note(self, text: str) -> None:
    """Adds a remark for the user."""
    self._other.append(text)

  def close(self, gaps: Gaps, end: float, declared: float) -> None:
    """Judges the video, at its end.

    Args:
      gaps: all gaps.
      end: seconds that there are.
      declared: seconds that there should be, by the header; 0 if it does not say.

    Raises:
      UnreadableError: too much is lost.
    """
    if not self.shown:
      if self._reason:
        raise UnreadableError(f"cannot be decoded: {self._reason}")
      return
    silent = max(0, self._packets - self.shown)
    # Two packets of fields may be one frame, so that only frames that are missed are lost.
    uneven = 0 if gaps.even() else silent - self._lead
    self._silent = max(uneven, min(silent, gaps.missing()))
    if gaps.even() and gaps.missing() > _SPARSE * self.shown:
      self._sparse = max(0, gaps.missing() - self._lost())
    lost, total = self._lost() + self._damaged, self.shown + self._lost()
    if total - lost < LEAST_SHARE * total:
      why = f" ({self._reason})" if self._reason else ""
      raise UnreadableError(f"damaged: {lost} of about {total} frames are lost{why}")
    what = f"ends at {end:.1f} s of the {declared:.1f} s that its header declares"
    if end < LEAST_SHARE * declared:
      raise UnreadableError(f"cut off: {what}")
    if declared - end > max(_SHORT, _SHORT_SHARE * declared):
      self.note(what)

  def notes(self) -> tuple[str, ...]:
    """What is worth knowing about a video that is kept, one remark each."""
    found = list(self._other)
    if lost := self._lost():
      found.append(f"about {lost} of {self.shown + lost} frames are lost to damage")
    if self._sparse:
      found.append(
        f"about {self._sparse} frames are missing by its time stamps: never recorded, or lost"
      )
    if self._damaged:
      found.append(f"{self._damaged} of {self.shown} frames are damaged")
    if self._gaps:
      start, gap = max(self._gaps, key=lambda item: item[1])
      found.append(
        f"{_count(len(self._gaps), 'gap')} of more than {LONG_GAP:.0f} s, the longest of {gap:.0f} "
        f"s at {start:.0f} s"
      )
    if self._jumps_back:
      found.append(f"its time stamps begin anew {_count(self._jumps_back, 'time')}")
    return tuple(found)

  @property
  def lost(self) -> int:
    """Number of frames that are lost, by what is known so far."""
    return self._lost()

  def _lost(self) -> int:
    return max(self._failed, self._missing, self._silent)


def _count(number: int, name: str) -> str:
  return f"{number} {name}{'' if number == 1 else 's'}"
