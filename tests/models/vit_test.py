"""The transformer against a block written out in NumPy float64, and its positions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import weights
from vssl_jax.errors import UserError
from vssl_jax.models.layers.attention import Attend
from vssl_jax.models.vit import Block, ViT, positions

FAST = {"xla_backend_optimization_level": 0}


def test_positions_by_the_formula():
  table = positions(5, 6)
  for n in range(5):
    for i in range(3):
      angle = n / 10000 ** (2 * i / 6)
      assert table[n, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
      assert table[n, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


def _attend(q, k, v):
  """In float64, head by head."""
  out = np.zeros(q.shape)
  for n, h in np.ndindex(q.shape[0], q.shape[2]):
    scores = q[n, :, h] @ k[n, :, h].T / math.sqrt(q.shape[-1])
    share = np.exp(scores - scores.max(-1, keepdims=True))
    out[n, :, h] = share / share.sum(-1, keepdims=True) @ v[n, :, h]
  return out


def test_attention():
  q, k, v = np.random.default_rng(0).normal(size=(3, 2, 5, 3, 4))
  q *= 30  # far beyond what exp can take as it is
  got = Attend().apply({}, *(jnp.asarray(a, jnp.float32) for a in (q, k, v)))
  np.testing.assert_allclose(got, _attend(q, k, v), rtol=1e-4, atol=1e-5)


def test_softmax_is_float32_in_bfloat16():
  length = 2048
  q, k = jnp.zeros((1, 1, 1, 4), jnp.bfloat16), jnp.zeros((1, length, 1, 4), jnp.bfloat16)
  v = jnp.full((1, length, 1, 4), 1.5, jnp.bfloat16)
  got = Attend().apply({}, q, k, v)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(jnp.float32), 1.5, rtol=2**-8)


def test_block_in_float64():
  block = Block(heads=3, dtype=jnp.float32)
  x = np.random.default_rng(0).normal(size=(2, 4, 12)).astype(np.float32)
  variables = weights.fill(jax.eval_shape(block.init, jax.random.key(0), x, False))
  got = block.apply(variables, x, False)
  p = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])

  def dense(y, name):
    return y @ p[name]["kernel"] + p[name].get("bias", 0)

  def norm(y, name):
    y = y - y.mean(-1, keepdims=True)
    return y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-6) * p[name]["scale"] + p[name]["bias"]

  x = x.astype(np.float64)
  y = norm(x, "norm_attention")
  assert "bias" not in p["key"]
  y = _attend(*(dense(y, name).reshape(2, 4, 3, 4) for name in ("query", "key", "value")))
  x = x + dense(y.reshape(x.shape), "out")
  y = dense(norm(x, "norm_mlp"), "mlp_in")
  y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
  want = x + dense(y, "mlp_out")
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_tokens_are_tubelets_in_order():
  """With no blocks, a token is the norm of its own tubelet's embedding and its own position."""
  encoder = ViT("S", 0.0625, tubelet=(2, 4, 8), depth=0)
  clips = weights.clips(2, 4, 16)
  variables = weights.fill(jax.eval_shape(encoder.init, jax.random.key(0), clips))
  tokens = encoder.apply(variables, clips, pool=False)
  assert tokens.shape == (2, 2, 4, 2, 24)
  p = variables["params"]
  t, h, w = 1, 2, 1
  tubelet = clips[1, 2 * t : 2 * t + 2, 4 * h : 4 * h + 4, 8 * w : 8 * w + 8]
  y = tubelet.reshape(-1) @ p["embed"]["kernel"] + p["embed"]["bias"]
  y = y + positions(16, 24)[(t * 4 + h) * 2 + w]
  want = (y - y.mean()) / np.sqrt(y.var() + 1e-6) * p["norm"]["scale"] + p["norm"]["bias"]
  np.testing.assert_allclose(tokens[1, t, h, w], want, rtol=1e-4, atol=1e-5)
  features = encoder.apply(variables, clips, train=True)
  np.testing.assert_allclose(features, tokens.mean((1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_gradients_reach_every_parameter():
  encoder = ViT("S", 0.0625, tubelet=(2, 8, 8), depth=2, remat=True)
  clips = weights.clips(2, 4, 16)
  variables = weights.fill(jax.eval_shape(encoder.init, jax.random.key(0), clips))
  assert set(variables) == {"params"}

  def loss(variables):
    return jnp.sum(jnp.sin(encoder.apply(variables, clips, train=True)))

  grads = jax.jit(jax.grad(loss), compiler_options=FAST)(variables)
  assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_what_does_not_divide_is_refused():
  clip = jax.ShapeDtypeStruct((1, 3, 16, 24, 3), jnp.float32)
  with pytest.raises(UserError, match=r"3 x 16 x 24 .*2 x 16 x 16.*config\.data\.frames"):
    jax.eval_shape(ViT("S", 0.0625).init, jax.random.key(0), clip)
  with pytest.raises(UserError, match=r"config\.encoder\.width = 0\.1 .*ViT-B 77 .*12 heads"):
    _ = ViT("B", 0.1).features_dim
  with pytest.raises(UserError, match=r"0 channels"):
    _ = ViT("B", 0.0001).features_dim
