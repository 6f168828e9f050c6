"""Accuracies against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vssl_jax.errors import UserError
from vssl_jax.probes import metrics


@settings(max_examples=40, deadline=None)
@given(st.integers(6, 12), st.integers(1, 40), st.integers(0, 10**6))
def test_equals_scikit_learn(classes, videos, seed):
  rng = np.random.default_rng(seed)
  scores, label = rng.normal(size=(videos, classes)), rng.integers(0, classes, videos)
  found, names = metrics.accuracy(scores, label), np.arange(classes)
  assert found.top1 == pytest.approx(sk.accuracy_score(label, scores.argmax(1)))
  assert found.top5 == pytest.approx(sk.top_k_accuracy_score(label, scores, k=5, labels=names))
  expected = sk.confusion_matrix(label, scores.argmax(1), labels=names)
  np.testing.assert_array_equal(found.confusion, expected)
  present = np.unique(label)
  recall = sk.recall_score(label, scores.argmax(1), labels=present, average=None, zero_division=0)
  np.testing.assert_allclose(found.per_class[present], recall)
  assert np.isnan(np.delete(found.per_class, present)).all()
  assert found.mean_class == pytest.approx(recall.mean())


def test_ties_go_to_the_lower_class():
  found = metrics.accuracy(np.zeros((3, 7)), np.array([0, 4, 6]))
  assert found.top1 == pytest.approx(1 / 3)
  assert found.top5 == pytest.approx(2 / 3)


def test_unlabeled_videos_are_left_out():
  scores = np.eye(3)
  found = metrics.accuracy(scores, np.array([0, -1, 1]))
  assert found.top1 == 0.5
  assert found.confusion.sum() == 2
  with pytest.raises(UserError, match=r"no video .* has a label"):
    metrics.accuracy(scores, np.full(3, -1))


def test_bad_labels_and_scores_are_told():
  with pytest.raises(UserError, match=r"label 3 but .* 3 classes"):
    metrics.accuracy(np.eye(3), np.array([0, 1, 3]))
  with pytest.raises(UserError, match="NaN"):
    metrics.accuracy(np.full((2, 3), np.nan), np.array([0, 1]))
