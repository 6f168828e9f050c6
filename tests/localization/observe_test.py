"""Steps beside the truth: middles, labels, padding cut off, rows that pad a batch left out."""

import numpy as np

from tests.localization.scores_test import ACTIONS, SECONDS, STEPS, _source
from vssl_jax.localization import observe


def look(batch):
  """A network that knows the truth of `evaluate_test`, with confidence ½."""
  x = batch["features"]
  classes = np.where(batch["labels"] > 0, np.arange(2), -1)
  return {
    "attention": x.max(axis=2),
    "cas": x,
    "classes": classes,
    "pseudo": x > 0,
    "trust": np.full(x.shape, 0.5),
    "spaces": {"input": x + 0.1},
  }


def test_every_video_once_in_order_without_padding():
  source = _source()
  seen = list(observe.observe(look, source, batch_size=2))
  assert [(s.video, s.name) for s in seen] == [(0, "v0"), (1, "v1"), (2, "v2")]
  for s in seen:
    assert s.seconds == SECONDS
    assert s.attention.shape == (STEPS,)
    np.testing.assert_array_equal(s.truth, s.cas > 0)  # features are the truth
    own = sorted({"ab".index(label) for label, *_ in ACTIONS[s.name]})
    np.testing.assert_array_equal(s.classes, own)
    assert s.pseudo.shape == s.trust.shape == (STEPS, len(own))
    assert s.spaces["input"].shape == (STEPS, 2)


def test_without_denoising_nothing_is_trusted():
  plain = lambda batch: {k: v for k, v in look(batch).items() if k != "trust"}
  assert all(s.trust is None for s in observe.observe(plain, _source(), batch_size=2))
