"""Weighted nearest neighbors against brute force in float64 and scikit-learn."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.probes import knn, metrics


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute_force(train, labels, queries, classes, k, temperature):
  cosine = unit(queries) @ unit(train).T
  out = np.zeros((len(queries), classes))
  for i, row in enumerate(cosine):
    near = np.argsort(-row, kind="stable")[:k]
    weight = np.exp((row[near] - row.max()) / temperature)
    np.add.at(out[i], labels[near], weight / weight.sum())
  return out


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
@hypothesis.given(
  sizes=st.sampled_from([(1, 1), (60, 20), (33, 7)]),  # each compiles anew
  k=st.sampled_from([1, 5, 200]),
  temperature=st.sampled_from([0.07, 1.0, 1e-3]),
  seed=st.integers(0, 10**6),
)
def test_equals_brute_force(sizes, k, temperature, seed):
  v, q = sizes
  rng = np.random.default_rng(seed)
  train, queries = rng.normal(size=(v, 6)) + 0.5, rng.normal(size=(q, 6)) + 0.5
  train, queries = train.astype(np.float32), queries.astype(np.float32)
  labels = rng.integers(0, 4, v)
  got = knn.weighted_knn(train, labels, queries, classes=4, k=k, temperature=temperature, chunk=16)
  want = brute_force(train.astype(float), labels, queries.astype(float), 4, k, temperature)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=2e-6 + 5e-7 / temperature)


def test_many_neighbors_at_a_high_temperature_are_scikit_learns_uniform_vote():
  rng = np.random.default_rng(0)
  train, queries, labels = rng.normal(size=(50, 5)), rng.normal(size=(9, 5)), np.arange(50) % 3
  got = knn.weighted_knn(train, labels, queries, classes=3, k=11, temperature=1e6, chunk=7)
  model = KNeighborsClassifier(11).fit(unit(train), labels)
  np.testing.assert_allclose(got, model.predict_proba(unit(queries)), atol=1e-5)


def test_no_more_vote_than_the_smallest_class_has():
  """With k = 200, 30 of one class against 5 of another win everywhere, though they lie apart."""
  labels = np.array([0] * 30 + [1] * 5 + [-1] * 3)
  used, why = knn.neighbors(labels, 200, bound=True)
  assert (used, why) == (5, "the smallest class has 5 training videos")
  assert knn.neighbors(labels, 5, bound=True) == (5, "")
  assert knn.neighbors(labels, 4, bound=True) == (4, "")
  free = knn.neighbors(labels, 200, bound=False)
  assert free == (35, "there are 35 labeled training videos")
  told = "not bound (knn_bound), though the smallest class has 5 training videos"
  assert knn.neighbors(labels, 20, bound=False) == (20, told)
  train = np.eye(2)[np.maximum(labels, 0)]
  vote = lambda k: knn.weighted_knn(train, labels, np.eye(2), classes=2, k=k, temperature=1.0)
  assert vote(used).argmax(axis=1).tolist() == [0, 1]
  assert vote(free[0]).argmax(axis=1).tolist() == [0, 0]


def test_more_neighbors_than_videos_is_all_of_them():
  x, labels = np.eye(3), np.array([0, 1, 1])
  few, many = (
    knn.weighted_knn(x, labels, x[:1], classes=2, k=k, temperature=0.5) for k in (3, 200)
  )
  np.testing.assert_array_equal(few, many)
  np.testing.assert_allclose(few[0, 0], np.exp(2) / (np.exp(2) + 2), rtol=1e-6)


def test_tiny_temperature_does_not_overflow_and_zero_features_are_harmless():
  x, labels = np.eye(4), np.arange(4)
  votes = knn.weighted_knn(x, labels, x, classes=4, temperature=1e-4)
  np.testing.assert_allclose(votes, np.eye(4), atol=1e-6)
  np.testing.assert_allclose(
    knn.weighted_knn(0 * x, labels, 0 * x, classes=4), np.full((4, 4), 0.25), rtol=1e-6
  )


def _top1(bank, bank_label, queries, query_label, classes, **settings):
  """As the protocol `knn` scores votes."""
  votes = knn.weighted_knn(bank, bank_label, queries, classes=classes, **settings)
  return metrics.accuracy(votes, query_label).top1


def test_accuracy_leaves_unlabeled_videos_out():
  x = np.eye(4)
  bank, queries = np.array([0, 1, -1, 2]), np.array([0, -1, 3, 2])
  assert _top1(x, bank, x, queries, 4, k=1) == pytest.approx(2 / 3)
  with pytest.raises(UserError, match="training split"):
    _top1(x, np.full(4, -1), x, queries, 4)
  with pytest.raises(UserError, match="evaluation split"):
    _top1(x, bank, x, np.full(4, -1), 4)


def test_separable_classes_are_told_apart():
  rng = np.random.default_rng(0)
  labels = np.arange(90) % 3
  x = 4 * np.eye(3)[labels] + 0.3 * rng.normal(size=(90, 3))
  assert _top1(x[:60], labels[:60], x[60:], labels[60:], 3) == 1.0


@pytest.mark.parametrize("count", [1, 5, 37])
def test_devices_share_the_queries(count, monkeypatch):
  """Features of ±1 have exact cosines, many of them equal: the same neighbors, the same votes."""
  rng = np.random.default_rng(0)
  train, queries = (rng.choice([-1.0, 1.0], (n, 16)).astype(np.float32) for n in (60, count))
  labels = rng.integers(0, 4, 60)
  one, eight = (
    knn.weighted_knn(train, labels, queries, classes=4, k=7, chunk=16, devices=devices)
    for devices in (jax.devices()[:1], jax.devices()[:8])
  )
  assert jax.device_count() >= 8
  np.testing.assert_array_equal(eight, one)
  monkeypatch.setattr(parallel, "local_meshes", lambda d, n: [parallel.make_mesh([x]) for x in d])
  alone = knn.weighted_knn(
    train, labels, queries, classes=4, k=7, chunk=16, devices=jax.devices()[:3]
  )
  np.testing.assert_array_equal(alone, one)
  np.testing.assert_allclose(one, brute_force(train, labels, queries, 4, 7, 0.07), atol=1e-5)


def test_each_device_computes_its_queries_alone():
  mesh = parallel.make_mesh(jax.devices()[:8])
  program = knn.votes(mesh, classes=4, k=7, chunk=64)
  whole, rows = parallel.replicated(mesh), parallel.split(mesh)
  shape = lambda *s, at=whole, of=np.float32: jax.ShapeDtypeStruct(s, of, sharding=at)
  given = (shape(512, 64), shape(512, of=np.int32), shape(4096, 64, at=rows), shape())
  compiled = program.lower(*given).compile()
  text = compiled.as_text()
  assert not [word for word in ("all-gather", "all-reduce", "all-to-all") if word in text]
  assert "f32[512,64]" in text  # queries of one device
  # A tile is 64², all similarities of a device are 512².
  assert compiled.memory_analysis().temp_size_in_bytes < 512 * 512 * 4


def test_bad_input_is_named():
  x = np.eye(3)
  with pytest.raises(UserError, match="label 5"):
    knn.weighted_knn(x, np.array([0, 1, 5]), x, classes=3)
  with pytest.raises(UserError, match="k and temperature"):
    knn.weighted_knn(x, np.arange(3), x, classes=3, k=0)
  with pytest.raises(UserError, match="k and temperature"):
    knn.weighted_knn(x, np.arange(3), x, classes=3, temperature=0.0)
