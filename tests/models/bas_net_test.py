"""BaS-Net against direct convolutions in float64, by hand where short, and with padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax.models import bas_net
from vssl_jax.models.bas_net import BASE, SUPPRESSED, BasNet

N, T, D, C = 3, 14, 5, 4
NET = BasNet(C, hidden=6, filter=7, dim=3)


@pytest.fixture(scope="module")
def given():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(N, T, D)).astype(np.float32)
  mask = np.arange(T) < np.array([[T], [9], [T - 1]])
  params = NET.init(jax.random.key(0), x, mask)["params"]
  # Biases start at 0, where a forgotten one would not be missed.
  params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params)
  return params, x, mask


def _leaky(x):
  return np.where(x > 0, x, 0.01 * x)


def _convolve(x, layer):
  """Direct: out[t] = Σ_k x[t + k − 1] W_k + b over one video [T, D], zeros beyond the ends."""
  kernel, bias = (np.float64(layer[k]) for k in ("kernel", "bias"))
  padded = np.pad(x, ((1, 1), (0, 0)))
  return np.stack([sum(padded[t + k] @ kernel[k] for k in range(3)) + bias for t in range(len(x))])


def _video(params, x):
  """One video of which every step counts: attention, CAS and embedding of both branches."""
  dense = lambda x, p: x @ np.float64(p["kernel"]) + np.float64(p.get("bias", 0))
  hidden = _leaky(dense(x, params["filter1"]))
  w = 1 / (1 + np.exp(-dense(hidden, params["filter2"])))
  trunks = [
    _leaky(_convolve(_leaky(_convolve(y, params["conv1"])), params["conv2"])) for y in (x, w * x)
  ]
  cas = [dense(e, params["classifier"]) for e in trunks]
  return w[:, 0], np.stack(cas), np.stack([dense(e, params["projection"]) for e in trunks])


def test_shared_products_are_the_direct_convolutions_of_both_branches(given):
  params, x, mask = given
  out = NET.apply({"params": params}, x, mask)
  for n in range(N):
    length = mask[n].sum()
    w, cas, embedding = _video(params, np.float64(x[n, :length]))
    np.testing.assert_allclose(out.attention[n, :length], w, rtol=1e-5)
    np.testing.assert_allclose(out.cas[:, n, :length], cas, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.embedding[:, n, :length], embedding, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(out.cas, out.clean)
  assert np.abs(out.cas[BASE] - out.cas[SUPPRESSED]).max() > 0.01


def test_padding_changes_nothing_and_comes_out_as_zeros(given):
  params, x, mask = given
  out = NET.apply({"params": params}, x, mask)
  dirty = np.where(mask[..., None], x, np.nan)
  again = NET.apply({"params": params}, dirty, mask)
  jax.tree.map(np.testing.assert_array_equal, out, again)
  assert np.all(np.asarray(out.attention)[~mask] == 0)
  assert np.all(np.asarray(out.cas)[:, ~mask] == 0)
  assert np.all(np.asarray(out.embedding)[:, ~mask] == 0)


def test_gradient_of_shared_products_equals_that_of_two_convolutions(given):
  params, x, _ = given
  kernel = params["conv1"]["kernel"]
  w = jnp.asarray(np.random.default_rng(1).uniform(size=(N, T, 1)), jnp.float32)

  def shared(kernel, w):
    products = [x @ kernel[k] for k in range(3)]
    return sum(jnp.sum(jnp.sin(bas_net.shifted(p))) for p in (products, [w * p for p in products]))

  def direct(kernel, w):
    dims = ("NTC", "TIO", "NTC")
    conv = lambda y: jax.lax.conv_general_dilated(y, kernel, (1,), "SAME", dimension_numbers=dims)
    return jnp.sum(jnp.sin(conv(jnp.asarray(x)))) + jnp.sum(jnp.sin(conv(w * x)))

  got, want = jax.grad(shared, (0, 1))(kernel, w), jax.grad(direct, (0, 1))(kernel, w)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_dropout_is_each_videos_own_and_leaves_the_clean_activations(given):
  params, x, mask = given
  keys = jax.random.split(jax.random.key(3), N)
  plain = NET.apply({"params": params}, x, mask)
  out = NET.apply({"params": params}, x, mask, keys)
  np.testing.assert_array_equal(out.clean, plain.clean)
  np.testing.assert_array_equal(out.embedding, plain.embedding)
  assert np.abs(out.cas - plain.cas).max() > 0.1
  order = np.array([2, 0, 1])
  swapped = NET.apply({"params": params}, x[order], mask[order], keys[order])
  np.testing.assert_allclose(swapped.cas, out.cas[:, order], rtol=1e-5, atol=1e-6)
  # Unbiased: over many draws the mean is the activation without.
  draw = jax.jit(
    lambda k: jax.vmap(
      lambda k: NET.apply({"params": params}, x, mask, jax.random.split(k, N)).cas
    )(jax.random.split(k, 200)).mean(0)
  )
  many = np.mean([draw(jax.random.key(i)) for i in range(6)], axis=0)
  np.testing.assert_allclose(many, plain.cas, atol=0.3)
  grads = jax.grad(lambda p: NET.apply({"params": p}, x, mask, keys).clean.sum())(params)
  assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))


def test_k_is_93_of_750_steps():
  assert bas_net.top_count(750) == 93
  assert bas_net.top_count(7) == 1
  cas = np.random.default_rng(0).normal(size=(1, 750, 2)).astype(np.float32)
  got = bas_net.top_mean(cas, np.ones((1, 750), bool))
  want = np.sort(np.float64(cas[0]), axis=0)[-93:].mean(0)
  np.testing.assert_allclose(got[0], want, rtol=1e-5)


def test_top_mean_leaves_padding_out():
  cas = -np.abs(np.random.default_rng(0).normal(size=(2, 3, 40, 5))).astype(np.float32)
  lengths = np.array([40, 17, 5])
  mask = np.arange(40) < lengths[:, None]
  got = bas_net.top_mean(np.where(mask[..., None], cas, 0), mask)
  for n, length in enumerate(lengths):
    k = max(length // 8, 1)
    want = np.sort(np.float64(cas[:, n, :length]), axis=1)[:, -k:].mean(1)
    np.testing.assert_allclose(got[:, n], want, rtol=1e-5)


def test_published_size():
  net = BasNet(20)
  x = jax.ShapeDtypeStruct((1, 750, 2048), jnp.float32)
  mask = jax.ShapeDtypeStruct((1, 750), jnp.bool_)
  params = jax.eval_shape(net.init, jax.random.key(0), x, mask)["params"]
  sizes = {k: sum(p.size for p in jax.tree.leaves(v)) for k, v in params.items()}
  assert sizes["conv1"] == sizes["conv2"] == 3 * 2048 * 2048 + 2048
  assert sizes["classifier"] == 2048 * 21
  assert sizes["filter1"] + sizes["filter2"] == 2048 * 512 + 512 + 512 + 1
  assert sizes["projection"] == 2048 * 512 + 512
