import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from vssl_jax.errors import UserError
from vssl_jax.localization import nms
from vssl_jax.localization.proposals import Proposals

TIME = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted)
CANDIDATES = st.lists(st.tuples(TIME, st.integers(0, 6)), max_size=9)


def overlap(a, b):
  inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
  union = (a[1] - a[0]) + (b[1] - b[0]) - inside
  return inside / union if union else float(tuple(a) == tuple(b))


def arrays(candidates):
  segment = np.array([t for t, _ in candidates], float).reshape(-1, 2)
  return segment, np.array([s / 6 for _, s in candidates])


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
@hypothesis.given(candidates=CANDIDATES, threshold=st.sampled_from([0.25, 0.5, 1.0]))
def test_nms_by_brute_force(candidates, threshold):
  """One by one, best first: kept unless it overlaps too much with one kept before."""
  segment, score = arrays(candidates)
  kept = []
  for i in sorted(range(len(score)), key=lambda i: (-score[i], i)):
    if all(overlap(segment[i], segment[j]) < threshold for j in kept):
      kept.append(i)
  assert nms.nms(segment, score, threshold).tolist() == kept


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
@hypothesis.given(candidates=CANDIDATES, sigma=st.sampled_from([0.1, 0.5]))
def test_soft_nms_by_brute_force(candidates, sigma):
  """A candidate's score falls by every one taken before it."""
  segment, score = arrays(candidates)
  left, taken, final = dict(enumerate(score)), [], []
  while left:
    now = {
      i: s * np.exp(-sum(overlap(segment[i], segment[j]) ** 2 for j in taken) / sigma)
      for i, s in left.items()
    }
    best = max(now.values())
    if best < 0.05:
      break
    i = min(i for i, s in now.items() if s >= best - 1e-12)
    taken.append(i)
    final.append(now[i])
    del left[i]
  kept, got = nms.soft_nms(segment, score, sigma=sigma, least=0.05)
  np.testing.assert_allclose(got, final, rtol=1e-9)
  assert len(set(kept.tolist())) == len(kept)


def test_seconds_are_not_counted_as_pixels():
  """With pixels' +1, [0, 1] and [1, 2] overlapped by a third."""
  assert nms.nms(np.array([[0.0, 1], [1, 2]]), np.array([1.0, 0.5]), 0.2).tolist() == [0, 1]


def test_soft_nms_by_hand():
  segment = np.array([[0.0, 4], [0, 2], [10, 12]])
  kept, score = nms.soft_nms(segment, np.array([0.8, 0.7, 0.6]), sigma=0.5)
  assert kept.tolist() == [0, 2, 1]
  np.testing.assert_allclose(score, [0.8, 0.6, 0.7 * np.exp(-0.25 / 0.5)])
  kept, score = nms.soft_nms(segment, np.array([0.8, -0.7, -0.9]), sigma=0.5, least=-1)
  np.testing.assert_allclose(score, [0.8, -0.7, -0.9])


def test_classes_are_suppressed_by_themselves():
  found = Proposals(
    np.array([1, 0, 1, 0]),
    np.array([[0.0, 4], [0, 4], [0, 4], [20, 24]]),
    np.array([0.5, 0.9, 0.8, 0.1]),
  )
  hard = nms.suppress(found, threshold=0.5)
  assert hard.label.tolist() == [0, 1, 0]
  assert hard.score.tolist() == [0.9, 0.8, 0.1]
  np.testing.assert_array_equal(hard.segment[:, 0], [0, 0, 20])
  soft = nms.suppress(found, sigma=0.5)
  assert soft.label.tolist() == [0, 1, 0, 1]
  np.testing.assert_allclose(soft.score, [0.9, 0.8, 0.1, 0.5 * np.exp(-2)])
  assert nms.suppress(found, least=0.5).score.tolist() == [0.9, 0.8]
  none = found.take(np.zeros(4, bool))
  assert len(nms.suppress(none).score) == 0


def test_bad_input_is_named():
  for threshold in (0.0, 1.1):
    with pytest.raises(UserError, match=r"\(0, 1\]"):
      nms.nms(np.zeros((1, 2)), np.ones(1), threshold)
  with pytest.raises(UserError, match="sigma"):
    nms.soft_nms(np.zeros((1, 2)), np.ones(1), sigma=0.0)
