"""Mined pairs of some videos against sorted distances in float64."""

import dataclasses

import numpy as np
import pytest

from tests.ops.bhattacharyya_test import oracle
from vssl_jax.errors import UserError
from vssl_jax.losses.provico import LossSettings
from vssl_jax.ops.mining import Rule
from vssl_jax.probes import gaussian
from vssl_jax.uncertainty import mined_pairs


def videos(n=24, d=16, seed=0):
  rng = np.random.default_rng(seed)
  mean = rng.normal(size=(n, d)).astype(np.float32)
  return gaussian.Videos(mean, np.exp(rng.normal(size=(n, d))).astype(np.float32), np.arange(n))


def settings(on="moments", **rule):
  return LossSettings(distance_on=on, samples=64, rule=Rule(**rule))


def test_the_nearest_share_of_the_pairs_is_positive():
  v = videos()
  apart, positive = mined_pairs.mine(v, settings(value=0.1))
  want = oracle(v.mean.astype(np.float64), v.variance.astype(np.float64))
  np.testing.assert_allclose(apart, want, rtol=1e-4, atol=1e-4)
  upper = np.triu_indices(24, 1)
  nearest = np.argsort(want[upper])[: int(np.ceil(0.1 * len(upper[0])))]
  expected = np.zeros(len(upper[0]), bool)
  expected[nearest] = True
  np.testing.assert_array_equal(positive[upper], expected)
  assert (positive == positive.T).all()
  assert not positive.diagonal().any()


def test_samples_add_their_noise_to_distances_where_training_mines_on_them():
  v = videos()
  plain, _ = mined_pairs.mine(v, settings())
  sampled, _ = mined_pairs.mine(v, settings("samples"))
  off = ~np.eye(24, dtype=bool)
  # λ D = 4 more on average; see ops.bhattacharyya.
  np.testing.assert_allclose((sampled - plain)[off].mean(), 4, rtol=0.1)
  np.testing.assert_array_equal(sampled, mined_pairs.mine(v, settings("samples"))[0])
  assert (sampled != mined_pairs.mine(v, settings("samples"), seed=1)[0]).any()


def test_neighbors_are_nearest_first_on_either_side():
  v = videos()
  apart, positive = mined_pairs.mine(v, settings(kind="top_k", value=3))
  near, far = mined_pairs.neighbors(apart, positive, 5, 4)
  assert all(p.positive for p in near)
  assert not any(p.positive for p in far)
  assert len(far) == 4
  order = [j for j in np.argsort(apart[5]) if j != 5]
  assert [p.video for p in near] == [j for j in order if positive[5, j]][:4]
  assert [p.video for p in far] == [j for j in order if not positive[5, j]][:4]
  assert [p.distance for p in far] == [float(apart[5, p.video]) for p in far]
  none, far = mined_pairs.neighbors(*mined_pairs.mine(v, settings(kind="none")), 0, 30)
  assert none == []
  assert len(far) == 23
  with pytest.raises(UserError, match="video 24: there are 24"):
    mined_pairs.neighbors(apart, positive, 24, 1)


def test_anchors_go_from_certain_to_uncertain():
  v = videos(9)
  u = v.uncertainty
  found = mined_pairs.evenly_spaced(u, 3)
  assert found == [int(np.argsort(u)[r]) for r in (0, 4, 8)]
  assert sorted(mined_pairs.evenly_spaced(u, 99)) == list(range(9))


def test_settings_are_the_run_s_own():
  v, s = videos(), settings(value=0.1)
  weighted = dataclasses.replace(s, rule=dataclasses.replace(s.rule, weight=0.0))
  apart, _ = mined_pairs.mine(v, weighted)
  want = oracle(0 * v.mean.astype(np.float64), v.variance.astype(np.float64))
  np.testing.assert_allclose(apart, want, rtol=1e-4, atol=1e-4)
