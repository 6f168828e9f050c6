"""Retrieval of Gaussian videos: moments of views, both rankings against sorted distances."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.ops.bhattacharyya_test import oracle
from vssl_jax.errors import UserError
from vssl_jax.ops.mining import Rule
from vssl_jax.probes import gaussian, retrieval


def videos(n, d=6, seed=0):
  rng = np.random.default_rng(seed)
  label = np.arange(n, dtype=np.int32) % 4
  centers = np.random.default_rng(9).normal(size=(4, d))
  mean = centers[label] + rng.normal(size=(n, d))
  return gaussian.Videos(np.float32(mean), np.float32(np.exp(rng.normal(size=(n, d)))), label)


def test_both_rankings_by_hand():
  bank, queries = videos(40), videos(13, seed=1)
  got = gaussian.evaluate(bank, queries, recalls=(1, 3, 10))
  both = (
    np.concatenate([queries.mean, bank.mean]),
    np.concatenate([queries.variance, bank.variance]),
  )
  order = np.argsort(oracle(*map(np.float64, both))[:13, 13:], axis=1)
  hits = bank.label[order] == queries.label[:, None]
  assert got["bhattacharyya"] == {f"R@{k}": hits[:, :k].any(1).mean() for k in (1, 3, 10)}
  want = retrieval.evaluate(bank.mean, bank.label, queries.mean, queries.label, recalls=(1, 3, 10))
  assert got["mean"] == want
  assert got["mean"] != got["bhattacharyya"]
  found = gaussian.nearest(queries, bank, 5, Rule(), block_size=7)
  np.testing.assert_array_equal(found, order[:, :5])


def test_the_ranking_is_by_the_rule_s_distance():
  bank, queries = videos(40), videos(13, seed=1)
  other = gaussian.nearest(queries, bank, 5, Rule(weight=0.0))
  variances = np.concatenate([queries.variance, bank.variance]).astype(np.float64)
  want = np.argsort(oracle(0 * variances, variances)[:13, 13:], axis=1)[:, :5]
  np.testing.assert_array_equal(other, want)


def test_uncertainty_of_hits_and_misses():
  bank = videos(40)
  queries = videos(13, seed=1)
  got = gaussian.evaluate(bank, queries)["uncertainty"]
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  first = bank.label[np.argmax(unit(queries.mean) @ unit(bank.mean).T, axis=1)] == queries.label
  trace = queries.variance.sum(1)
  np.testing.assert_allclose(got["hit"], trace[first].mean(), rtol=1e-5)
  np.testing.assert_allclose(got["miss"], trace[~first].mean(), rtol=1e-5)
  np.testing.assert_allclose(got["all"], trace.mean(), rtol=1e-5)
  assert gaussian.evaluate(bank, bank)["uncertainty"]["miss"] is None


def test_videos_without_a_label_are_left_out():
  bank, queries = videos(40), videos(13, seed=1)
  unknown = np.where(np.arange(40) % 2, bank.label, -1)
  got = gaussian.evaluate(gaussian.Videos(bank.mean, bank.variance, unknown), queries)
  half = gaussian.Videos(bank.mean[1::2], bank.variance[1::2], bank.label[1::2])
  assert got == gaussian.evaluate(half, queries)
  with pytest.raises(UserError, match="evaluation split has a label"):
    gaussian.evaluate(bank, gaussian.Videos(queries.mean, queries.variance, 0 * queries.label - 1))


class Source:
  """Ten videos of three views each, one number per view."""

  num_videos, label_names = 10, ("a", "b")

  def eval_batches(self, batch_size, *, clips, **views):
    assert (clips, views["frames"]) == (2, 4)
    clip = np.arange(10 * 3, dtype=np.uint8).reshape(10, 3, 1, 1, 1, 1)
    for i in range(0, 10, 5):
      rows = np.arange(i, i + 5)
      yield {
        "clips": clip[rows],
        "label": (rows % 2).astype(np.int32),
        "video": rows.astype(np.int64),
        "offset": np.zeros((5, 3), np.int32),
      }


def test_a_video_is_the_mixture_of_its_views():
  def apply(variables, clips):
    x = clips.reshape(-1, 1).astype(jnp.float32)
    return jnp.concatenate([variables["scale"] * x, 0 * x + 1, 0 * x, 0 * x - 2], axis=1)

  config = small.shrink(small.load("provico.py", "demo"))
  got = gaussian.extract(apply, {"scale": np.float32(2)}, Source(), config)
  first = 2 * np.arange(30.0).reshape(10, 3)
  np.testing.assert_allclose(got.mean, np.stack([first.mean(1), np.ones(10)], axis=1))
  want = np.stack([1 + first.var(1), np.full(10, np.exp(-2))], axis=1)
  np.testing.assert_allclose(got.variance, want, rtol=1e-5)
  np.testing.assert_allclose(got.uncertainty, want.sum(1), rtol=1e-5)
  np.testing.assert_array_equal(got.label, np.arange(10) % 2)
