"""Frame rates by the median gap, sampling, and gaps in videos."""

from fractions import Fraction

import numpy as np
import pytest

from data_pipelines.videos import rates

MS = Fraction(1, 1000)


def gaps(values, tick=MS):
  found = rates.Gaps(Fraction(tick))
  for value in values:
    found.add(float(value))
  return found


def rounded(fps, count=300):
  """Gaps of an even video whose time stamps are rounded to milliseconds."""
  return np.diff(np.round(np.arange(count) / fps, 3))


@pytest.mark.parametrize("fps", [10, 24000 / 1001, 25, 30000 / 1001, 30, 50, 60000 / 1001, 120])
def test_the_declared_rate_where_it_fits(fps):
  assert gaps(rounded(fps)).rate(fps) == fps
  assert gaps(rounded(fps)).rate(0) == pytest.approx(fps, rel=0.02)


def test_the_median_where_the_header_is_wrong():
  assert gaps(rounded(30)).rate(1000) == pytest.approx(30, rel=1e-3)
  assert gaps(rounded(15)).rate(30) == pytest.approx(15, rel=1e-3)
  # Every second frame of 30 a second is left out; the time stamps have the frame as their unit.
  assert gaps([Fraction(2, 30)] * 20, Fraction(1, 30)).rate(30) == 15


@pytest.mark.parametrize("long", [5, 3000])
def test_one_long_gap_changes_nothing(long):
  times = [*(np.arange(50) / 25), 2 + long]
  assert gaps(np.diff(times)).rate(0) == 25
  assert gaps(np.diff(times)).rate(25) == 25


def test_the_rate_of_too_few_frames():
  assert gaps([]).rate(12) == 12
  assert gaps([]).rate(0) == rates.UNKNOWN
  assert gaps([]).median() == 0
  assert rates.of_times([3.0], 0) == rates.UNKNOWN


def test_the_median_is_that_of_numpy():
  values = np.random.default_rng(0).integers(1, 50, 101) / 1000
  assert gaps(values).median() == pytest.approx(np.median(values))


def test_missing_frames():
  found = gaps([0.04] * 30 + [0.08, 0.2, 100.0])
  assert found.missing() == 1 + 4  # nothing is known about the long gap
  assert found.even()
  assert not gaps([0.04, 0.08, 0.5, 0.3]).even()
  assert gaps(rounded(30)).missing() == 0


def test_the_rate_of_stored_frames():
  assert rates.of_times([0, 0.04, 0.08], 25.0) == 25.0
  assert rates.of_times([0, 0.1, 0.2, 0.6], 25.0) == pytest.approx(3 / 0.6)  # their mean
  assert rates.of_times([0, 0.1, 0.2, 0.3, 100.0], 0) == pytest.approx(10)


def test_sampling_does_not_fill_a_long_gap():
  times = [0, 0.5, 1.0, 1000.0, 1000.5]
  shown = list(rates.at_rate(((t, i) for i, t in enumerate(times)), 4.0))
  expected = [(0, 0), (0.25, 0), (0.5, 1), (0.75, 1), (1.0, 2), (1.25, 2)]
  expected += [(1000.0, 3), (1000.25, 3), (1000.5, 4), (1000.75, 4)]
  assert shown == expected
  filled = list(rates.at_rate(((t, i) for i, t in enumerate([0, 0.5, 59.0])), 4.0))
  assert len(filled) > 59 * 4  # a shorter one is filled, as always


def test_sampling_a_slow_series():
  shown = list(rates.at_rate(((120.0 * i, i) for i in range(5)), 10.0))
  assert shown == [(120.0 * i, i) for i in range(5)]  # each frame once, not 1200 times


def test_a_span():
  frames = [(i / 10, i) for i in range(10)]
  assert [i for _, i in rates.between(frames, 0.3, 0.6)] == [3, 4, 5]
  assert [i for _, i in rates.between(frames, 0.3005, 0.6005)] == [3, 4, 5]  # rounded stamps
