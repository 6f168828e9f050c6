"""Batch norm against NumPy float64: value, gradient, running averages, groups, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.models.norm import BatchNorm


def _x(offset=0.0, n=8):
  rng = np.random.default_rng(0)
  return (rng.normal(size=(n, 2, 3, 3, 4)) * [1, 2, 3, 4] + offset).astype(np.float32)


def _run(x, dtype=jnp.float32, **fields):
  module = BatchNorm(dtype=dtype, **fields)
  variables = module.init(jax.random.key(0), x)
  variables["params"]["scale"] = jnp.arange(1.0, 5.0)
  variables["params"]["bias"] = jnp.arange(4.0)
  y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
  return module, variables, y, updated["batch_stats"]


def _oracle(x):
  x = np.float64(x)
  axes = tuple(range(x.ndim - 1))
  mean, var = x.mean(axes), x.var(axes)
  return (x - mean) / np.sqrt(var + 1e-5) * np.arange(1.0, 5.0) + np.arange(4.0), mean, var


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_value_and_running_averages(offset):
  x = _x(offset)
  _, _, y, stats = _run(x, momentum=0.9)
  want, mean, var = _oracle(x)
  # The variance is a difference of float32 squares: its error grows with (mean / deviation)².
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=2e-5 * max(1.0, offset))
  np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-3)


def test_gradient_equals_that_of_the_plain_formula():
  x = _x()
  module, variables, _, _ = _run(x)
  weight = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)

  def ours(params, x):
    y, _ = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
    return jnp.sum(y * weight)

  def plain(params, x):
    mean, var = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    y = (x - mean) / jnp.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    return jnp.sum(y * weight)

  got = jax.jit(jax.grad(ours, (0, 1)))(variables["params"], x)
  want = jax.jit(jax.grad(plain, (0, 1)))(variables["params"], x)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), got, want)


def test_groups_are_contiguous_and_average_into_the_running_statistics():
  x = _x()
  _, _, y, stats = _run(x, groups=4)
  parts = [_oracle(p) for p in np.split(x, 4)]
  np.testing.assert_allclose(y, np.concatenate([p[0] for p in parts]), rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(stats["mean"], 0.1 * np.mean([p[1] for p in parts], 0), atol=1e-5)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * np.mean([p[2] for p in parts], 0), rtol=1e-4)
  with pytest.raises(UserError, match="8"):
    _run(x, groups=3)


def test_statistics_are_float32_under_bfloat16():
  x = _x(8.0)
  _, _, y, stats = _run(jnp.asarray(x, jnp.bfloat16), dtype=jnp.bfloat16)
  assert y.dtype == jnp.bfloat16
  assert {s.dtype for s in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
  exact = np.float64(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32))
  np.testing.assert_allclose(stats["mean"], 0.1 * exact.mean((0, 1, 2, 3)), rtol=1e-4)


def test_inference_uses_the_averages_and_changes_nothing():
  x = _x()
  module, variables, _, _ = _run(x)
  y = module.apply(variables, x, train=False)
  want = np.float64(x) / np.sqrt(1 + 1e-5) * np.arange(1.0, 5.0) + np.arange(4.0)
  np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_one_device_equals_eight():
  x = _x()
  module, variables, _, _ = _run(x)

  def loss(params, x):
    y, stats = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
    return jnp.sum(jnp.sin(y)), stats

  def on(devices):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    batch = parallel.put_batch(mesh, {"x": x})["x"]
    params = parallel.put_replicated(mesh, variables["params"])
    return jax.device_get(jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, batch))

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), on(1), on(8))
