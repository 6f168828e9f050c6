"""Precision and recall of pseudo-labels, worked by hand and against scikit-learn."""

import math

import numpy as np
from sklearn.metrics import precision_score, recall_score

from vssl_jax.localization.observe import Observed
from vssl_jax.methods.dcc.pseudo_quality import PseudoQuality


def seen(truth, pseudo, trust, classes=(0,)):
  truth = np.asarray(truth, bool).reshape(len(truth), -1)
  pseudo = np.asarray(pseudo, bool).reshape(len(truth), -1)
  trust = None if trust is None else np.asarray(trust, float).reshape(len(truth), -1)
  nothing = np.zeros(len(truth))
  return Observed(0, "v", 1.0, truth, np.array(classes), nothing, truth * 1.0, pseudo, trust, {})


def test_by_hand():
  quality = PseudoQuality()
  quality.add(seen([1, 1, 0, 0], [1, 0, 1, 0], [0.9, 0.6, 0.3, 0.8]))
  got = quality.result()
  action, back = got["action"], got["background"]
  assert (action["share"], back["share"]) == (0.5, 0.5)
  assert action["before"] == {"precision": 0.5, "recall": 0.5}
  np.testing.assert_allclose(action["after"]["precision"], 0.9 / 1.2)
  np.testing.assert_allclose(action["after"]["recall"], 0.9 / 2)
  assert action["agreeing"] == {"precision": 1.0, "recall": 0.5}  # 0.3 is out
  np.testing.assert_allclose(back["after"]["precision"], 0.8 / 1.4)
  assert back["agreeing"] == {"precision": 0.5, "recall": 0.5}


def test_equals_sklearn_over_several_videos_and_classes():
  rng = np.random.default_rng(0)
  quality, truth, pseudo, trust = PseudoQuality(), [], [], []
  for _ in range(4):
    t, p, s = rng.random((30, 3)) < 0.3, rng.random((30, 2)) < 0.5, rng.random((30, 2))
    quality.add(seen(t, p, s, classes=(0, 2)))
    truth.append(t[:, [0, 2]].ravel())
    pseudo.append(p.ravel())
    trust.append(s.ravel())
  y, z, w = map(np.concatenate, (truth, pseudo, trust))
  got = quality.result()
  for side, a, b in (("action", y, z), ("background", ~y, ~z)):
    before, after = got[side]["before"], got[side]["after"]
    np.testing.assert_allclose(before["precision"], precision_score(a, b))
    np.testing.assert_allclose(before["recall"], recall_score(a, b))
    np.testing.assert_allclose(after["precision"], precision_score(a, b, sample_weight=w))


def test_without_denoising_there_is_before_alone():
  quality = PseudoQuality()
  quality.add(seen([1, 0], [1, 1], None))
  got = quality.result()["action"]
  assert got == {"share": 0.5, "before": {"precision": 0.5, "recall": 1.0}}


def test_nothing_counted_is_nan():
  assert math.isnan(PseudoQuality().result()["action"]["after"]["precision"])
