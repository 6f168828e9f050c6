"""The weight of DCC's contrast against running means of gradient norms in NumPy; devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerance
from tests.methods.dcc import method_test as tiny
from vssl_jax import methods
from vssl_jax.errors import UserError
from vssl_jax.methods.dcc import balance
from vssl_jax.methods.dcc import method as method_lib

BALANCED = {"dcc.balance": "gradients", "dcc.beta": (0.3, 0.3)}


class Plain:
  """A state with norms alone."""

  def __init__(self, norms):
    self.norms = norms

  def replace(self, norms):
    return Plain(norms)


def test_the_contrast_has_the_given_share_of_the_gradient_in_the_trunk():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 6, 3, 4))  # gradients of 6 steps, for the three parts of the weights
  names = ("conv1", "conv2", "filter1")
  params = {k: jnp.zeros(4) for k in names}
  state, n = Plain(jnp.zeros(2)), np.zeros(2)
  for x, y in zip(a, b, strict=True):

    def terms(p, x=x, y=y, state=state):
      base, value = (sum(p[k] @ g for k, g in zip(names, z, strict=True)) for z in (x, 7 * y))
      return (2 + base, 3 + value), (state, {"kept": base})

    (loss, (state, metrics)), grads = balance.value_and_grad(terms, params, jnp.float32(0.3))
    now = np.array([np.sqrt(np.sum(x[:2] ** 2)), 7 * np.sqrt(np.sum(y[:2] ** 2))])
    n = 0.9 * n + 0.1 * now  # float64
    weight = 0.3 * n[0] / n[1]
    np.testing.assert_allclose(metrics["weight"], weight, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_ratio"], weight * now[1] / now[0], rtol=1e-5)
    np.testing.assert_allclose(loss, 2 + 3 * weight, rtol=1e-5)
    for k, gx, gy in zip(names, x, 7 * y, strict=True):
      np.testing.assert_allclose(grads[k], gx + weight * gy, rtol=1e-5, atol=1e-5)
    assert metrics["kept"] == 0
  np.testing.assert_allclose(state.norms, n, rtol=1e-5)


def test_nothing_to_contrast_has_no_weight():
  params = {k: jnp.ones(2) for k in balance.TRUNK}
  terms = lambda p: ((jnp.sum(p["conv1"]), jnp.float32(0)), (Plain(jnp.zeros(2)), {}))
  (loss, (_, metrics)), grads = balance.value_and_grad(terms, params, jnp.float32(1))
  assert (loss, metrics["weight"], metrics["gradient_ratio"]) == (2, 0, 0)
  np.testing.assert_array_equal(grads["conv1"], 1)


@pytest.mark.slow
def test_a_logged_ratio_changes_no_gradient():
  ((plain, _), want), ((logged, (_, metrics)), got) = (
    tiny.gradients(tiny.config(**{"dcc.balance": balance})) for balance in ("none", "log")
  )
  np.testing.assert_allclose(logged, plain, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)
  assert metrics["weight"] == metrics["beta"]
  # The gradient of the classification is that of BaS-Net; the rest is the contrast's.
  _, base = tiny.gradients(tiny.config("demo,bas_net"))
  trunk = lambda tree: jax.tree.leaves([tree[k] for k in balance.TRUNK])
  norm = lambda tree: np.sqrt(sum(np.sum(np.square(x)) for x in trunk(tree)))
  rest = jax.tree.map(np.subtract, want, base)
  np.testing.assert_allclose(metrics["gradient_ratio"], norm(rest) / norm(base), rtol=1e-3)


@pytest.mark.slow
def test_one_device_equals_eight():
  c = tiny.config(**BALANCED)
  run, where = tiny.fifth_step(c)
  want, rounding = tolerance.value_and_rounding(run, *where)
  tolerance.close(tiny.gradients(c, devices=8), want, rounding)
  (_, (state, metrics)), _ = want
  np.testing.assert_allclose(metrics["gradient_ratio"], 0.3, rtol=1e-5)  # the first of its means
  assert state.norms.dtype == np.float32
  assert np.all(state.norms > 0)


def test_without_a_balance_the_state_is_as_before():
  _, _, _, state = tiny.start(tiny.config())
  assert type(state) is method_lib.State  # what checkpoints of before hold
  assert len(jax.tree.leaves(state)) == 9
  with pytest.raises(UserError, match=r"config.dcc.balance is 'equal': choose one of none, log"):
    methods.load("dcc").build(tiny.config(**{"dcc.balance": "equal"}))
