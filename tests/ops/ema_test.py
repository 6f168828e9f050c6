import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax.errors import UserError
from vssl_jax.ops import ema


def test_momentum_matches_float64_and_its_ends():
  k = np.arange(0, 101)
  want = 1 - (1 - 0.994) * (np.cos(np.pi * k / 100) + 1) / 2
  got = jax.jit(lambda k: ema.momentum(0.994, k, 100))(k)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-7)
  assert got[0] == np.float32(0.994)
  assert got[100] == 1
  assert np.all(np.diff(got) >= 0)
  assert ema.momentum(0.9, 1000, 100) == 1  # stays at the end
  np.testing.assert_allclose(ema.momentum(0.9, 50, 100), 0.95, rtol=1e-6)


def test_momentum_without_annealing_and_of_an_empty_run():
  assert ema.momentum(0.99, 70, 100, anneal=False) == np.float32(0.99)
  assert np.isfinite(ema.momentum(0.99, 0, 0))


def trees():
  rng = np.random.default_rng(0)
  make = lambda: {
    "kernel": jnp.asarray(rng.standard_normal((3, 4)), jnp.float32),
    "low": jnp.asarray(rng.standard_normal(5), jnp.bfloat16),
    "norm": {"count": jnp.int32(rng.integers(100))},
  }
  return make(), make()


def test_update_matches_float64():
  target, online = trees()
  got = jax.jit(ema.update)(target, online, 0.9)
  want = 0.9 * np.asarray(target["kernel"], np.float64) + 0.1 * np.asarray(online["kernel"])
  np.testing.assert_allclose(got["kernel"], want, rtol=1e-6, atol=1e-7)
  assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, target)
  assert got["norm"]["count"] == online["norm"]["count"]


def test_half_precision_is_averaged_in_float32():
  """In bfloat16 1 − 0.996 itself would be 0.0039 and the product off by more than the result."""
  target, online = jnp.full(3, 1.0, jnp.bfloat16), jnp.full(3, 3.0, jnp.bfloat16)
  np.testing.assert_array_equal(ema.update(target, online, 0.996), jnp.full(3, 1.0078125))


def test_ends_are_exact():
  target, online = trees()
  floats = lambda tree: {k: v for k, v in tree.items() if k != "norm"}
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, floats(a), floats(b))
  same(ema.update(target, online, 0.0), online)
  same(ema.update(target, online, 1.0), target)


def test_closed_form_over_many_updates():
  """From 0 towards a constant 1: 1 − mⁿ."""
  value = jax.lax.fori_loop(0, 50, lambda _, t: ema.update(t, jnp.float32(1), 0.9), jnp.float32(0))
  np.testing.assert_allclose(value, 1 - 0.9**50, rtol=1e-5)


def test_bad_input_is_named():
  with pytest.raises(UserError, match=r"in \[0, 1\]"):
    ema.momentum(1.5, 0, 10)
  with pytest.raises(UserError, match="trees differ"):
    ema.update({"a": jnp.ones(2)}, {"b": jnp.ones(2)}, 0.9)
  with pytest.raises(UserError, match=r"'a'.*\(2,\).*\(3,\)"):
    ema.update({"a": jnp.ones(2)}, {"a": jnp.ones(3)}, 0.9)
