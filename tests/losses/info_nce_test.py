"""InfoNCE: dense and block-wise, on one device and eight, against NumPy in float64."""

import functools
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from tests import tolerance
from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import info_nce


def oracle(a, b, t, symmetric=True):
  """Loss, metrics and gradients by a, b and t of the definition, all in float64."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  t, n = float(t), len(a)
  x = np.concatenate([a, b])
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  z = x / np.where(norm > 0, norm, 1)
  cosine = z @ z.T
  s = cosine / t
  np.fill_diagonal(s, -np.inf)
  most = s.max(axis=1, keepdims=True)
  lse = most + np.log(np.exp(s - most).sum(axis=1, keepdims=True))
  own = np.roll(np.eye(2 * n), n, axis=1)
  weight = np.repeat([0.5 / n, 0.5 / n] if symmetric else [1 / n, 0], n)[:, None]
  s = np.where(np.isfinite(s), s, 0)
  loss = np.sum(weight * (lse - (own * s).sum(axis=1, keepdims=True)))
  p = np.exp(np.where(np.eye(2 * n), -np.inf, cosine / t - lse))
  g = weight * (p - own)
  dz = (g + g.T) @ z / t
  dx = (dz - z * np.sum(z * dz, axis=1, keepdims=True)) / np.where(norm > 0, norm, np.inf)

  ab = cosine[:n, n:] / t
  q = np.exp(ab - ab.max(axis=1, keepdims=True))
  q /= q.sum(axis=1, keepdims=True)
  across = ~np.eye(n, dtype=bool)
  rival = np.where(across, cosine[:n, n:], -np.inf).max(axis=1)
  metrics = {
    "contrast_accuracy": np.mean(np.diag(cosine[:n, n:]) > rival),
    "contrast_entropy": np.mean(-np.sum(q * np.log(np.maximum(q, 1e-300)), axis=1)),
    "positive_similarity": np.mean(np.diag(cosine[:n, n:])),
    "negative_similarity": cosine[np.tile(across, (2, 2))].mean() if n > 1 else 0.0,
  }
  return (loss, metrics), (dx[:n], dx[n:], -np.sum(g * s) / t)


@functools.cache
def compiled(**options):
  f = functools.partial(info_nce, **options)
  return jax.jit(jax.value_and_grad(f, (0, 1, 2), has_aux=True))


def ours(a, b, t, **options):
  """Value and gradients; tests that share a shape share its compilation."""
  return compiled(**options)(a, b, jnp.float32(t))


def pair(n, d, seed=0, closeness=1.0, dtype=jnp.float32):
  """Two views: b is a plus noise, rows of very different norms."""
  rng = np.random.default_rng(seed)
  a = rng.standard_normal((n, d))
  b = closeness * a + rng.standard_normal((n, d))
  scale = np.exp(rng.uniform(-3, 3, (n, 1)))
  return jnp.asarray(a * scale, dtype), jnp.asarray(b / scale, dtype)


def assert_close(got, want, rtol=1e-5):
  """Each array within rtol of the reference's largest entry."""

  def check(path, x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    tolerance = rtol * max(np.abs(y).max(), 1.0 if y.ndim == 0 else 1e-4)
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))

  jax.tree_util.tree_map_with_path(check, got, want)


@pytest.mark.parametrize(
  ("block_size", "symmetric"), [(None, True), (None, False), (3, True), (3, False), (100, True)]
)
def test_value_metrics_and_gradients_match_float64(block_size, symmetric):
  a, b = pair(16, 5)
  got = ours(a, b, 0.2, block_size=block_size, symmetric=symmetric)
  assert_close(got, oracle(a, b, 0.2, symmetric))


def test_oracle_gradients_are_finite_differences():
  a, b = (np.asarray(x, np.float64) for x in pair(4, 3))
  _, (da, db, dt) = oracle(a, b, 0.3)
  value = lambda a, b, t: oracle(a, b, t)[0][0]
  step, towards = 1e-6, np.random.default_rng(1).standard_normal(a.shape)
  for grad, move in ((da, (towards, 0, 0)), (db, (0, towards, 0)), (dt, (0, 0, 1.0))):
    ahead, behind = (
      value(*(x + sign * step * m for x, m in zip((a, b, 0.3), move, strict=True)))
      for sign in (1, -1)
    )
    along = np.sum(grad * towards) if np.ndim(grad) else grad
    np.testing.assert_allclose((ahead - behind) / (2 * step), along, rtol=1e-6)


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@hypothesis.given(
  shape=st.sampled_from([(1, 3, 2), (2, 6, 1), (7, 2, 3), (13, 9, 4), (23, 4, 22)]),
  temperature=st.floats(0.02, 5.0),
  closeness=st.floats(-3.0, 3.0),
  seed=st.integers(0, 1000),
)
def test_any_batch_matches_float64(shape, temperature, closeness, seed):
  n, d, block_size = shape
  a, b = pair(n, d, seed, closeness)
  got = ours(a, b, temperature, block_size=block_size)
  want = oracle(a, b, np.float32(temperature))
  # Rounding a cosine, 1e-7, is 1e-7 / τ in a logit.
  assert_close(got, want, rtol=1e-5 * max(1, 0.1 / temperature))


@pytest.mark.parametrize("block_size", [None, 3])
def test_identical_embeddings_give_log_of_candidates(block_size):
  x = jnp.ones((16, 5))
  (loss, metrics), grads = ours(x, 3 * x, 0.1, block_size=block_size, symmetric=True)
  # A cosine of d = 5 terms is rounded by up to (d + 2) / 2 units, a difference of two by twice
  # that, and the exponentials see it divided by the temperature.
  rounding = 2 * (5 + 2) / 2 * 2.0**-23 / 0.1
  np.testing.assert_allclose(loss, np.log(2 * 16 - 1), rtol=0, atol=rounding)
  np.testing.assert_allclose(metrics["contrast_entropy"], np.log(16), rtol=0, atol=rounding)
  assert metrics["contrast_accuracy"] == 0  # a tie is no hit
  every_pair = tolerance.summed(16 * 30)
  np.testing.assert_allclose(metrics["negative_similarity"], 1, rtol=every_pair)
  assert all(np.abs(g).max() < 2e-4 for g in grads)


@pytest.mark.parametrize("block_size", [None, 3])
def test_separated_embeddings_give_no_loss(block_size):
  x, _ = pair(16, 5)
  (loss, metrics), _ = ours(x, 2 * x, 5e-4, block_size=block_size, symmetric=True)
  assert 0 <= loss < 1e-12  # and not the 1e-4 that a logit of 2,000 is rounded by
  assert metrics["contrast_accuracy"] == 1
  np.testing.assert_allclose(metrics["positive_similarity"], 1, rtol=1e-6)


@pytest.mark.parametrize("block_size", [None, 3])
def test_zero_vectors_have_finite_gradients(block_size):
  a, b = pair(16, 5)
  a = a.at[2].set(0)
  got = ours(a, b, 0.1, block_size=block_size, symmetric=True)
  assert_close(got, oracle(a, b, 0.1))
  np.testing.assert_array_equal(got[1][0][2], 0)


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("temperature", [1e-4, 0.05])
def test_extreme_logits_from_bfloat16(block_size, temperature):
  a, b = pair(16, 5, dtype=jnp.bfloat16)
  # Opposed, repeated and huge rows: logits of ±10,000, ties, and 1e15 before normalization.
  a = a.at[1].set(-b[1]).at[3].set(a[2]).at[4].multiply(1e15)
  b = b.at[3].set(b[2])
  (loss, metrics), (da, db, dt) = ours(a, b, temperature, block_size=block_size, symmetric=True)
  assert loss.dtype == jnp.float32
  assert da.dtype == db.dtype == jnp.bfloat16
  want = oracle(a.astype(jnp.float32), b.astype(jnp.float32), np.float32(temperature))
  np.testing.assert_allclose(loss, want[0][0], rtol=1e-5)
  np.testing.assert_allclose(dt, want[1][2], rtol=1e-4)
  assert_close(metrics, want[0][1], rtol=1e-3)
  for g, w in ((da, want[1][0]), (db, want[1][1])):
    np.testing.assert_allclose(np.float64(g), w, rtol=0.02, atol=1e-2 * np.abs(w).max())


@pytest.mark.parametrize("block_size", [None, 3])
def test_not_finite_embeddings_give_not_finite_loss(block_size):
  a, b = pair(16, 5)
  (loss, _), _ = ours(a.at[2, 1].set(np.nan), b, 0.1, block_size=block_size, symmetric=True)
  assert np.isnan(loss)


@pytest.mark.parametrize("block_size", [None, 3])
def test_part_of_an_objective(block_size):
  """Cotangents, a learnable scale 1/τ = exp(s) as in CLIP, metrics without gradient."""
  a, b = pair(16, 5)

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1))
  def gradients(a, s):
    loss, metrics = info_nce(a, b, jnp.exp(-s), block_size=block_size)
    return loss**2 + 3 * jnp.sum(a) + sum(metrics.values())

  s = np.float32(1.5)
  (loss, _), (da, _, dt) = oracle(a, b, np.exp(-s))
  assert_close(gradients(a, s), (2 * loss * da + 3, -2 * loss * dt * np.exp(-s)))


def test_memory_of_value_and_gradient_is_bounded():
  """65,536 videos: one N × N matrix would be 17 GB; here, a few copies of the embeddings."""
  x = jax.ShapeDtypeStruct((65536, 128), jnp.float32)
  f = jax.jit(jax.value_and_grad(functools.partial(info_nce, block_size=512), (0, 1), has_aux=True))
  memory = f.lower(x, x, jax.ShapeDtypeStruct((), jnp.float32)).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 4 * x.size * 4


# --- Eight devices --------------------------------------------------------------------------------

N, D, DEVICES = 40, 6, 8  # five videos per device; tiles of 3 divide neither 5 nor 40
SPLIT, WHOLE = PartitionSpec("data"), PartitionSpec()


def upstream(params, x, **options):
  """A small model before the loss: parameters are shared by all devices, x [n, 2, D] split."""
  z = jnp.tanh(x @ params["kernel"])
  return info_nce(z[:, 0], z[:, 1], jnp.exp(params["log_temperature"]), **options)


def model():
  rng = np.random.default_rng(0)
  params = {
    "kernel": rng.standard_normal((D, 5)).astype(np.float32),
    "log_temperature": np.float32(-1.5),
  }
  return params, rng.standard_normal((N, 2, D)).astype(np.float32)


def value_and_grads(**options):
  return jax.value_and_grad(functools.partial(upstream, **options), (0, 1), has_aux=True)


def by_jit(mesh, params, x, block_size):
  put = functools.partial(jax.device_put, x, NamedSharding(mesh, SPLIT))
  return jax.jit(value_and_grads(block_size=block_size))(params, put())


def by_mesh(mesh, params, x, block_size):
  x = jax.device_put(x, NamedSharding(mesh, SPLIT))
  f = jax.jit(value_and_grads(block_size=block_size, mesh=mesh, axis_name="data"))
  text = f.lower(params, x).compile().as_text()
  assert f"f32[{2 * N},{2 * N}]" not in text
  result = f(params, x)
  assert result[1][1].sharding.spec == SPLIT
  return result


def by_shard_map(mesh, params, x, block_size, check_vma, outside):
  """With `jax.grad` outside the mapped function (nothing to do) or inside (see `info_nce`)."""
  options = {"block_size": block_size, "axis_name": "data"}
  mapped = functools.partial(jax.shard_map, mesh=mesh, in_specs=(WHOLE, SPLIT), check_vma=check_vma)
  if outside:
    f = mapped(functools.partial(upstream, **options), out_specs=WHOLE)
    return jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(params, x)

  def inside(params, x):
    value, (by_params, by_x) = value_and_grads(**options)(params, x)
    if not check_vma:
      by_params, by_x = lax.pmean(by_params, "data"), by_x / DEVICES
    return value, (by_params, by_x)

  return jax.jit(mapped(inside, out_specs=(WHOLE, (WHOLE, SPLIT))))(params, x)


def by_pmap(mesh, params, x, block_size):
  del mesh

  @functools.partial(jax.pmap, axis_name="data", in_axes=(None, 0))
  def step(params, x):
    value, (by_params, by_x) = value_and_grads(block_size=block_size, axis_name="data")(params, x)
    return value, (lax.pmean(by_params, "data"), by_x / DEVICES)

  value, (by_params, by_x) = step(params, x.reshape(DEVICES, -1, 2, D))
  one = functools.partial(jax.tree.map, lambda x: x[3])
  return one(value), (one(by_params), by_x.reshape(x.shape))


WAYS = {
  "jit": by_jit,
  "mesh": by_mesh,
  "shard_map": functools.partial(by_shard_map, check_vma=True, outside=False),
  "shard_map, grad outside": functools.partial(by_shard_map, check_vma=True, outside=True),
  "shard_map, no vma": functools.partial(by_shard_map, check_vma=False, outside=False),
  "shard_map, no vma, grad outside": functools.partial(by_shard_map, check_vma=False, outside=True),
  "pmap": by_pmap,
}


@pytest.fixture(scope="module")
def on_one_device():
  return jax.jit(value_and_grads())(*model())


@pytest.mark.parametrize(
  ("way", "block_size"),
  [(way, 3) for way in WAYS] + [(way, None) for way in ("jit", "shard_map")],
)
def test_eight_devices_equal_one(way, block_size, on_one_device):
  mesh = parallel.make_mesh(jax.devices()[:DEVICES])
  got = WAYS[way](mesh, *model(), block_size=block_size)
  assert_close(got, on_one_device, rtol=2e-6)


def test_devices_exchange_embeddings_and_never_logits():
  mesh = parallel.make_mesh(jax.devices()[:DEVICES])
  options = {"block_size": 3, "mesh": mesh, "axis_name": "data"}
  f = jax.grad(lambda x: info_nce(x[:, 0], x[:, 1], 0.1, **options)[0])
  text = str(jax.make_jaxpr(f)(model()[1]))
  # Two embeddings, their norms, and for the gradient each anchor's peak and rate.
  gathered = re.findall(r"f32\[([\d,]+)\]\S* = all_gather", text)
  assert sorted(gathered) == [f"{N},2"] * 3 + [f"{N},{D}"] * 2


@pytest.mark.parametrize(
  ("a", "options", "message"),
  [
    (np.ones((4, 3)), {}, r"\[N, D\] alike"),
    (np.ones((0, 2)), {}, "N > 0"),
    (np.ones((4, 2)), {"block_size": 0}, "block_size"),
    (np.ones((4, 2)), {"temperature": 0.0}, "temperature"),
    (np.ones((4, 2)), {"mesh": True}, "axis_name"),
    (np.ones((4, 2)), {"mesh": True, "axis_name": "data"}, "evenly"),
  ],
)
def test_bad_input_is_named(a, options, message):
  b = np.ones((len(a), 2))
  if "mesh" in options:
    options = options | {"mesh": parallel.make_mesh(jax.devices()[:DEVICES])}
  with pytest.raises(UserError, match=message):
    info_nce(jnp.asarray(a), jnp.asarray(b), options.pop("temperature", 0.1), **options)
