import hypothesis
import numpy as np
from hypothesis import strategies as st

from vssl_jax.localization.segments import covers, runs, tiou

SEGMENTS = st.lists(
  st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted), min_size=1, max_size=6
)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(a=SEGMENTS, b=SEGMENTS)
def test_tiou_counts_cells(a, b):
  """Over whole numbers: cells in both over cells in either."""
  got = tiou(np.array(a, float), np.array(b, float))
  for i, (s, e) in enumerate(a):
    for j, (u, v) in enumerate(b):
      x, y = set(range(s, e)), set(range(u, v))
      want = len(x & y) / len(x | y) if x | y else float((s, e) == (u, v))
      assert got[i, j] == want
  np.testing.assert_array_equal(got, tiou(np.array(b), np.array(a)).T)


def test_tiou_by_hand():
  assert tiou([[0.0, 2.0]], [[1.0, 4.0]]) == 0.25
  assert tiou(np.zeros((0, 2)), [[1.0, 4.0]]).shape == (0, 1)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(active=st.lists(st.booleans(), max_size=12))
def test_runs_are_maximal_and_cover(active):
  found = runs(active)
  again = np.zeros(len(active), bool)
  for s, e in found:
    assert s < e
    again[s:e] = True
  np.testing.assert_array_equal(again, np.array(active, bool))
  assert (found[1:, 0] > found[:-1, 1]).all()


def test_covers_holds_middles():
  got = covers([[0.0, 1.0], [0.5, 1.5], [0.6, 0.9], [4.0, 9.0]], 5, 1.0)
  np.testing.assert_array_equal(
    got, [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
  )
  assert covers(np.zeros((0, 2)), 3, 1.0).shape == (0, 3)
