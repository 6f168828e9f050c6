"""What counts as lost, what is noted, and when too much is lost."""

from fractions import Fraction

import pytest

from data_pipelines.videos import damage
from data_pipelines.videos.rates import Gaps


class Video:
  """Feeds an account with frames at 10 per second."""

  def __init__(self):
    self.account, self.gaps, self.time = damage.Account(), Gaps(Fraction(1, 1000)), None

  def frames(self, count, *, step=0.1, damaged=False, packets=True):
    for _ in range(count):
      if packets:
        self.account.packet()
      gap = 0.0 if self.time is None else step
      start = self.time or 0.0
      if self.time is not None:
        self.gaps.add(gap)
      self.account.frame(gap, start, self.gaps, damaged)
      self.time = start + gap
    return self

  def close(self, declared=0.0):
    self.account.close(self.gaps, self.time + 0.1, declared)
    return self.account.notes()


def test_a_good_video_has_no_notes():
  assert Video().frames(100).close(10.0) == ()


def test_failed_packets_and_missing_frames_are_counted_once():
  video = Video().frames(50)
  for _ in range(3):
    video.account.failed("bad")
  video.frames(1, step=0.4).frames(49)
  assert video.close() == ("about 3 of 103 frames are lost to damage",)


def test_damage_may_lose_more_frames_than_packets():
  video = Video().frames(50)
  video.account.failed("bad")
  video.frames(1, step=1.1).frames(49)
  assert video.close() == ("about 10 of 110 frames are lost to damage",)


def test_a_gap_without_damage_is_no_loss():
  assert Video().frames(50).frames(1, step=1.1).frames(49).close() == ()


@pytest.mark.parametrize(("lost", "kept"), [(24, True), (26, False)])
def test_eighty_percent_of_the_frames(lost, kept):
  video = Video().frames(50)
  for _ in range(lost):
    video.account.failed("bad")
  video.frames(50)
  if kept:
    assert video.close() == (f"about {lost} of {100 + lost} frames are lost to damage",)
  else:
    with pytest.raises(damage.UnreadableError, match=r"^damaged: 26 of about 126 .* \(bad\)$"):
      video.close()


def test_patched_frames_are_lost_as_well():
  video = Video().frames(90).frames(10, damaged=True)
  assert video.close() == ("10 of 100 frames are damaged",)
  with pytest.raises(damage.UnreadableError, match="damaged: 40 of about 100"):
    Video().frames(60).frames(40, damaged=True).close()


def test_frames_that_a_decoder_drops_without_a_word():
  video = Video().frames(60)
  for _ in range(4):
    video.account.packet()
  video.frames(1, step=0.5).frames(39)
  assert video.close() == ("about 4 of 104 frames are lost to damage",)
  # Nearly all: what is left is uneven, and its gaps tell nothing.
  video = Video()
  for step in (0.2, 0.25, 0.3, 0.22, 0.28, 0.27):
    video.frames(1, step=step)
    for _ in range(10):
      video.account.packet()
  with pytest.raises(damage.UnreadableError, match="damaged: "):
    video.close()


def test_two_packets_per_frame_are_no_loss():
  video = Video()
  for _ in range(50):
    video.account.packet()
    video.frames(1)
  assert video.close() == ()


def test_packets_before_the_first_frame_are_no_loss():
  video = Video()
  for _ in range(40):
    video.account.packet()  # a cut whose first key frame comes late
  assert video.frames(50).close() == ()


@pytest.mark.parametrize(
  ("declared", "result"),
  [
    (0.0, ()),
    (10.0, ()),
    (10.9, ()),
    (12.0, ("ends at 10.0 s of the 12.0 s that its header declares",)),
    (12.6, None),
  ],
)
def test_the_length_that_the_header_declares(declared, result):
  video = Video().frames(100)
  if result is None:
    with pytest.raises(damage.UnreadableError, match=r"cut off: ends at 10\.0 s of the 12\.6 s"):
      video.close(declared)
  else:
    assert video.close(declared) == result


def test_long_gaps_are_noted_and_many_missing_frames():
  video = Video().frames(50).frames(1, step=100.0).frames(20).frames(1, step=300.0)
  assert video.close() == ("2 gaps of more than 60 s, the longest of 300 s at 107 s",)
  video = Video().frames(50).frames(1, step=3.0).frames(50)
  assert video.close() == (
    "about 29 frames are missing by its time stamps: never recorded, or lost",
  )


def test_other_notes():
  video = Video().frames(10)
  video.account.jump_back()
  video.account.note("odd")
  assert video.close() == ("odd", "its time stamps begin anew 1 time")


def test_nothing_decoded():
  account = damage.Account()
  account.close(Gaps(), 0.0, 10.0)  # the caller says that there are no frames
  account.failed("Invalid data")
  with pytest.raises(damage.UnreadableError, match=r"^cannot be decoded: Invalid data$"):
    account.close(Gaps(), 0.0, 10.0)
