"""Recall and mean average precision against NumPy in float64 and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from vssl_jax.errors import UserError
from vssl_jax.probes import retrieval


def _expected(bank, bank_label, queries, query_label, recalls):
  bank, queries = (np.asarray(x, np.float64) for x in (bank, queries))
  cosine = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
    bank / np.linalg.norm(bank, axis=1, keepdims=True)
  ).T
  out, precisions = {f"R@{k}": 0.0 for k in recalls}, []
  for row, label in zip(cosine, query_label, strict=True):
    order = np.argsort(-row)
    for k in recalls:
      out[f"R@{k}"] += (bank_label[order[:k]] == label).any() / len(queries)
    relevant = bank_label == label
    precisions.append(average_precision_score(relevant, row) if relevant.any() else 0.0)
  return out | {"mAP": np.mean(precisions)}


@settings(max_examples=15, deadline=None)
@given(
  st.sampled_from([1, 60]),  # each size compiles anew
  st.sampled_from([1, 20]),
  st.integers(1, 8),
  st.integers(0, 10**6),
)
def test_equals_numpy_and_scikit_learn(bank, queries, classes, seed):
  rng = np.random.default_rng(seed)
  x, q = rng.normal(size=(bank, 6)), rng.normal(size=(queries, 6))
  y, z = rng.integers(0, classes, bank), rng.integers(0, classes, queries)
  found = retrieval.evaluate(x, y, q, z, block_size=16)
  expected = _expected(x, y, q, z, retrieval.RECALLS)
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    assert found[key] == pytest.approx(value, abs=1e-6), key


def test_length_of_a_feature_does_not_matter():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
  scaled = x * rng.uniform(0.1, 50.0, (30, 1))
  a = retrieval.evaluate(x[:20], y[:20], x[20:], y[20:])
  b = retrieval.evaluate(scaled[:20], y[:20], 1e-3 * scaled[20:], y[20:])
  assert a == pytest.approx(b)


def test_unlabeled_videos_are_left_out():
  x = np.eye(4)
  found = retrieval.evaluate(
    x[[0, 1, 2]], np.array([-1, 0, 1]), x[[0, 1]], np.array([-1, 0]), recalls=(1,)
  )
  assert found == {"R@1": 1.0, "mAP": 1.0}
  with pytest.raises(UserError, match="training split"):
    retrieval.evaluate(x, np.full(4, -1), x, np.zeros(4))
  with pytest.raises(UserError, match="evaluation split"):
    retrieval.evaluate(x, np.zeros(4), x, np.full(4, -1))


def test_zero_features_are_harmless_and_ranking_is_optional():
  x, y = np.zeros((3, 2)), np.array([0, 1, 1])
  found = retrieval.evaluate(x, y, x, y, recalls=(1, 5), mean_average_precision=False)
  assert found == {"R@1": pytest.approx(1 / 3), "R@5": 1.0}
