"""InfoNCE against a queue: NumPy in float64, closed forms, eight devices."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import info_nce, queue_nce


def unit(x):
  x = np.asarray(x, np.float64)
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  return x / np.where(norm > 0, norm, 1), norm


def softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def oracle(q, keys, queue, t, positives):
  """Loss, metrics and the gradient by q, candidate list by candidate list, in float64."""
  (q, norm), keys, queue = unit(q), unit(keys)[0], unit(queue)[0]
  n, p, _ = keys.shape
  loss, dq, entropy, right = 0.0, np.zeros_like(q), [], []
  for i in range(n):
    groups = [range(p)] if positives == "sum" else [[j] for j in range(p)]
    for group in groups:
      candidates = np.concatenate([keys[i, list(group)], queue])
      s = candidates @ q[i] / t
      prob, own = softmax(s), np.arange(len(s)) < len(group)
      share = prob * own / prob[own].sum()
      weight = 1 / (n * len(groups))
      loss += weight * (np.log(np.exp(s - s.max()).sum()) - np.log(np.exp(s - s.max())[own].sum()))
      dq[i] += weight * (prob - share) @ candidates / t
      entropy.append(-np.sum(prob * np.log(np.maximum(prob, 1e-300))))
      right.append(s[own].max() > s[~own].max())
  dx = (dq - q * np.sum(q * dq, axis=1, keepdims=True)) / np.where(norm > 0, norm, np.inf)
  metrics = {
    "contrast_accuracy": np.mean(right),
    "contrast_entropy": np.mean(entropy),
    "positive_similarity": np.einsum("nd,npd->np", q, keys).mean(),
    "negative_similarity": (q @ queue.T).mean(),
  }
  return (loss, metrics), dx


def tensors(n=5, p=3, k=11, d=6, seed=0, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  q = rng.standard_normal((n, d)) * np.exp(rng.uniform(-3, 3, (n, 1)))
  keys = unit(q)[0][:, None] + 0.5 * rng.standard_normal((n, p, d))
  return tuple(jnp.asarray(x, dtype) for x in (q, keys, rng.standard_normal((k, d))))


@functools.cache
def compiled(positives):
  f = functools.partial(queue_nce, positives=positives)
  return jax.jit(jax.value_and_grad(f, has_aux=True))


def assert_close(got, want, rtol=1e-5):
  def check(path, x, y):
    tolerance = rtol * max(np.abs(y).max(), 1.0 if np.ndim(y) == 0 else 1e-3)
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))

  jax.tree_util.tree_map_with_path(check, got, want)


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True, database=None)
@hypothesis.given(
  shape=st.sampled_from([(5, 3, 11, 6), (1, 1, 1, 2), (4, 2, 1, 3)]),
  temperature=st.sampled_from([0.02, 0.1, 1.0, 5.0]),
  positives=st.sampled_from(["separate", "sum"]),
  seed=st.integers(0, 1000),
)
def test_value_metrics_and_gradient_match_float64(shape, temperature, positives, seed):
  x = tensors(*shape, seed=seed)
  t = np.float32(temperature)
  got = compiled(positives)(*x, t)
  # A cosine of d ≤ 6 terms is rounded by up to (d + 2) / 2 units of 1.2e-7. The exponentials see
  # the difference of two of them, divided by τ, and a gradient is a product of two such.
  assert_close(got, oracle(*x, np.float64(t), positives), rtol=max(1e-5, 2e-6 / temperature))


def test_one_positive_is_the_same_in_and_out_of_the_log():
  x = tensors(p=1)
  assert_close(compiled("sum")(*x, 0.1), jax.tree.map(np.asarray, compiled("separate")(*x, 0.1)))


def test_sum_of_logs_bounds_log_of_sum():
  """Jensen: the log of the positives' mean is at least the mean of their logs."""
  q, keys, queue = tensors()
  inside = compiled("sum")(q, keys, queue, 0.1)[0][0]
  outside = compiled("separate")(q, keys, queue, 0.1)[0][0]
  assert float(inside) < float(outside)


@pytest.mark.parametrize("shape", [(4, 1, 7), (4, 3, 7)])
def test_equal_vectors_have_the_closed_form(shape):
  n, p, k = shape
  same = (jnp.ones((n, 3)), jnp.ones((n, p, 3)), jnp.ones((k, 3)))
  for positives, loss, entropy in (
    ("separate", np.log1p(k), np.log1p(k)),
    ("sum", np.log1p(k / p), np.log(p + k)),
  ):
    (value, metrics), grad = compiled(positives)(*same, 0.1)
    np.testing.assert_allclose(value, loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["contrast_entropy"], entropy, rtol=1e-6)
    assert metrics["contrast_accuracy"] == 0  # a tie is no success
    np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_a_collapse_up_to_rounding_scores_nothing():
  """Keys equal to their queries among negatives whose cosines differ from 1 by rounding."""
  rng = np.random.default_rng(0)
  point = rng.standard_normal(6)
  q = jnp.asarray(point + 1e-4 * rng.standard_normal((5, 6)), jnp.float32)
  queue = jnp.asarray(point + 1e-4 * rng.standard_normal((11, 6)), jnp.float32)
  keys = jnp.tile(q[:, None], (1, 3, 1))
  for positives in ("separate", "sum"):
    assert compiled(positives)(q, keys, queue, 0.1)[0][1]["contrast_accuracy"] == 0


def test_only_queries_get_gradient_also_at_zero_and_coincident_points():
  q, keys, queue = tensors()
  q = q.at[0].set(0).at[1].set(keys[1, 0]).at[2].set(queue[0])
  f = lambda *x: queue_nce(*x, 1e-3)[0]
  dq, dk, dn = jax.jit(jax.grad(f, (0, 1, 2)))(q, keys.at[3, 0].set(0), queue.at[1].set(0))
  assert np.isfinite(dq).all()
  assert not np.any(dq[0])
  assert not np.any(dk)
  assert not np.any(dn)


def test_lone_query_and_queue_is_one_direction_of_two_views():
  """One negative b₁ for a₀ with key b₀: the anchor a₀ of info_nce without its own view's rival."""
  a, b = (jnp.asarray([[1.0, 0], [0, 0]]), jnp.asarray([[0.6, 0.8], [0.0, 1]]))
  # a₁ = 0 has cosine 0 to a₀, and so has b₁: the two rivals are one counted twice.
  two = jnp.log(jnp.exp(0.6 / 0.5) + 2) - 0.6 / 0.5
  ours = compiled("separate")(a[:1], b[:1, None], jnp.stack([b[1], a[1]]), 0.5)[0][0]
  np.testing.assert_allclose(ours, two, rtol=1e-6)
  pair = jax.jit(functools.partial(info_nce, symmetric=False))(a, b, 0.5)[0]
  last = jnp.log(jnp.exp(0.0) * 3)  # anchor a₁: every cosine is 0
  np.testing.assert_allclose((ours + last) / 2, pair, rtol=1e-6)


def test_half_precision_inputs_are_computed_in_float32():
  x = tensors(dtype=jnp.bfloat16)
  (loss, metrics), grad = compiled("separate")(*x, 0.1)
  (want, _), wanted = oracle(*(np.asarray(y, np.float32) for y in x), 0.1, "separate")
  assert loss.dtype == jnp.float32
  assert {y.dtype for y in metrics.values()} == {jnp.dtype("float32")}
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(np.asarray(grad, np.float64), wanted, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("positives", ["separate", "sum"])
def test_eight_devices_equal_one(positives):
  """Rows and queue split over the mesh, parameters of the encoder replicated."""
  mesh = parallel.make_mesh(jax.devices()[:8])
  rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
  q, keys, queue = tensors(n=16, p=2, k=24)
  w = jnp.asarray(np.random.default_rng(3).standard_normal((6, 6)), jnp.float32)

  def loss(w, q, keys, queue):
    return queue_nce(q @ w, keys, queue, 0.2, positives=positives)

  step = jax.value_and_grad(loss, has_aux=True)
  split = jax.jit(step, in_shardings=(whole, rows, rows, rows))(w, q, keys, queue)
  assert_close(split, jax.tree.map(np.asarray, jax.jit(step)(w, q, keys, queue)), rtol=1e-5)


def test_bad_input_is_named():
  q, keys, queue = tensors()
  for bad in ((q, keys[:, 0], queue), (q, keys[:-1], queue), (q, keys, queue[:, 1:])):
    with pytest.raises(UserError, match=r"\[N, D\], \[N, P, D\] and \[K, D\]"):
      queue_nce(*bad, 0.1)
  with pytest.raises(UserError, match="none empty"):
    queue_nce(q, keys, queue[:0], 0.1)
  with pytest.raises(UserError, match="temperature"):
    queue_nce(q, keys, queue, 0)
  with pytest.raises(UserError, match="separate or sum"):
    queue_nce(q, keys, queue, 0.1, positives="mean")
