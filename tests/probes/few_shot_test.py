"""Episodes against scikit-learn, and what they claim of themselves."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from vssl_jax.errors import UserError
from vssl_jax.probes import few_shot


def _features(rng, classes, each, noise):
  label = np.repeat(np.arange(classes), each)
  return np.eye(8)[label] + noise * rng.normal(size=(len(label), 8)), label


def test_one_video_a_class_is_the_nearest_neighbor():
  """With one support video a class to choose from, every episode is known: cosine 1-NN."""
  rng = np.random.default_rng(0)
  bank, bank_label = _features(rng, 4, 1, 0.6)
  queries, label = _features(rng, 4, 25, 0.6)
  found = few_shot.evaluate(
    bank, bank_label, queries, label, shots=1, ways=4, per_class=25, episodes=3
  )
  oracle = KNeighborsClassifier(1, metric="cosine").fit(bank, bank_label)
  assert 0.3 < found["accuracy"] < 1
  assert found["accuracy"] == pytest.approx(oracle.score(queries, label))
  assert found["interval"] == 0


def test_all_support_is_the_nearest_mean():
  rng = np.random.default_rng(1)
  bank, bank_label = _features(rng, 3, 5, 0.9)
  queries, label = _features(rng, 3, 20, 0.9)
  found = few_shot.evaluate(
    bank, bank_label, queries, label, shots=5, ways=3, per_class=20, episodes=2
  )
  unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
  means = np.stack([unit[bank_label == c].mean(0) for c in range(3)])
  oracle = KNeighborsClassifier(1, metric="cosine").fit(means, np.arange(3))
  assert found["accuracy"] == pytest.approx(oracle.score(queries, label))


def test_episodes_are_seeded_and_their_interval_shrinks():
  rng = np.random.default_rng(2)
  given = (*_features(rng, 6, 10, 0.8), *_features(rng, 6, 10, 0.8))
  settings = {"shots": 1, "ways": 3, "per_class": 5}
  a, b, c = (few_shot.evaluate(*given, **settings, episodes=200, seed=s) for s in (0, 0, 1))
  assert a == b
  assert a["accuracy"] != c["accuracy"]
  assert abs(a["accuracy"] - c["accuracy"]) < 2 * (a["interval"] + c["interval"])
  more = few_shot.evaluate(*given, **settings, episodes=800)
  assert more["interval"] == pytest.approx(a["interval"] / 2, rel=0.15)
  five = few_shot.evaluate(*given, **{**settings, "shots": 5}, episodes=200)
  assert five["accuracy"] > a["accuracy"] + 0.05


def test_random_features_are_at_chance():
  rng = np.random.default_rng(3)
  label = np.repeat(np.arange(5), 40)
  found = few_shot.evaluate(
    rng.normal(size=(200, 16)), label, rng.normal(size=(200, 16)), label, episodes=400
  )
  assert found["accuracy"] == pytest.approx(0.2, abs=0.02)


def test_classes_without_support_queries_or_label_are_left_out():
  rng = np.random.default_rng(4)
  bank, bank_label = _features(rng, 4, 3, 0.0)
  queries, label = _features(rng, 3, 2, 0.0)
  bank_label[bank_label == 0] = -1
  found = few_shot.evaluate(bank, bank_label, queries, label, ways=5, episodes=10)
  assert found["ways"] == 2
  assert found["accuracy"] == 1
  with pytest.raises(UserError, match="--shots=4"):
    few_shot.evaluate(bank, bank_label, queries, label, shots=4)


@pytest.mark.parametrize("field", ["shots", "ways", "per_class", "episodes"])
def test_impossible_numbers(field):
  x, y = np.eye(2), np.arange(2)
  with pytest.raises(UserError, match="too few"):
    few_shot.evaluate(x, y, x, y, **{field: 0})
