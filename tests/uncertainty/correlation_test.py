"""The analysis in numbers: rank correlations by hand, groups by uncertainty, what is said."""

import numpy as np
import pytest

from vssl_jax.errors import UserError
from vssl_jax.probes import gaussian
from vssl_jax.uncertainty import correlation


def rank_correlation(x, y):
  """Spearman's by its definition: Pearson's of mean ranks."""
  rank = lambda v: np.array([np.mean(np.flatnonzero(np.sort(v) == a)) for a in v])
  return np.corrcoef(rank(np.asarray(x)), rank(np.asarray(y)))[0, 1]


def test_spearman_by_hand_with_ties():
  rng = np.random.default_rng(0)
  x, hit = rng.normal(size=40), rng.random(40) < 0.5
  got = correlation.spearman(x, hit)
  np.testing.assert_allclose(got["rho"], rank_correlation(x, hit.astype(float)), rtol=1e-9)
  t = got["rho"] * np.sqrt(38 / (1 - got["rho"] ** 2))
  draws = np.random.default_rng(1).standard_t(38, 200_000)
  np.testing.assert_allclose(got["p"], (np.abs(draws) > abs(t)).mean(), atol=0.005)
  assert correlation.spearman([1, 2, 9], [3, 2, 1])["rho"] == -1


@pytest.mark.parametrize(("x", "y"), [([1, 2], [2, 1]), ([1, 1, 1], [1, 2, 3]), ([], [])])
def test_a_correlation_that_does_not_exist_is_none(x, y):
  assert correlation.spearman(x, y) == {"rho": None, "p": None, "n": len(x)}


def test_quantiles_split_videos_by_rank():
  u = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 0.0, 6.0])
  hit = np.array([0, 1, 0, 1, 1, 1, 0], bool)
  rows = correlation.by_quantile(u, hit, 3)
  assert [r["videos"] for r in rows] == [3, 2, 2]
  assert [r["R@1"] for r in rows] == [1, 0.5, 0]
  assert [(r["from"], r["to"]) for r in rows] == [(0, 2), (3, 4), (5, 6)]
  assert [r["uncertainty"] for r in rows] == [1, 3.5, 5.5]
  np.testing.assert_allclose([r["error"] for r in rows], [0, 0.5 / np.sqrt(2), 0])
  for groups in (1, 8):
    with pytest.raises(UserError, match=f"{groups} groups of 7 videos"):
      correlation.by_quantile(u, hit, groups)


def test_scores_are_means_and_parts_add_up():
  rng = np.random.default_rng(0)
  clips = rng.normal(size=(30, 4, 6))
  clips /= np.linalg.norm(clips, axis=-1, keepdims=True)
  head = np.exp(rng.normal(size=(30, 4, 6)))
  mean, label = clips.mean(1), np.arange(30) % 3
  videos = gaussian.Videos(mean, head.mean(1) + clips.var(1), label)
  np.testing.assert_allclose(videos.spread, clips.var(1).sum(1), rtol=1e-9)
  np.testing.assert_allclose(videos.predicted, head.mean(1).sum(1), rtol=1e-9)
  bank, queries = (
    gaussian.Videos(videos.mean[s], videos.variance[s], label[s]) for s in (np.s_[:20], np.s_[20:])
  )
  got = correlation.scores(bank, queries)
  np.testing.assert_allclose(got["uncertainty"], queries.uncertainty.mean())
  np.testing.assert_allclose(got["predicted"] + got["spread"], got["uncertainty"])
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  nearest = np.argmax(unit(queries.mean) @ unit(bank.mean).T, axis=1)
  np.testing.assert_allclose(got["R@1"], (bank.label[nearest] == queries.label).mean())


def test_correlations_of_an_analysis():
  row = lambda u, r, **more: {
    "uncertainty": u,
    "predicted": 1 - u,
    "spread": 2 * u,
    "R@1": r,
    **more,
  }
  blur = [row(2.0, 0.5, name="blur", strength=0.1), row(3.0, 0.4, name="blur", strength=0.2)]
  noise = [row(1.5, 0.9, name="noise", strength=0.1), row(0.5, 0.3, name="noise", strength=0.2)]
  clean = row(1.0, 0.8, name="", strength=0.0)
  got = correlation.correlations(
    {
      "videos": {
        "hit": [1, 1, 0, 0],
        "uncertainty": [1, 2, 3, 4],
        "predicted": [4, 3, 2, 1],
        "spread": [1, 1, 1, 1],
      },
      "training": [row(3, 0.1), row(2, 0.2), row(1, 0.3)],
      "corruption": [clean, *blur, *noise],
    }
  )
  assert got["videos"]["rho"] < 0 < got["videos, predicted"]["rho"]
  assert got["videos, spread"]["rho"] is None
  assert got["training"] == {"rho": -1, "p": None, "n": 3}  # one after the other: no p
  assert (got["training, predicted"]["rho"], got["training, spread"]["rho"]) == (1, -1)
  rows = [clean, *blur, *noise]
  want = rank_correlation([r["uncertainty"] for r in rows], [r["R@1"] for r in rows])
  np.testing.assert_allclose(got["corruption"]["rho"], want)
  assert got["strength, blur"]["rho"] == 1
  np.testing.assert_allclose(got["strength, noise"]["rho"], -0.5)
  np.testing.assert_allclose(got["strength, noise, predicted"]["rho"], 0.5)


@pytest.mark.parametrize(
  ("rho", "p", "said"),
  [
    (-0.4, 0.01, "negative correlation appears"),
    (0.4, 0.01, "POSITIVE"),
    (-0.4, 0.2, "no correlation"),
    (None, None, "cannot be computed from 9 points"),
    (-0.4, None, "Spearman -0.40 (9 points"),
  ],
)
def test_verdicts(rho, p, said):
  assert correlation.verdict({"rho": rho, "p": p, "n": 9}).startswith(said)
