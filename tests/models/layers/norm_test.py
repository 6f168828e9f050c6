"""Batch norm against its definition in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.models.layers.norm import BatchNorm


def _oracle(x, scale, bias, dy, groups=1, epsilon=1e-5):
  """y, gradients of x, scale and bias, then mean and variance of each group."""
  shape, channels = x.shape, x.shape[-1]
  x, dy = (a.astype(np.float64).reshape(groups, -1, channels) for a in (x, dy))
  mean, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
  hat = (x - mean) / np.sqrt(var + epsilon)
  dhat = dy * scale
  dx = dhat - dhat.mean(1, keepdims=True) - hat * (dhat * hat).mean(1, keepdims=True)
  dx = dx / np.sqrt(var + epsilon)
  y = (hat * scale + bias).reshape(shape)
  return y, dx.reshape(shape), (dy * hat).sum((0, 1)), dy.sum((0, 1)), mean[:, 0], var[:, 0]


def _setup(shape=(8, 2, 3, 4, 5), offset=1.0, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=shape) * np.linspace(0.5, 2, shape[-1]) + offset
  dy = rng.normal(size=shape)
  scale, bias = rng.normal(size=(2, shape[-1]))
  return tuple(a.astype(np.float32) for a in (x, dy, scale, bias))


def _run(module, x, dy, scale, bias, stats):
  """y, gradients and the new running averages."""

  def forward(x, scale, bias):
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
    return module.apply(variables, x, train=True, mutable=["batch_stats"])

  def both(x, scale, bias, dy):
    y, vjp, state = jax.vjp(forward, x, scale, bias, has_aux=True)
    return y, *vjp(dy), state["batch_stats"]

  return jax.jit(both)(x, scale, bias, dy)


def _zeros(channels):
  return {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}


@pytest.mark.parametrize("shape", [(8, 2, 3, 4, 5), (32, 5)])
@pytest.mark.parametrize("groups", [1, 4])
def test_value_gradient_and_running_averages(shape, groups):
  x, dy, scale, bias = _setup(shape)
  *want, mean, var = _oracle(x, scale, bias, dy, groups)
  *got, stats = _run(BatchNorm(0.9, groups=groups), x, dy, scale, bias, _zeros(5))
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
  np.testing.assert_allclose(stats["mean"], 0.1 * mean.mean(0), rtol=1e-5)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var.mean(0), rtol=1e-5)


def test_inference_uses_the_averages_and_moves_nothing():
  x, _, scale, bias = _setup()
  stats = {"mean": jnp.arange(5.0), "var": jnp.arange(1.0, 6.0)}
  variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
  y, after = BatchNorm().apply(variables, x, train=False, mutable=["batch_stats"])
  want = (x - np.arange(5.0)) / np.sqrt(np.arange(1.0, 6.0) + 1e-5) * scale + bias
  np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(after["batch_stats"]["mean"], stats["mean"])


def test_immutable_averages_are_left_alone():
  x, _, scale, bias = _setup()
  variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": _zeros(5)}
  assert BatchNorm().apply(variables, x, train=True).shape == x.shape


@pytest.mark.parametrize(
  ("offset", "known", "tolerance"),
  [(30.0, False, 1e-3), (1000.0, True, 1e-4)],
  ids=["far from the running mean", "near it"],
)
def test_variance_of_inputs_with_a_large_mean(offset, known, tolerance):
  x, dy, scale, bias = _setup((64, 2, 8, 8, 5), offset)
  stats = _zeros(5)
  if known:
    stats["mean"] += offset + 0.5
  *_, var = _oracle(x, scale, bias, dy)
  *_, after = _run(BatchNorm(0.0), x, dy, scale, bias, stats)
  np.testing.assert_allclose(after["var"], var[0], rtol=tolerance)


def test_constant_input_and_its_gradient_are_finite():
  x, dy, scale, bias = _setup()
  *got, _ = _run(BatchNorm(), np.full_like(x, 7.3), dy, scale, bias, _zeros(5))
  assert all(np.isfinite(a).all() for a in got)
  np.testing.assert_allclose(got[0], np.broadcast_to(bias, x.shape), atol=2e-2)


def test_bfloat16_input_keeps_float32_statistics():
  x, dy, scale, bias = _setup((32, 2, 8, 8, 5))
  x, dy = (jnp.asarray(a, jnp.bfloat16) for a in (x, dy))
  y, dx, dscale, _, mean, var = _oracle(np.float32(x), scale, bias, np.float32(dy))
  got = _run(BatchNorm(0.0, dtype=jnp.bfloat16), x, dy, scale, bias, _zeros(5))
  assert got[0].dtype == got[1].dtype == jnp.bfloat16
  assert got[2].dtype == got[4]["var"].dtype == jnp.float32
  # Rounding to bfloat16's 8 bits is 2⁻⁸ at most; before it, eight roundings of float32 terms.
  terms = (np.abs(np.float32(x)) + np.abs(mean)) * np.abs(scale) / np.sqrt(var) + np.abs(bias)
  atol = 8 * np.finfo(np.float32).eps * terms.max()
  np.testing.assert_allclose(np.float32(got[0]), y, rtol=2**-8, atol=atol)
  np.testing.assert_allclose(np.float32(got[1]), dx, rtol=2**-8, atol=1e-3)
  np.testing.assert_allclose(got[2], dscale, rtol=1e-4, atol=1e-2)
  np.testing.assert_allclose(got[4]["mean"], mean[0], rtol=1e-5)
  # Computed as E[x²] − E[x]² in float32: the rounding is relative to E[x²].
  second = var[0] + mean[0] ** 2
  assert np.all(np.abs(got[4]["var"] - var[0]) <= 32 * np.finfo(np.float32).eps * second)


@pytest.mark.parametrize("groups", [1, 2])
def test_eight_devices_are_one(groups):
  x, dy, scale, bias = _setup((16, 2, 3, 3, 5))
  want = _run(BatchNorm(groups=groups), x, dy, scale, bias, _zeros(5))
  rows = NamedSharding(parallel.make_mesh(), P("data"))
  x, dy = jax.device_put(x, rows), jax.device_put(dy, rows)
  got = _run(BatchNorm(groups=groups), x, dy, scale, bias, _zeros(5))
  assert len(got[0].sharding.device_set) == 8
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


@pytest.mark.parametrize("how", ["shard_map", "pmap"])
def test_named_axis_averages_over_devices(how):
  x, dy, scale, bias = _setup((16, 2, 3, 3, 5))
  want = _run(BatchNorm(), x, dy, scale, bias, _zeros(5))
  mesh = parallel.make_mesh()
  module = BatchNorm(axis_name="data")

  def each(x, dy, scale, bias):
    return _run(module, x, dy, scale, bias, _zeros(5))

  if how == "shard_map":
    split = (P("data"), P("data"), P(), P(), P())
    got = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=split[:4], out_specs=split))(
      x, dy, scale, bias
    )
  else:
    parts = (a.reshape(8, 2, *a.shape[1:]) for a in (x, dy))
    y, dx, dscale, dbias, stats = jax.pmap(each, "data", in_axes=(0, 0, None, None))(
      *parts, scale, bias
    )
    got = (y.reshape(x.shape), dx.reshape(x.shape), dscale.sum(0), dbias.sum(0))
    got += (jax.tree.map(lambda a: a[3], stats),)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, want)


def test_groups_must_divide_the_batch():
  with pytest.raises(UserError, match=r"bn_groups = 3 .* 8 rows"):
    BatchNorm(groups=3).init(jax.random.key(0), jnp.ones((8, 2)), train=True)
