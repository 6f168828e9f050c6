"""Max-pooling equals XLA's reduce-window in value and gradient, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vssl_jax.models.padding import pads
from vssl_jax.models.pool import max_pool


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", [(3, 8, 8), (2, 7, 9)])
@pytest.mark.parametrize("kernel", [(1, 3, 3), (2, 3, 2)])
def test_equals_reduce_window(size, kernel, ties):
  rng = np.random.default_rng(0)
  x = rng.integers(0, 3, (2, *size, 4)) if ties else rng.normal(size=(2, *size, 4))
  x = jnp.asarray(x, jnp.float32)
  strides = (1, 2, 2)

  def reference(x):
    pad = ((0, 0), *pads(size, kernel, strides, "SAME"), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *strides, 1), pad)

  y, pull = jax.vjp(lambda x: max_pool(x, kernel, strides), x)
  want, want_pull = jax.vjp(reference, x)
  np.testing.assert_array_equal(y, want)
  dy = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
  np.testing.assert_allclose(pull(dy)[0], want_pull(dy)[0], rtol=1e-6, atol=1e-6)
