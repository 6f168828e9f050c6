"""Encoder and head together: names, heads without batch norm, groups that a first batch lacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import rho
from vssl_jax.methods import network

pytestmark = pytest.mark.usefixtures("flat")


def _shapes(c):
  net = network.build(c)
  return net, jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((2, 2, 8, 8, 3)))


def test_parameters_and_statistics_sit_under_the_same_names():
  net, (params, stats) = _shapes(rho.config("rho_simclr"))
  assert set(params) == set(stats) == {"encoder", "head"}
  assert set(params["head"]) == {"dense_0", "norm_0", "out"}
  assert set(net.encoder_variables(params, stats)) == {"params", "batch_stats"}


def test_head_without_batch_norm_is_a_plain_mlp():
  net, (params, stats) = _shapes(rho.config("rho_moco", **{"head.out_bn": False}))
  assert set(params["head"]) == {"dense_0", "out"}
  assert not jax.tree.leaves(stats["head"])
  params = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), params["head"])
  x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 12)
  y = net.head.apply({"params": params}, x, train=True)
  hidden = np.maximum(0.1 * x.sum(1, keepdims=True) + 0.1, 0)
  want = np.repeat(0.1 * 16 * hidden + 0.1, 8, axis=1)
  np.testing.assert_allclose(y, want, rtol=1e-5)


def test_start_does_not_depend_on_the_groups_of_batch_norm():
  _, plain = _shapes(rho.config("rho_byol"))
  _, grouped = _shapes(rho.config("rho_byol", **{"encoder.bn_groups": 64, "head.bn_groups": 64}))
  assert plain == grouped
