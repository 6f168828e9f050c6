"""What methods state as the loss of guessing is their loss where all embeddings are equal."""

import jax
import numpy as np
import pytest

from tests import small
from tests.methods import rho
from vssl_jax import methods

pytestmark = pytest.mark.usefixtures("flat")


@pytest.mark.parametrize(
  ("name", "values"),
  [
    ("cvrl", {}),
    ("cvrl", {"cvrl.loss_scale": 2.0, "cvrl.temperature": 0.3}),
    ("rho_simclr", {"data.clips": 3, "rho_simclr.pairs": "all"}),
    ("rho_simclr", {"data.clips": 3, "rho_simclr.pairs": "joint"}),
    (
      "rho_simclr",
      {"data.clips": 4, "rho_simclr.pairs": "consecutive", "rho_simclr.over_pairs": "sum"},
    ),
    ("rho_moco", {}),
    ("rho_moco", {"data.clips": 3, "rho_moco.positives": "sum", "rho_moco.queries": "sum"}),
    ("rho_moco", {"data.clips": 3, "rho_moco.queries": "sum", "rho_moco.sequential": True}),
    ("rho_swav", {"data.clips": 3, "rho_swav.codes_from": 0}),
  ],
)
def test_loss_of_equal_embeddings(name, values):
  c = rho.config(name, **{"batch_size": rho.N, "head.out_bn": False} | values)
  run, (params, state) = rho.first_step(c)
  params = {
    **params,
    "head": {**params["head"], "out": jax.tree.map(np.zeros_like, params["head"]["out"])},
  }
  if name == "rho_moco":
    network = {**state.target.params, "head": params["head"]}
    state = state.replace(target=state.target.replace(params=network))
  (loss, _), _ = run(params, state)
  guess = methods.build(c).guess
  np.testing.assert_allclose(loss, guess.loss, rtol=3e-6)  # codes add up to 1 within rounding
  assert f"config.{name}.temperature" in guess.cures
  assert "config.head.out_bn=True" in guess.cures
  with c.unlocked():
    c.head.out_bn = True
  assert "out_bn" not in methods.build(c).guess.cures


@pytest.mark.parametrize("name", ["rho_byol", "provico"])
def test_methods_without_a_guess(name):
  c = small.load(f"{name}.py", "demo")
  assert methods.build(methods.resolve(c, rho.Source)).guess is None
