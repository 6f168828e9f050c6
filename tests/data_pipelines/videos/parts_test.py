"""Parts of bounded length and size."""

import itertools

import pytest

from data_pipelines.videos import parts
from data_pipelines.videos.damage import UnreadableError


def cut(times, limit, size=1):
  found = list(parts.cut(((t, bytes(size)) for t in times), limit))
  for (part, following), (later, _) in itertools.pairwise(found):
    assert following == later[0][0] > part[-1][0]
  assert not found or found[-1][1] is None
  return [[t for t, _ in part] for part, _ in found]


def test_nothing_gives_nothing():
  assert cut([], 1.0) == []
  assert cut([5.0], 1.0) == [[5.0]]


def test_a_long_gap_does_not_count_as_length():
  times = [0, 1, 2, 1000, 1001, 1002]
  assert cut(times, 10.0) == [times]
  assert [len(p) for p in cut(times, 4.0)] == [3, 3]


def test_a_slow_series_has_more_than_one_frame_per_part():
  times = [120.0 * i for i in range(300)]
  lengths = [len(p) for p in cut(times, 100.0)]
  assert sum(lengths) == 300
  assert lengths == [100, 100, 100]


@pytest.mark.parametrize("limit", [1.0, 2.0, 7.0])
def test_gaps_longer_than_a_part(limit):
  times = [0, 0.5, 30, 30.5, 59, 59.5]
  assert [t for part in cut(times, limit) for t in part] == times


def test_a_part_too_large_is_noticed_at_once(monkeypatch):
  monkeypatch.setattr(parts, "RECORD_BYTES", 1000)
  taken = []

  def frames():
    for i in range(10_000):
      taken.append(i)
      yield i / 25, bytes(100)

  for limit in (120.0, float("inf")):
    taken.clear()
    with pytest.raises(UnreadableError, match="exceed 2 GB: lower --max_seconds"):
      list(parts.cut(frames(), limit))
    assert len(taken) == 11


def test_a_later_part_too_large(monkeypatch):
  monkeypatch.setattr(parts, "RECORD_BYTES", 1000)

  def frames():
    for i in range(40):
      yield i / 10, bytes(100 if i < 25 else 300)

  found = parts.cut(frames(), 1.0)
  assert len(next(found)[0]) == 10
  with pytest.raises(UnreadableError, match="2 GB"):
    next(found)


def test_parts_up_to_the_limit_are_kept(monkeypatch):
  monkeypatch.setattr(parts, "RECORD_BYTES", 1000)
  assert [len(p) for p in cut([i / 10 for i in range(50)], 1.0, size=100)] == [10] * 5
