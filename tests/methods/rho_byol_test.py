"""ρ-BYOL: cosines of all ordered pairs by hand, with a target and without."""

import numpy as np
import pytest

from tests import small, tolerance
from tests.methods import rho
from vssl_jax import methods
from vssl_jax.training import optim

pytestmark = pytest.mark.usefixtures("flat")


@pytest.mark.parametrize(("positives", "temperature"), [("mean", 0.5), ("sum", 1.0)])
def test_loss_is_over_all_ordered_pairs(positives, temperature):
  values = {"rho_byol.positives": positives, "rho_byol.temperature": temperature}
  c = rho.config("rho_byol", **{"data.clips": 3, **values})
  method, _, params, state = rho.start(c)
  batch, rng = rho.keyed(c)
  e, _ = rho.hasty(method.embed)(params, state, batch)
  loss, (_, metrics) = method.objective(params, state, e, batch, rng, 0)
  p, k = rho.unit(e["q"]["p"]), rho.unit(e["k"])
  cosines = [(p[:, i] * k[:, j]).sum(-1).mean() for i in range(3) for j in range(3) if i != j]
  scale = 2 if positives == "sum" else 1
  np.testing.assert_allclose(loss, -scale * np.mean(cosines) / temperature, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(metrics["positive_similarity"], np.mean(cosines), atol=1e-5)


def test_without_target_keys_come_from_the_online_network_without_gradient():
  c = rho.config("rho_byol", **{"rho_byol.target": False})
  c.augment.flip = 0.0
  method, _, params, state = rho.start(c)
  assert state.target is None
  batch, _ = rho.keyed(c)
  e, _ = rho.hasty(method.embed)(params, state, batch)
  np.testing.assert_allclose(e["k"], e["q"]["z"], rtol=1e-4, atol=1e-4)
  ((_, (counted, _)), grads), ((_, (by_state, _)), by_grads) = rho.gradients_and_rounding(c)
  # The target's copy of the same weights gives the same gradient: none passes through keys.
  with_target = rho.config("rho_byol")
  with_target.augment.flip = 0.0
  (_, (plain, _)), same = rho.gradients(with_target)
  tolerance.close(same, grads, by_grads)
  tolerance.close(plain.stats, counted.stats, by_state.stats)  # keys' pass is not counted twice
  states, _ = rho.steps(c, 2)
  assert states[2].method.target is None
  assert np.abs(states[2].params["predictor"]["out"]["kernel"]).max() > 0


@pytest.mark.slow
def test_without_momentum_the_target_is_the_online_network():
  values = {"rho_byol.momentum": 0.0, "rho_byol.anneal": False}
  states, _ = rho.steps(rho.config("rho_byol", **values), 2)
  online = {x: states[2].params[x] for x in ("encoder", "head")}
  rho.same(online, states[2].method.target.params)
  assert set(states[2].params) == {*online, "predictor"}
  last = [s.params["predictor"]["out"]["kernel"] for s in states]
  assert np.abs(last[2] - last[0]).max() > 0


def test_published_settings():
  c = small.load("rho_byol.py")
  b, o = c.rho_byol, c.optim
  assert (b.momentum, b.temperature, b.predictor) == (0.996, 0.5, (4096,))
  assert (c.head.hidden, c.head.out, c.head.bn) == ((4096,), 256, True)
  assert (o.name, o.weight_decay, o.warmup_epochs) == ("lars", 1e-6, 35.0)
  assert optim.peak_lr(o, c.batch_size) == pytest.approx(4.8)
  plus = small.load("rho_byol.py", "k400,rho4,aug_plus,no_target")
  assert (plus.data.clips, plus.data.crop.area, plus.data.stride) == (4, (0.2, 0.766), 8)
  assert (plus.augment.brightness, plus.augment.hue) == pytest.approx((0.6, 0.15))
  assert methods.load("rho_byol").build(plus).batch_spec["clips"].shape[0] == 4
