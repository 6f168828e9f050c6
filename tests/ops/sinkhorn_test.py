"""Sinkhorn's codes: NumPy in float64, marginals, half precision, extremes, eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.ops.sinkhorn import sinkhorn


def scores(b=16, k=6, seed=0, dtype=jnp.float32):
  """Cosines of unit embeddings and unit prototypes."""
  rng = np.random.default_rng(seed)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  cosine = unit(rng.standard_normal((b, 8))) @ unit(rng.standard_normal((k, 8))).T
  return jnp.asarray(cosine, dtype)


def oracle(scores, epsilon=0.05, iterations=3):
  """SwAV's Algorithm 1 as it stands, on a matrix and not its logarithm, in float64."""
  logits = np.asarray(scores, np.float64) / epsilon
  q = np.exp(logits - logits.max()).T
  q /= q.sum()
  k, b = q.shape
  for _ in range(iterations):
    q /= q.sum(axis=1, keepdims=True) * k
    q /= q.sum(axis=0, keepdims=True) * b
  return (q / q.sum(axis=0, keepdims=True)).T


@functools.cache
def compiled(**options):
  return jax.jit(functools.partial(sinkhorn, **options))


@functools.cache
def compiles_float16():
  """XLA has no conversion of float16 for processors without F16C, those before AVX."""
  try:
    jax.jit(lambda x: x.astype(jnp.float32))(np.zeros(1, np.float16))
  except jax.errors.JaxRuntimeError:
    return False
  return True


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("iterations", [0, 1, 3, 20])
def test_matches_float64(epsilon, iterations):
  x = scores()
  got = compiled(epsilon=epsilon, iterations=iterations)(x)
  np.testing.assert_allclose(got, oracle(x, epsilon, iterations), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ("shape", "dtype"),
  [
    ((16, 6), jnp.float32),
    ((6, 16), jnp.bfloat16),
    ((16, 6), jnp.float16),
    ((1, 4), jnp.float32),
    ((4, 1), jnp.float32),
  ],
)
def test_marginals(shape, dtype):
  if dtype == jnp.float16 and not compiles_float16():
    pytest.skip("XLA compiles no float16 for this processor")
  b, k = shape
  x = scores(b, k, dtype=dtype)
  few, many = compiled()(x), compiled(iterations=30, epsilon=0.2)(x)
  for codes in (few, many):
    assert codes.dtype == jnp.float32
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(many.sum(axis=0), np.full(k, b / k), rtol=1e-4)
  # Half-precision scores are taken at their word: the codes are those of the rounded scores.
  np.testing.assert_allclose(few, oracle(x), rtol=1e-3, atol=1e-5)


def test_extreme_logits_are_finite_and_sum_to_one():
  rng = np.random.default_rng(0)
  for x in (
    rng.choice([-1e4, 1e4], (16, 6)),
    rng.uniform(-1e4, 1e4, (16, 6)),
    np.full((16, 6), 1e4),
    np.full((16, 6), -1e4),
    np.where(np.arange(6) == 2, 1e4, -1e4) + np.zeros((16, 1)),
  ):
    codes = np.asarray(compiled()(jnp.asarray(x, jnp.float32)))
    assert np.isfinite(codes).all()
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-6)
    assert (codes >= 0).all()


def test_extreme_logits_with_a_known_answer():
  """A permutation far above the rest is its own code; equal scores are spread evenly."""
  own = np.arange(12)[:, None] % 4 == np.arange(4)
  codes = compiled()(jnp.where(own, 1e4, -1e4))
  np.testing.assert_allclose(codes, own, atol=1e-6)
  np.testing.assert_allclose(compiled()(jnp.full((8, 4), 1e4)), 0.25, rtol=1e-6)


def test_collapsed_scores_still_use_every_prototype():
  """One prototype above all others for everyone: the codes are even, which is what they're for."""
  x = jnp.zeros((8, 4)).at[:, 1].set(1.0)
  np.testing.assert_allclose(compiled()(x), 0.25, rtol=1e-5)


def test_constants_of_a_prototype_do_not_matter():
  x = scores()
  moved = x + jnp.arange(6.0)[None, :] / 4
  np.testing.assert_allclose(compiled()(moved), compiled()(x), rtol=1e-3, atol=1e-6)


def test_no_gradient():
  grad = jax.grad(lambda x: jnp.sum(sinkhorn(x) * jnp.arange(6.0)))(scores())
  assert not np.any(grad)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("extreme", [False, True])
def test_eight_devices_equal_one(dtype, extreme):
  """The batch's marginals are global, under jit with sharded arrays and under shard_map."""
  x = scores(24, dtype=dtype)
  if extreme:
    x = jnp.asarray(np.random.default_rng(1).choice([-1e4, 0, 1e4], x.shape), dtype)
  mesh = parallel.make_mesh(jax.devices()[:8])
  rows = PartitionSpec("data")
  want = compiled()(x)
  split = jax.device_put(x, NamedSharding(mesh, rows))
  mapped = jax.shard_map(
    functools.partial(sinkhorn, axis_name="data"), mesh=mesh, in_specs=rows, out_specs=rows
  )
  for got in (compiled()(split), jax.jit(mapped)(split)):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.sum(got, axis=1), 1, rtol=1e-6)


def test_shard_map_inside_a_loss_is_differentiable_around_it():
  x = scores(16)
  mesh = parallel.make_mesh(jax.devices()[:8])

  def local(x):
    codes = sinkhorn(x, axis_name="data")
    return jax.lax.pmean(-jnp.mean(codes * jax.nn.log_softmax(x, axis=1)), "data")

  mapped = jax.shard_map(
    local, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec()
  )
  whole = lambda x: -jnp.mean(sinkhorn(x) * jax.nn.log_softmax(x, axis=1))
  np.testing.assert_allclose(
    jax.jit(jax.grad(mapped))(x), jax.jit(jax.grad(whole))(x), rtol=1e-4, atol=1e-7
  )


def test_bad_input_is_named():
  with pytest.raises(UserError, match=r"\[B, K\]"):
    sinkhorn(jnp.ones(3))
  with pytest.raises(UserError, match="epsilon"):
    sinkhorn(jnp.ones((2, 2)), epsilon=0)
