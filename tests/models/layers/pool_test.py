"""Max-pooling against XLA's own windows, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vssl_jax.models.layers.padding import pads
from vssl_jax.models.layers.pool import max_pool
from vssl_jax.models.r3d import R3D

CASES = [
  ((1, 3, 3), (1, 2, 2), "SAME", (2, 6, 7)),
  ((1, 3, 3), (1, 2, 2), "symmetric", (2, 7, 6)),
  ((2, 2, 2), (2, 2, 2), "VALID", (5, 4, 5)),
  ((3, 1, 2), (1, 1, 3), "SAME", (3, 2, 7)),
  ((3, 3, 3), (1, 1, 1), "symmetric", (3, 2, 4)),
  ((3, 3, 3), (2, 2, 2), "symmetric", (4, 5, 4)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("lowering", ["fold", "lax"])
def test_equals_reduce_window(case, ties, lowering):
  kernel, strides, padding, size = case
  rng = np.random.default_rng(0)
  x = rng.integers(0, 3, (2, *size, 3)) if ties else rng.normal(size=(2, *size, 3))
  x = jnp.asarray(x, jnp.float32)

  def oracle(x):
    border = ((0, 0), *pads(size, kernel, strides, padding), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *strides, 1), border)

  dy = jnp.asarray(rng.normal(size=jax.eval_shape(oracle, x).shape), jnp.float32)

  def both(function):
    def run(x, dy):
      y, vjp = jax.vjp(function, x)
      return y, vjp(dy)[0]

    return jax.jit(run)(x, dy)

  got = both(lambda x: max_pool(x, kernel, strides, padding, lowering))
  want = both(oracle)
  np.testing.assert_array_equal(got[0], want[0])
  np.testing.assert_allclose(got[1], want[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lowering", ["fold", "lax"])
def test_keeps_the_dtype_and_passes_by_single_windows(lowering):
  x = jnp.ones((1, 2, 4, 4, 1), jnp.bfloat16)
  assert max_pool(x, (1, 3, 3), (1, 2, 2), lowering=lowering).dtype == jnp.bfloat16
  assert max_pool(x, (1, 1, 1), (1, 1, 1), lowering=lowering) is x


@pytest.mark.parametrize("lowering", ["cpu", "fold", "lax"])
def test_networks_pool_as_they_convolve(lowering):
  network = R3D(18, 1 / 8, conv=lowering)
  x = jax.ShapeDtypeStruct((1, 4, 16, 16, 3), jnp.float32)
  program = str(jax.make_jaxpr(lambda x: network.init_with_output(jax.random.key(0), x)[0])(x))
  assert ("reduce_window_max" in program) == (lowering == "lax")
