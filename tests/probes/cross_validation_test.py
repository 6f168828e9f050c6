"""Against scikit-learn's own loop, and against leaks between folds."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vssl_jax.errors import UserError
from vssl_jax.probes import cross_validation, logistic, too_few_videos


def _blobs(videos, classes=3, width=6, seed=0):
  rng = np.random.default_rng(seed)
  y = np.arange(videos) % classes
  return rng.normal(size=(classes, width))[y] + 0.8 * rng.normal(size=(videos, width)), y


def test_equal_to_scikit_learn():
  x, y = _blobs(90)
  found = cross_validation.evaluate(x, y, seed=3)
  right, near = [], []
  for fit, held in StratifiedKFold(5, shuffle=True, random_state=3).split(x, y):
    inner = StratifiedKFold(5, shuffle=True, random_state=3)
    model = make_pipeline(
      StandardScaler(),
      LogisticRegressionCV(
        Cs=logistic.STRENGTHS,
        cv=inner,
        scoring="neg_log_loss",
        max_iter=2000,
      ),
    ).fit(x[fit], y[fit])
    right += list(model.predict(x[held]) == y[held])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    one = KNeighborsClassifier(1).fit(unit[fit], y[fit])
    near += list(one.predict(unit[held]) == y[held])
  assert found["R@1"] == pytest.approx(np.mean(near))
  # The inner folds standardize by their whole training part here, and by theirs there.
  assert found["top1"] == pytest.approx(np.mean(right), abs=0.03)
  assert found["folds"] == 5
  assert sum(r["videos"] for r in found["by_fold"]) == 90


def test_copies_in_other_folds_tell_nothing_once_grouped():
  rng = np.random.default_rng(0)
  groups = np.repeat([f"g{i:02}" for i in range(40)], 4)
  y = np.repeat(rng.permutation(40) % 2, 4)  # no signal but the group
  x = np.repeat(rng.normal(size=(40, 30)), 4, axis=0) + 1e-3 * rng.normal(size=(160, 30))
  assert cross_validation.evaluate(x, y)["R@1"] == 1.0
  found = cross_validation.evaluate(x, y, groups=list(groups))
  assert found["grouped"]
  assert found["R@1"] < 0.75
  assert found["top1"] < 0.75


def test_unlabeled_videos_are_left_out():
  x, y = _blobs(60)
  more, label = np.concatenate([x, x + 9]), np.concatenate([y, np.full(60, -1)])
  assert cross_validation.evaluate(more, label) == cross_validation.evaluate(x, y)


def test_too_few_videos_are_told():
  x, y = _blobs(3)
  with pytest.raises(UserError, match="too few training videos"):
    cross_validation.evaluate(x, y)


@pytest.mark.parametrize(("videos", "suffice"), [(9, True), (6, False), (3, False)])
def test_what_suffices_is_known_before(videos, suffice):
  x, y = _blobs(videos)  # of two videos per class, one is left to choose C by
  for function in (cross_validation.check, lambda label: cross_validation.evaluate(x, label)):
    if suffice:
      function(y)
    else:
      with pytest.raises(too_few_videos.TooFewVideos):
        function(y)
