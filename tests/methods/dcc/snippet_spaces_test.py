"""Samples of snippets, and how well a space tells them apart."""

import math

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from vssl_jax.localization.observe import Observed
from vssl_jax.methods.dcc import snippet_spaces


def seen(video, label, x):
  """A video whose steps are of class `label` (−1: none)."""
  label = np.asarray(label)
  truth = label[:, None] == np.arange(3)
  n = np.zeros(len(label))
  return Observed(video, f"v{video}", 1.0, truth, np.array([0]), n, truth, n, n, {"space": x})


def test_half_is_background_and_classes_share_the_rest():
  rng = np.random.default_rng(0)
  label = np.repeat([-1, 0, 1, 2], [60, 30, 30, 2])
  videos = [seen(v, label, np.c_[label, rng.random(len(label))]) for v in range(4)]
  sample = snippet_spaces.draw(iter(videos), 60)
  values, counts = np.unique(sample.label, return_counts=True)
  assert dict(zip(values, counts, strict=True)) == {-1: 30, 0: 10, 1: 10, 2: 8}  # all there are
  np.testing.assert_array_equal(sample.spaces["space"][:, 0], sample.label)
  assert set(sample.video) == {0, 1, 2, 3}
  again = snippet_spaces.draw(iter(videos), 60)
  np.testing.assert_array_equal(sample.spaces["space"], again.spaces["space"])
  other = snippet_spaces.draw(iter(videos), 60, seed=1)
  assert not np.array_equal(sample.spaces["space"], other.spaces["space"])
  # One row is all of the class's snippets with equal chances, whatever video they are of.
  assert 3 <= (snippet_spaces.draw(iter(videos), 240).video == 0).sum() / 15 <= 5


def test_purity_against_sklearn_one_snippet_a_video():
  rng = np.random.default_rng(0)
  x, label = rng.normal(size=(40, 5)), rng.integers(0, 3, 40)
  finder = NearestNeighbors(n_neighbors=5, metric="cosine").fit(x)
  nearest = finder.kneighbors(return_distance=False)
  want = (label[nearest] == label[:, None]).mean()
  np.testing.assert_allclose(snippet_spaces.purity(x, label, np.arange(40), 5), want)


def test_neighbors_of_the_same_video_do_not_count():
  x = np.array([[1, 0], [1, 0.01], [1, 0.1], [0, 1], [0.1, 1.0]])
  label, video = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 2, 1])
  # 0 and 1 are each other's nearest but of one video: their next is 2, of the other label.
  np.testing.assert_allclose(snippet_spaces.purity(x, label, video, 1), 2 / 5)
  assert math.isnan(snippet_spaces.purity(x, label, np.zeros(5), 1))
  # Fewer neighbors than asked for: those there are.
  np.testing.assert_allclose(snippet_spaces.purity(x[[0, 2]], label[[0, 2]], video[[0, 2]], 10), 0)


def test_apart_is_better_than_mixed():
  rng = np.random.default_rng(0)
  label = np.arange(60) % 3 - 1
  apart = np.eye(3)[label] + 0.05 * rng.normal(size=(60, 3))
  mixed = rng.normal(size=(60, 3))
  spaces = {"apart": apart.astype(np.float32), "mixed": mixed.astype(np.float32)}
  got = snippet_spaces.quality(snippet_spaces.Sample(label, np.arange(60), spaces))
  assert got["apart"]["silhouette"] > 0.8 > 0.2 > got["mixed"]["silhouette"]
  assert got["apart"]["knn_purity"] == got["apart"]["action_purity"] == 1
  assert got["mixed"]["knn_purity"] < 0.6
  np.testing.assert_allclose(got["apart"]["chance"], 1 / 3)
  assert math.isnan(snippet_spaces.silhouette(apart, np.zeros(60)))


@pytest.mark.parametrize("count", [5, 40])
def test_tsne_puts_apart_what_is(count):
  label = np.arange(count) % 2
  x = np.eye(2)[label] + 0.01 * np.random.default_rng(0).normal(size=(count, 2))
  plane = snippet_spaces.embed(x.astype(np.float32))
  assert plane.shape == (count, 2)
  if count > 5:
    assert snippet_spaces.purity(plane - plane.mean(0), label, np.arange(count), 3) > 0.8
