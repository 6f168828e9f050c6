import functools
import warnings

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.ops.kmeans import kmeans, plus_plus


def blobs(n=200, d=5, k=8, seed=0, spread=1.0, offset=0.0):
  rng = np.random.default_rng(seed)
  middle = rng.standard_normal((k, d))
  label = rng.integers(0, k, n)
  x = middle[label] + 0.5 * spread * rng.standard_normal((n, d)) + offset
  return x.astype(np.float32), label


def sklearn_lloyd(x, centers, iterations):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fewer distinct clusters, or not converged
    return KMeans(
      len(centers), init=centers, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
    ).fit(x.astype(np.float64))


def check(found, want):
  np.testing.assert_array_equal(found.labels, want.labels_)
  np.testing.assert_allclose(found.centers, want.cluster_centers_, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found.inertia, want.inertia_, rtol=1e-4)
  np.testing.assert_array_equal(
    found.counts, np.bincount(want.labels_, minlength=len(want.cluster_centers_))
  )


run = jax.jit(kmeans, static_argnames=("block_size", "mesh", "axis_name"))


@pytest.mark.parametrize("block_size", [7, 64, 1000])
def test_equals_scikit_learn(block_size):
  x, _ = blobs()
  for iterations in (1, 3, 100):
    found = run(x, x[:8], iterations=iterations, block_size=block_size)
    want = sklearn_lloyd(x, x[:8], iterations)
    check(found, want)
    assert found.iterations == want.n_iter_


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True, database=None)
@hypothesis.given(seed=st.integers(0, 10**6), spread=st.sampled_from([0.1, 1.0, 4.0]))
def test_equals_scikit_learn_on_any_blobs(seed, spread):
  x, _ = blobs(seed=seed, spread=spread)
  check(run(x, x[:8], iterations=10, block_size=64), sklearn_lloyd(x, x[:8], 10))


def test_points_far_from_the_origin():
  """Scores about the centers' mean: at 10,000 times the spread float32 still tells the clusters."""
  x, label = blobs(n=300, d=16, spread=0.3, offset=1e4)
  start = np.stack([x[label == c][0] for c in range(8)])
  found = run(x, start)
  np.testing.assert_array_equal(found.labels, label)


def test_last_labels_fit_the_last_centers():
  x, _ = blobs()
  found = run(x, x[:8], iterations=2)
  apart = ((x[:, None] - np.asarray(found.centers)[None]) ** 2).sum(-1)
  np.testing.assert_array_equal(found.labels, apart.argmin(1))
  np.testing.assert_allclose(found.inertia, apart.min(1).sum(), rtol=1e-5)
  none = run(x, x[:8], iterations=0)
  np.testing.assert_array_equal(none.centers, x[:8])
  assert none.iterations == 0


def test_stops_where_nothing_moves_and_on_tolerance():
  x, _ = blobs(spread=0.1)
  full = run(x, x[:8], iterations=100)
  assert 1 < full.iterations < 30
  again = run(x, full.centers, iterations=100)
  assert again.iterations <= 1
  assert run(x, x[:8], iterations=30, tolerance=-1.0).iterations == 30
  loose = run(x, x[:8], iterations=100, tolerance=1e9)
  assert loose.iterations == 1


def test_warm_start_continues():
  """Three iterations and then four are seven."""
  x, _ = blobs(spread=2.0)
  once = run(x, x[:8], iterations=7, tolerance=-1.0)
  half = run(x, x[:8], iterations=3, tolerance=-1.0)
  twice = run(x, half.centers, iterations=4, tolerance=-1.0)
  for a, b in zip(once[:4], twice[:4], strict=True):
    np.testing.assert_array_equal(a, b)


def test_empty_cluster_takes_the_farthest_point_as_scikit_learn_has_it():
  x, _ = blobs()
  start = x[:8].copy()
  start[3] = 100.0  # nearest to no point
  for iterations in (1, 2, 10):
    check(run(x, start, iterations=iterations, block_size=50), sklearn_lloyd(x, start, iterations))


def test_several_empty_clusters_take_the_farthest_in_turn():
  """By hand: all points near 0 belong to center 0; the two farthest leave it."""
  x = np.array([[0.0], [1], [2], [9], [7], [0]], np.float32)
  found = run(x, np.array([[0.0], [50], [60]], np.float32), iterations=1)
  np.testing.assert_allclose(found.centers, [[0.75], [9], [7]])
  np.testing.assert_array_equal(found.labels, [0, 0, 0, 1, 2, 0])
  np.testing.assert_array_equal(found.counts, [4, 1, 1])


def test_more_centers_than_distinct_points():
  x = np.repeat(np.array([[0.0, 1], [4, 2]], np.float32), 5, axis=0)
  found = run(x, x[:4], iterations=5)
  assert found.inertia == 0
  assert np.isfinite(found.centers).all()
  assert set(np.asarray(found.labels[:5])).isdisjoint(np.asarray(found.labels[5:]))
  few = run(x[:2], x[:4], iterations=3)  # K above N
  assert few.centers.shape == (4, 2)
  assert few.inertia == 0


def test_masked_points_do_not_count():
  x, _ = blobs(n=90)
  mask = np.arange(90) % 3 != 1
  noisy = np.where(mask[:, None], x, 1e6).astype(np.float32)
  found = run(noisy, x[mask][:6], mask=mask, block_size=32, iterations=20)
  alone = run(x[mask], x[mask][:6], iterations=20)
  np.testing.assert_array_equal(found.labels[mask], alone.labels)
  np.testing.assert_array_equal(found.labels[~mask], -1)
  np.testing.assert_array_equal(found.counts, alone.counts)
  np.testing.assert_allclose(found.centers, alone.centers, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found.inertia, alone.inertia, rtol=1e-5)


def test_masked_points_seed_no_cluster():
  x = np.array([[0.0], [1], [2], [99], [7]], np.float32)
  start = np.array([[0.0], [-50]], np.float32)
  found = run(x, start, mask=np.array([1, 1, 1, 0, 1], bool), iterations=1)
  np.testing.assert_allclose(found.centers, [[1.0], [7]])
  nothing = run(x, start, mask=np.zeros(5, bool))
  np.testing.assert_array_equal(nothing.centers, start)
  np.testing.assert_array_equal(nothing.counts, [0, 0])


def test_many_videos_at_once():
  """Videos that need reseeding, stop early, or are padded do as they would alone."""
  x = np.stack([blobs(n=60, seed=s, spread=s + 0.2)[0] for s in range(4)])
  mask = np.arange(60) < np.array([60, 45, 20, 60])[:, None]
  start = x[:, :5].copy()
  start[1, 2] = 80.0
  each = jax.jit(jax.vmap(lambda x, c, m: run(x, c, mask=m, block_size=32)))(x, start, mask)
  for v in range(4):
    alone = run(x[v], start[v], mask=mask[v], block_size=32)
    for a, b in zip(each, alone, strict=True):
      np.testing.assert_allclose(a[v], b, rtol=1e-5, atol=1e-5)


def test_videos_over_devices():
  """A batch of videos split over devices, each video whole, as in a training step."""
  x = np.stack([blobs(n=40, seed=s)[0] for s in range(8)])
  each = jax.jit(jax.vmap(lambda x: kmeans(x, x[:4], iterations=6)))
  mesh = parallel.make_mesh(jax.devices()[:8])
  many = each(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))))
  for a, b in zip(many, each(x), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("empty", [False, True])
def test_eight_devices_are_one(empty):
  x, _ = blobs(n=160)
  mask = np.arange(160) < 150
  start = x[:8].copy()
  if empty:
    start[[2, 5]] = 100.0
  mesh = parallel.make_mesh(jax.devices()[:8])
  split = functools.partial(run, iterations=6, block_size=16, mesh=mesh, axis_name="data")
  put = lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("data")))
  many = split(put(x), start, mask=put(mask))
  one = run(x, start, mask=mask, iterations=6)
  np.testing.assert_array_equal(many.labels, one.labels)
  np.testing.assert_array_equal(many.counts, one.counts)
  np.testing.assert_allclose(many.centers, one.centers, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(many.inertia, one.inertia, rtol=1e-5)
  assert many.iterations == one.iterations
  assert len(many.labels.sharding.device_set) == 8
  assert many.centers.sharding.is_fully_replicated


def test_the_form_for_accelerators_agrees(monkeypatch):
  """One-hot products and a search by row, which a CPU does otherwise."""
  x, _ = blobs()
  usual = kmeans(x, x[:8], block_size=64)
  monkeypatch.setattr(lax, "platform_dependent", lambda *args, cpu, default: default(*args))
  other = kmeans(x, x[:8], block_size=64)
  np.testing.assert_array_equal(other.labels, usual.labels)
  np.testing.assert_allclose(other.centers, usual.centers, rtol=1e-5, atol=1e-6)


def test_of_equal_centers_the_first_wins():
  x, _ = blobs(n=20)
  found = run(x, np.concatenate([x[:1] + 9, x[:1], x[:1]]), iterations=0)
  assert set(np.asarray(found.labels)) <= {0, 1}


def test_repeats_to_the_bit():
  x, _ = blobs()
  first, second = run(x, x[:8]), run(x, x[:8])
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a, b)


def test_no_gradient_flows_and_half_precision_is_summed_in_float32():
  x, _ = blobs()
  grad = jax.grad(lambda x: jnp.sum(run(x, x[:3]).centers))(jnp.asarray(x))
  np.testing.assert_array_equal(grad, 0)
  found = run(jnp.ones((4096, 2), jnp.bfloat16), jnp.ones((1, 2), jnp.bfloat16))
  assert found.centers.dtype == jnp.float32
  np.testing.assert_array_equal(found.centers, 1)


def test_memory_is_bounded():
  """Scores of 1,000,000 points and 1,000 centers would be 4 GB."""
  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1_000_000, 8), (1000, 8))]
  memory = run.lower(*shapes).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 40e6


def test_plus_plus_draws_a_row_from_each_far_cluster():
  x, label = blobs(n=200, d=8, k=6, spread=0.02)
  for seed in range(5):
    drawn = plus_plus(jax.random.key(seed), x, 6)
    nearest = ((np.asarray(drawn)[:, None] - x[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(drawn, x[nearest])
    assert sorted(label[nearest]) == list(range(6))
  assert adjusted_rand_score(label, run(x, drawn).labels) == 1


def test_plus_plus_far_from_the_origin_draws_no_point_twice():
  x, _ = blobs(n=60, d=16, offset=1e4)
  drawn = np.asarray(plus_plus(jax.random.key(0), x, 60))
  assert len(np.unique(drawn, axis=0)) == 60


def test_plus_plus_draws_by_squared_distance():
  """After 0 the points 1, 2, 3 come with chances 1, 4, 9 of 14; the first alike."""
  x = np.array([[0.0], [1], [2], [3]], np.float32)
  draw = jax.jit(jax.vmap(lambda key: plus_plus(key, x, 2, trials=1)))
  drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 8000)))[..., 0]
  first = np.bincount(drawn[:, 0].astype(int), minlength=4) / len(drawn)
  np.testing.assert_allclose(first, 0.25, atol=0.02)
  second = drawn[drawn[:, 0] == 0, 1].astype(int)
  np.testing.assert_allclose(
    np.bincount(second, minlength=4) / len(second), np.array([0, 1, 4, 9]) / 14, atol=0.04
  )


def test_plus_plus_is_greedy_over_its_trials():
  x, _ = blobs(n=100, spread=0.5)

  def inertia(trials):
    draw = jax.jit(jax.vmap(lambda key: plus_plus(key, x, 8, trials=trials)))
    centers = np.asarray(draw(jax.random.split(jax.random.key(0), 30)))
    return ((centers[:, :, None] - x) ** 2).sum(-1).min(1).sum(-1).mean()

  assert inertia(8) < 0.9 * inertia(1)


def test_plus_plus_with_masks_duplicates_and_devices():
  x, _ = blobs(n=80)
  mask = np.arange(80) < 30
  drawn = plus_plus(jax.random.key(0), x, 25, mask=mask)
  assert {tuple(c) for c in np.asarray(drawn)} <= {tuple(c) for c in x[:30]}
  assert len(np.unique(np.asarray(drawn), axis=0)) == 25
  same = plus_plus(jax.random.key(0), np.ones((5, 2), np.float32), 4)
  np.testing.assert_array_equal(same, 1)
  mesh = parallel.make_mesh(jax.devices()[:8])
  split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
  draw = jax.jit(lambda x: plus_plus(jax.random.key(3), x, 10))
  np.testing.assert_array_equal(draw(split), draw(x))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda x: kmeans(x[0], x), r"\[N, D\]"),
    (lambda x: kmeans(x, x[:, :1]), r"\[N, D\]"),
    (lambda x: kmeans(x[:0], x), "N > 0"),
    (lambda x: kmeans(x, x[:0]), "0 centers"),
    (lambda x: kmeans(x, x, mask=np.ones(3, bool)), r"\[4\]"),
    (lambda x: kmeans(x, x, iterations=-1), "-1"),
    (lambda x: kmeans(x, x, block_size=0), "block_size"),
    (lambda x: plus_plus(jax.random.key(0), x, 0), "positive"),
    (
      lambda x: kmeans(x, x, mesh=parallel.make_mesh(jax.devices()[:8]), axis_name="data"),
      "pad them",
    ),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(UserError, match=message):
    call(np.ones((4, 2), np.float32))
