"""ρ-SimCLR: two clips are CVRL, more clips by hand in all three forms."""

import jax
import numpy as np
import pytest

from tests import small, tolerance
from tests.methods import rho
from vssl_jax import methods
from vssl_jax.methods import cvrl
from vssl_jax.training import optim

pytestmark = pytest.mark.usefixtures("flat")


def _loss(c, z):
  method = methods.load("rho_simclr").build(c)
  return method.objective({}, None, z, {}, None, 0)


def _pair(a, b):
  """The two-clip loss by hand: the mean over 2N anchors."""
  z = rho.unit(np.concatenate([a, b]))
  logits = z @ z.T / 0.1
  np.fill_diagonal(logits, -np.inf)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  n = len(a)
  return -np.mean([log_p[i, (i + n) % (2 * n)] for i in range(2 * n)])


def test_two_clips_are_cvrl():
  c = rho.config("rho_simclr", **{"rho_simclr.statistics": "joint"})
  ((loss, (state, _)), grads), rounding = rho.gradients_and_rounding(c)
  other = small.shrink(small.load("cvrl.py", "demo"), **{"data.frames": 2, "data.size": 8})
  other.augment, other.cvrl.loss_scale, other.cvrl.temperature = c.augment, 1.0, 0.1
  (want, (cvrl_state, _)), want_grads = rho.gradients(other)
  (by_loss, (by_state, _)), by_grads = rounding
  tolerance.close(
    (want, cvrl_state.encoder, want_grads),
    (loss, state.stats["encoder"], grads),
    (by_loss, by_state.stats["encoder"], by_grads),
  )
  assert cvrl.build(other).batch_spec == methods.load("rho_simclr").build(c).batch_spec


@pytest.mark.parametrize("pairs", ["all", "consecutive", "joint"])
def test_two_clips_leave_no_choice(pairs):
  z = np.random.default_rng(0).normal(size=(8, 2, 8)).astype(np.float32)
  loss, _ = _loss(rho.config("rho_simclr", **{"rho_simclr.pairs": pairs}), z)
  np.testing.assert_allclose(loss, _pair(z[:, 0], z[:, 1]), rtol=1e-5)


@pytest.mark.parametrize("block", [0, 4])
@pytest.mark.parametrize(
  ("pairs", "which"), [("all", [(0, 1), (0, 2), (1, 2)]), ("consecutive", [(0, 1), (1, 2)])]
)
def test_three_clips_are_the_mean_over_pairs(pairs, which, block):
  c = rho.config(
    "rho_simclr", **{"data.clips": 3, "rho_simclr.pairs": pairs, "rho_simclr.block_size": block}
  )
  z = np.random.default_rng(1).normal(size=(8, 3, 8)).astype(np.float32)
  loss, (_, metrics) = _loss(c, z)
  np.testing.assert_allclose(loss, np.mean([_pair(z[:, i], z[:, j]) for i, j in which]), rtol=1e-5)
  assert metrics["embeddings"].shape == (8, 3, 8)
  c.rho_simclr.over_pairs = "sum"
  total, (_, summed) = _loss(c, z)
  np.testing.assert_allclose(total, len(which) * loss, rtol=1e-6)
  assert all(summed[k] == v for k, v in metrics.items() if k not in ("info_nce", "embeddings"))


def test_published_settings():
  c = small.load("rho_simclr.py")
  assert (c.rho_simclr.pairs, c.rho_simclr.temperature) == ("all", 0.1)
  assert (c.head.hidden, c.head.out, c.head.bn) == ((2048, 2048), 128, True)
  assert (c.optim.name, c.optim.weight_decay) == ("lars", 1e-6)
  assert optim.peak_lr(c.optim, c.batch_size) == pytest.approx(4.8)
  method = methods.load("rho_simclr").build(c)
  params, state = jax.eval_shape(method.init, jax.random.key(0), method.example(2))
  assert set(params) == set(state.stats) == {"encoder", "head"}
