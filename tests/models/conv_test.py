"""Every lowering of the convolution equals XLA's own, in value and in both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax.errors import UserError
from vssl_jax.models.conv import conv3d
from vssl_jax.models.padding import pads

CASES = [
  # kernel, strides, size, channels: the stem, both block types, strided and odd sizes
  ((5, 7, 7), (2, 2, 2), (8, 20, 20), (3, 16)),
  ((5, 7, 7), (2, 2, 2), (5, 13, 11), (3, 8)),
  ((1, 3, 3), (1, 2, 2), (3, 9, 10), (16, 16)),
  ((3, 3, 3), (1, 2, 2), (4, 8, 8), (8, 16)),
  ((3, 3, 3), (1, 1, 1), (4, 5, 7), (9, 10)),
  ((3, 1, 1), (1, 1, 1), (4, 4, 4), (6, 5)),
  ((3, 1, 1), (1, 1, 1), (4, 4, 4), (5, 12)),
  ((1, 1, 1), (1, 2, 2), (3, 7, 8), (8, 4)),
  ((1, 3, 3), (1, 1, 1), (4, 2, 2), (16, 16)),
]


def _both(lowering, kernel, strides, size, channels, padding):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, *size, channels[0])), jnp.float32)
  w = jnp.asarray(rng.normal(size=(*kernel, *channels)), jnp.float32)
  y, pull = jax.vjp(lambda x, w: conv3d(x, w, strides, padding, lowering), x, w)
  dy = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
  return [np.asarray(a) for a in (y, *pull(dy))]


@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
@pytest.mark.parametrize("lowering", ["cpu", "fold"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "x".join(map(str, c[0])))
def test_equals_lax_in_value_and_gradient(case, lowering, padding):
  for got, want in zip(_both(lowering, *case, padding), _both("lax", *case, padding), strict=True):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_same_padding_is_tensorflows_and_symmetric_is_pytorchs():
  assert pads((8, 20, 20), (5, 7, 7), (2, 2, 2), "SAME") == ((1, 2), (2, 3), (2, 3))
  assert pads((8, 20, 20), (5, 7, 7), (2, 2, 2), "symmetric") == ((2, 2), (3, 3), (3, 3))
  with pytest.raises(UserError, match="is unknown"):
    pads((8,), (3,), (1,), "same")


def test_bfloat16_is_close_to_float32():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 4, 8, 8, 8)), jnp.bfloat16)
  w = jnp.asarray(rng.normal(size=(3, 3, 3, 8, 8)), jnp.bfloat16)
  y = conv3d(x, w, (1, 1, 1), "SAME", "cpu")
  want = conv3d(x.astype(jnp.float32), w.astype(jnp.float32), (1, 1, 1), "SAME", "lax")
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(y.astype(jnp.float32), want, rtol=0, atol=0.01 * np.abs(want).max())
