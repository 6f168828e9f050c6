"""Logistic regression: the optimum, the choice of C, and what must not matter."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.evaluation import options
from vssl_jax.ops import softmax_regression
from vssl_jax.probes import logistic, too_few_videos


def _blobs(videos=60, dim=5, classes=3, seed=0, spread=1.5):
  centers = np.random.default_rng(1).normal(size=(classes, dim))
  rng = np.random.default_rng(seed)
  label = np.arange(videos) % classes
  x = centers[label] + spread * rng.normal(size=(videos, dim))
  return (x * np.arange(1, dim + 1) + 7.0).astype(np.float32), label.astype(np.int32)


def _one_device():
  return parallel.make_mesh(jax.devices()[:1])


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


@pytest.mark.parametrize(
  "kind", [logistic._Sklearn, lambda *given: logistic._Device(*given, _one_device())]
)
def test_folds_are_fitted_on_the_larger_part_and_scored_on_the_smaller(kind):
  # Half of the labels of part a are wrong: a fit on it must be weak, a fit on b may be strong.
  x, y = _blobs(90, spread=0.5)
  x = (x - x.mean(0)) / x.std(0)
  a, b = np.arange(60), np.arange(60, 90)
  y[:30] = np.random.default_rng(0).integers(0, 3, 30)
  problem = kind(x, y, 3)
  weak = logistic._choose(problem, [(a, b)])
  strong = logistic._choose(problem, [(b, b)])
  assert weak < strong
  assert logistic._choose(problem, [(b, a)]) < weak


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


@pytest.mark.parametrize("normalization", logistic.NORMALIZATIONS)
@pytest.mark.parametrize("grouped", [False, True])
def test_the_devices_find_what_scikit_learn_finds(normalization, grouped):
  """The same C by the same folds, and the same predictions."""
  (train, y), (test, z) = _blobs(120, spread=3.0), _blobs(60, seed=5, spread=3.0)
  y[7] = -1
  given = {"normalization": normalization, "mesh": _one_device(), "num_classes": 4}
  given |= {"groups": [f"g{i // 4}" for i in range(120)]} if grouped else {}
  host = logistic.evaluate(train, y, test, z, solver="sklearn", **given)
  device = logistic.evaluate(train, y, test, z, solver="device", **given)
  assert device.strength == host.strength
  assert (device.folds, device.grouped) == (host.folds, host.grouped)
  # scikit-learn ends at a gradient that leaves more to gain.
  np.testing.assert_allclose(device.probabilities, host.probabilities, atol=1e-2)
  assert device.accuracy.top1 == pytest.approx(host.accuracy.top1, abs=1 / 60)
  assert (device.probabilities[:, 3] == 0).all()
  assert device.converged
  assert host.summary()["optimizer"] == "L-BFGS (scikit-learn, float64), L2 penalty on weights"
  assert device.summary()["optimizer"] == (
    "preconditioned L-BFGS (on the devices, float32), L2 penalty on weights"
  )


def test_the_devices_take_more_features_than_videos():
  (train, y), (test, z) = _blobs(20, 64), _blobs(15, 64, seed=3)
  host, device = (
    logistic.evaluate(train, y, test, z, strength=0.1, solver=s, mesh=_one_device())
    for s in ("sklearn", "device")
  )
  np.testing.assert_allclose(device.probabilities, host.probabilities, atol=5e-3)


def test_features_far_from_the_origin_keep_their_digits_on_the_devices():
  (train, y), (test, z) = _blobs(), _blobs(30, seed=5)
  given = {"normalization": "none", "strength": 1.0, "mesh": _one_device()}
  plain = logistic.evaluate(train, y, test, z, solver="device", **given)
  far = [x.astype(np.float64) + 1e7 for x in (train, test)]
  moved = logistic.evaluate(far[0], y, far[1], z, solver="device", **given)
  np.testing.assert_allclose(moved.probabilities, plain.probabilities, atol=1e-3)


def test_normalization_in_blocks_is_that_of_the_whole(monkeypatch):
  (train, _), (test, _) = _blobs(), _blobs(30, seed=5)
  for how in logistic.NORMALIZATIONS:
    whole = logistic._normalize(train, test, how, np.float64)
    with monkeypatch.context() as m:
      m.setattr(logistic, "_BLOCK", 7)
      for a, b in zip(logistic._normalize(train, test, how, np.float64), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
  mean, std = train.astype(np.float64).mean(axis=0), train.astype(np.float64).std(axis=0)
  whole = logistic._normalize(train, test, "standard", np.float64)
  np.testing.assert_array_equal(whole[1], (test - mean) / std)


def test_large_problems_go_to_the_devices(monkeypatch):
  x, y = _blobs(30)
  seen = []
  rows = softmax_regression.Rows

  def count(*args, **kwargs):
    seen.append(args[0].dtype)
    return rows(*args, **kwargs)

  monkeypatch.setattr(softmax_regression, "Rows", count)

  def run(size, solver):
    monkeypatch.setattr(logistic, "LARGE_ON_CPUS", size)
    logistic.evaluate(x, y, x, y, strength=1.0, solver=solver, mesh=_one_device())
    return len(seen)

  assert run(30 * 5 * 3 + 1, "auto") == 0
  assert run(30 * 5 * 3, "sklearn") == 0
  assert run(30 * 5 * 3, "auto") == 1
  assert run(10**9, "device") == 2
  assert set(seen) == {np.dtype(np.float32)}


def test_an_unknown_solver_is_told():
  x, y = _blobs(9)
  assert logistic.SOLVERS == options.SOLVERS
  with pytest.raises(UserError, match="solver 'newton' is unknown: use auto, sklearn, device"):
    logistic.evaluate(x, y, x, y, strength=1.0, solver="newton")
