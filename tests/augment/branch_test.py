"""The loop over rows gives what `vmap` gives, in steps of bounded size, shards untouched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax.augment import branch


def double_if(x, factor):
  return branch.apply_if(factor > 0, lambda v: v * factor, x.astype(jnp.float32))


@pytest.mark.parametrize("rows", [1, 5, 24])
@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("step_bytes", [1, 50, 2**29])
def test_equals_vmap(monkeypatch, rows, one_by_one, step_bytes):
  monkeypatch.setattr(branch, "one_by_one", lambda mesh: one_by_one)
  monkeypatch.setattr(branch, "_STEP_BYTES", step_bytes)
  x = np.arange(rows * 6, dtype=np.uint8).reshape(rows, 2, 3)
  factor = jnp.arange(rows, dtype=jnp.float32) - 1
  out = jax.jit(lambda *a: branch.over_rows(double_if, *a))(x, factor)
  np.testing.assert_array_equal(out, jax.vmap(double_if)(x, factor))


def test_memory_in_flight_is_bounded(monkeypatch):
  monkeypatch.setattr(branch, "one_by_one", lambda mesh: False)
  monkeypatch.setattr(branch, "_STEP_BYTES", 2**16)

  def temporary(rows):
    def fn(x):
      y = jax.lax.optimization_barrier(x.astype(jnp.float32) * 2)
      return jnp.sum(y[::-1] * y)

    x = jax.ShapeDtypeStruct((rows, 64, 64), jnp.uint8)
    compiled = jax.jit(lambda x: branch.over_rows(fn, x)).lower(x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(512) < 2.5 * 2**16


@pytest.mark.parametrize("p", [0, 0.0, 1, 1.0])
def test_certainty_is_static(p):
  assert branch.drawn(jnp.array(True), p) is bool(p)


def test_chance_is_not():
  assert isinstance(branch.drawn(jnp.array(True), 0.3), jax.Array)


def test_each():
  x, y = jnp.arange(4.0), jnp.ones(4)
  np.testing.assert_array_equal(branch.each(jnp.add, x, y), x + y)
