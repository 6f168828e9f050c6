import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines.untrimmed import action_times
from data_pipelines.untrimmed.action_times import Lengths
from vssl_jax.errors import UserError
from vssl_jax.localization.annotations import Segment, Video

POOL = Lengths(np.array([1.0, 2.5, 4.0]), np.array([0.5, 3.0]), np.array([2, 5]))
NAMES = ("a", "b", "c")


def draw(count=30, lengths=POOL, **kwargs):
  options = {"subset": "train", "seed": 0, "max_seconds": 60.0, "second_class": 0.3, **kwargs}
  return action_times.draw(lengths, NAMES, count, **options)


def test_lengths_of_real_videos():
  real = {
    "x": Video("train", 20.0, (Segment(5.0, 6.0, "a"), Segment(1.0, 3.0, "b"))),
    "y": Video("test", None, tuple(Segment(*t, "a") for t in [(0, 4), (2, 3), (4.5, 4.5), (7, 9)])),
    "z": Video("test", 5.0, ()),
  }
  found = action_times.lengths_of(real)
  assert sorted(found.actions) == [1, 1, 2, 2, 4]
  assert sorted(found.gaps) == [1, 2, 3]  # the start of y has none, nor has the overlap
  assert sorted(found.counts) == [2, 3]
  with pytest.raises(UserError, match="no annotated action"):
    action_times.lengths_of({"z": real["z"]})


def test_videos_are_of_the_lengths_given():
  videos = draw(200)
  actions = [s.end - s.start for v in videos.values() for s in v.segments]
  assert {round(x, 6) for x in actions} == {1.0, 2.5, 4.0}
  np.testing.assert_allclose(
    [np.mean(np.isclose(actions, x)) for x in POOL.actions], 1 / 3, atol=0.06
  )
  gaps = [
    b.start - a.end
    for v in videos.values()
    for a, b in zip(v.segments, v.segments[1:], strict=False)
  ]
  assert {round(x, 6) for x in gaps} == {0.5, 3.0}
  assert {len(v.segments) for v in videos.values()} == {2, 5}
  assert {v.segments[0].start for v in videos.values()} == {0.5, 3.0}
  ends = {round(v.duration - v.segments[-1].end, 6) for v in videos.values()}
  assert ends == {0.5, 3.0}


def test_labels():
  videos = draw(300, lengths=dataclasses.replace(POOL, counts=np.array([12])), max_seconds=1e3)
  labels = [v.labels for v in videos.values()]
  assert all(NAMES[i % 3] in row for i, row in enumerate(labels))
  assert {len(row) for row in labels} == {1, 2}
  assert np.mean([len(row) == 2 for row in labels]) == pytest.approx(0.3, abs=0.07)
  assert all(len(v.labels) == 1 for v in draw(second_class=0.0).values())
  single = draw(lengths=dataclasses.replace(POOL, counts=np.array([1])), second_class=1.0)
  assert [v.labels for v in single.values()] == [(NAMES[i % 3],) for i in range(30)]


def test_no_video_is_too_long():
  huge = Lengths(np.array([50.0]), np.array([90.0]), np.array([3]))
  for v in draw(lengths=huge, max_seconds=20.0).values():
    assert v.duration <= 20
    assert [(s.start, s.end) for s in v.segments] == [(10.0, 20.0)]
  for v in draw(max_seconds=6.0).values():
    assert v.segments[-1].end <= v.duration <= 6


def test_a_video_depends_on_seed_subset_and_number_alone():
  assert list(draw(9).items()) == list(draw(30).items())[:9]
  bare = lambda videos: [v.segments for v in videos.values()]
  assert bare(draw(5)) != bare(draw(5, seed=1))
  assert bare(draw(5)) != bare(draw(5, subset="test"))
  assert list(draw(2, subset="training")) == ["training_00000", "training_00001"]
  assert bare(draw(5)) != bare(draw(5, subset="training"))


def test_typical_lengths():
  typical = action_times.typical()
  assert np.median(typical.actions) == pytest.approx(3, rel=0.15)
  assert np.median(typical.gaps) == pytest.approx(8, rel=0.15)
  assert typical.counts.min() >= 1


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(
  start=st.integers(-5, 30),
  length=st.integers(0, 30),
  step=st.integers(1, 7),
  steps=st.integers(1, 5),
)
def test_coverage_counts_moments(start, length, step, steps):
  """Against ten moments a unit of time."""
  moments = (np.arange(steps * step * 10) + 0.5) / 10
  want = ((moments > start) & (moments < start + length)).reshape(steps, -1).mean(1)
  place, share = action_times.coverage(Segment(start, start + length, "a"), steps, step)
  got = np.zeros(steps)
  got[place] = share
  np.testing.assert_allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("options", [{"count": 0}, {"second_class": 1.5}, {"max_seconds": 0.0}])
def test_bad_input_is_named(options):
  with pytest.raises(UserError, match="made-up videos"):
    draw(**options)
