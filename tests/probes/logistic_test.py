"""Logistic regression: the optimum, the choice of C, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vssl_jax.errors import UserError
from vssl_jax.probes import logistic, too_few_videos


def _blobs(videos=60, dim=5, classes=3, seed=0, spread=1.5):
  centers = np.random.default_rng(1).normal(size=(classes, dim))
  rng = np.random.default_rng(seed)
  label = np.arange(videos) % classes
  x = centers[label] + spread * rng.normal(size=(videos, dim))
  return (x * np.arange(1, dim + 1) + 7.0).astype(np.float32), label.astype(np.int32)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(["standard", "none"]), st.sampled_from([0.01, 1.0]), st.integers(0, 99))
def test_equals_a_plain_scikit_learn_pipeline(normalization, strength, seed):
  (train, y), (test, z) = _blobs(seed=seed), _blobs(30, seed=seed + 1)
  found = logistic.evaluate(train, y, test, z, normalization=normalization, strength=strength)
  steps = [StandardScaler()] if normalization == "standard" else []
  model = make_pipeline(*steps, LogisticRegression(C=strength, max_iter=5000, tol=1e-6))
  expected = model.fit(train.astype(float), y).predict_proba(test.astype(float))
  np.testing.assert_allclose(found.probabilities, expected, atol=2e-3)
  assert found.folds == 0
  assert found.converged


def test_the_gradient_vanishes_at_the_fit():
  # Σ_i (p_i − y_i) x_i + W/C = 0, in float64 and without the library's own objective.
  x, y = _blobs(40, 3)
  strength = 0.3
  found = logistic.evaluate(x, y, x, y, strength=strength)
  z = (x - x.mean(0)) / x.std(0)
  log_odds = np.log(found.probabilities)
  log_odds -= log_odds.mean(1, keepdims=True)
  design = np.hstack([z, np.ones((len(z), 1))])
  weights = np.linalg.lstsq(design, log_odds, rcond=None)[0]  # [F + 1, K]
  residual = z.T @ (found.probabilities - np.eye(3)[y]) + weights[:-1] / strength
  assert np.abs(residual).max() < 0.02  # of sums of about 10 each


def test_more_features_than_videos_gives_the_same_predictions():
  (train, y), (test, z) = _blobs(20, 64), _blobs(15, 64, seed=3)
  found = logistic.evaluate(train, y, test, z, strength=0.1)
  model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000, tol=1e-8))
  expected = model.fit(train.astype(float), y).predict_proba(test.astype(float))
  np.testing.assert_allclose(found.probabilities, expected, atol=2e-3)


def test_l2_looks_at_directions_only():
  (train, y), (test, z) = _blobs(), _blobs(30, seed=5)
  scale = np.random.default_rng(0).uniform(0.5, 9.0, (60, 1))
  a = logistic.evaluate(train, y, test, z, normalization="l2", strength=10.0)
  b = logistic.evaluate(train * scale, y, test * 3, z, normalization="l2", strength=10.0)
  np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-3)


def test_constant_features_and_unlabeled_videos_do_no_harm():
  (train, y), (test, z) = _blobs(), _blobs(30, seed=5)
  plain = logistic.evaluate(train, y, test, z, strength=1.0)
  wide = [np.hstack([x, np.full((len(x), 1), 1e6, np.float32)]) for x in (train, test)]
  wide[0] = np.vstack([wide[0], np.full((1, 6), 1e9)])
  odd = logistic.evaluate(wide[0], np.append(y, -1), wide[1], z, strength=1.0)
  np.testing.assert_allclose(odd.probabilities, plain.probabilities, atol=1e-4)


def test_strength_is_that_of_the_lowest_cross_validated_loss():
  (train, y), (test, z) = _blobs(90, spread=3.0), _blobs(30, seed=5)
  found = logistic.evaluate(train, y, test, z, folds=4, seed=2)
  x = (train.astype(float) - train.mean(0)) / train.std(0)
  folds = StratifiedKFold(4, shuffle=True, random_state=2)
  losses = [
    -cross_val_score(
      LogisticRegression(C=c, max_iter=5000), x, y, cv=folds, scoring="neg_log_loss"
    ).mean()
    for c in logistic.STRENGTHS
  ]
  assert found.strength == logistic.STRENGTHS[int(np.argmin(losses))]
  assert 0 < int(np.argmin(losses)) < len(losses) - 1  # a real choice
  assert (found.folds, found.grouped) == (4, False)


def test_folds_are_fitted_on_the_larger_part_and_scored_on_the_smaller():
  # Half of the labels of part a are wrong: a fit on it must be weak, a fit on b may be strong.
  x, y = _blobs(90, spread=0.5)
  x = (x - x.mean(0)) / x.std(0)
  a, b = np.arange(60), np.arange(60, 90)
  y[:30] = np.random.default_rng(0).integers(0, 3, 30)
  weak = logistic._choose(x, y, [(a, b)], 3)
  strong = logistic._choose(x, y, [(b, b)], 3)
  assert weak < strong
  assert logistic._choose(x, y, [(b, a)], 3) < weak


def test_the_choice_never_sees_the_evaluation_split():
  (train, y), (test, z) = _blobs(), _blobs(30, seed=5)
  a = logistic.evaluate(train, y, test, z)
  b = logistic.evaluate(train, y, np.zeros_like(test), (z + 1) % 3)
  assert a.strength == b.strength


def test_groups_stay_whole():
  # Ten copies of each of six videos: apart from its copies, nothing tells a video's class.
  rng = np.random.default_rng(0)
  groups = np.repeat([f"g{i}" for i in range(12)], 5)
  y = np.repeat(np.arange(12) % 2, 5)
  x = np.repeat(rng.normal(size=(12, 30)), 5, axis=0) + 1e-3 * rng.normal(size=(60, 30))
  split = logistic.split(y, groups, 4, 0)
  for fit_on, held in split:
    assert not set(groups[fit_on]) & set(groups[held])
  alone = logistic.evaluate(x, y, x, y, groups=groups)
  copies = logistic.evaluate(x, y, x, y)
  assert alone.grouped
  assert alone.strength < copies.strength


def test_fewer_folds_where_a_class_is_small():
  x, y = _blobs(9)
  assert logistic.evaluate(x, y, x, y, folds=5).folds == 3
  with pytest.raises(too_few_videos.TooFewVideos, match="too few training videos per class"):
    logistic.evaluate(x[:3], y[:3], x, y)


def test_what_suffices_is_known_before_the_fit():
  label = np.array([0, 0, 0, 1, 1, 1, -1])
  assert len(logistic.check(label, None, 0)) == 3
  names = ["a", "a", "a", "b", "b", "b", "c"]  # one recording per class
  with pytest.raises(too_few_videos.TooFewVideos, match="too few training recordings per class"):
    logistic.check(label, names, 0)
  with pytest.raises(too_few_videos.TooFewVideos, match="two labeled classes"):
    logistic.check(np.array([1, 1, -1]), None, 0)


def test_classes_missing_from_training_get_no_probability():
  x, y = _blobs(30)
  found = logistic.evaluate(x, y, x, y, num_classes=8, strength=1.0)
  assert found.probabilities.shape == (30, 8)
  assert (found.probabilities[:, 3:] == 0).all()
  assert found.accuracy.confusion.shape == (8, 8)


def test_bad_input_is_told():
  x, y = _blobs(9)
  with pytest.raises(UserError, match="two labeled classes"):
    logistic.evaluate(x, np.where(y == 1, 1, -1), x, y)
  with pytest.raises(UserError, match="'whiten' is unknown"):
    logistic.evaluate(x, y, x, y, normalization="whiten", strength=1.0)


def test_recordings_by_ucf101_names():
  names = ["v_Archery_g01_c02", "Archery/v_Archery_g01_c03.avi", "v_Surfing_g12_c01"]
  assert logistic.recordings(names) == ["v_Archery_g01", "v_Archery_g01", "v_Surfing_g12"]
  assert logistic.recordings([*names, "holiday.mp4"]) is None
  assert logistic.recordings([]) is None


def test_recordings_by_names_that_repeat():
  assert logistic.recordings(["a.mp4", "a.mp4", "b.mp4"]) == ["a.mp4", "a.mp4", "b.mp4"]
  assert logistic.recordings(["a.mp4", "b.mp4"]) is None
  assert logistic.recordings(["", "", "b.mp4"]) is None
  assert len(set(logistic.recordings(["", "", "b.mp4", "b.mp4"]))) == 3
  parts = ["v_Archery_g01_c02.avi", "v_Archery_g01_c02.avi", "v_Surfing_g12_c01.avi"]
  assert logistic.recordings(parts) == ["v_Archery_g01", "v_Archery_g01", "v_Surfing_g12"]
  assert logistic.recordings([*parts, "holiday.mp4"]) == [*parts, "holiday.mp4"]


def test_summary_is_the_whole_protocol():
  x, y = _blobs(30)
  summary = logistic.evaluate(x, y, x, y, folds=3).summary()
  assert summary["C_chosen_by"] == "3 stratified folds of the training split, log-loss"
  assert summary["normalization"] == "standard"
  assert logistic.evaluate(x, y, x, y, strength=2.0).summary()["C_chosen_by"] == "given"
