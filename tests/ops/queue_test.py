"""The ring against a Python deque."""

import collections

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.ops import queue as queue_lib

push = jax.jit(queue_lib.push)


def rows(start, m):
  """Rows that say when they were pushed."""
  return jnp.stack([jnp.arange(start, start + m), -jnp.arange(start, start + m)], axis=1) + 0.0


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(
  size=st.sampled_from([1, 5]),
  pushes=st.lists(st.sampled_from([1, 3, 5, 13]), max_size=6),
)
def test_any_pushes_keep_the_last_rows_in_place(size, pushes):
  queue = queue_lib.create(jax.random.key(0), size, 2)
  noise = np.asarray(queue.items)
  kept, total = collections.deque(maxlen=size), 0
  for m in pushes:
    queue = push(queue, rows(total, m))
    kept.extend(range(total, total + m))
    total += m
    assert int(queue.pointer) == total % size
    assert int(queue.filled) == min(total, size)
    assert bool(queue_lib.is_full(queue)) == (total >= size)
  want, since = noise.copy(), np.full(size, -1)
  for i in kept:  # the row of push i lives at i mod K
    want[i % size] = (i, -i)
    since[i % size] = total - 1 - i
  np.testing.assert_array_equal(queue.items, want)
  np.testing.assert_array_equal(queue_lib.age(queue), since)


def test_noise_has_unit_norm_in_the_mean_and_its_bounds():
  queue = queue_lib.create(jax.random.key(1), 4000, 12)
  assert queue.items.dtype == jnp.float32
  edge = np.sqrt(3 / 12)
  assert np.abs(queue.items).max() <= edge
  assert np.abs(queue.items).max() > 0.99 * edge
  np.testing.assert_allclose(np.mean(np.sum(np.square(queue.items), axis=1)), 1, rtol=0.02)
  assert abs(np.mean(queue.items)) < 0.01
  assert not bool(queue_lib.is_full(queue))


def test_statistics_count_steps():
  queue = queue_lib.create(jax.random.key(0), 8, 2)
  empty = queue_lib.statistics(queue, 2)
  assert (empty["queue_fullness"], empty["queue_age"]) == (0, 0)
  for step in range(6):
    queue = push(queue, rows(2 * step, 2))
    stats = jax.jit(queue_lib.statistics, static_argnums=1)(queue, 2)
    filled = min(step + 1, 4)
    assert stats["queue_fullness"] == filled / 4
    np.testing.assert_allclose(stats["queue_age"], (filled - 1) / 2)


def test_rows_get_no_gradient_and_low_precision_is_widened():
  queue = queue_lib.create(jax.random.key(0), 4, 2)
  assert not np.any(jax.grad(lambda x: jnp.sum(queue_lib.push(queue, x).items))(rows(0, 3)))
  assert push(queue, rows(0, 3).astype(jnp.bfloat16)).items.dtype == jnp.float32


@pytest.mark.parametrize("m", [8, 24])
def test_a_queue_split_over_eight_devices_equals_one_device(m):
  mesh = parallel.make_mesh(jax.devices()[:8])
  split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
  one = queue_lib.create(jax.random.key(0), 16, 2)
  places = queue_lib.Queue(split, whole, whole)
  eight = jax.device_put(one, places)
  step = jax.jit(queue_lib.push, in_shardings=(places, split), out_shardings=places)
  for i in range(3):
    one, eight = push(one, rows(i * m, m)), step(eight, rows(i * m, m))
  assert eight.items.sharding.is_equivalent_to(split, 2)
  jax.tree.map(np.testing.assert_array_equal, eight, one)


def test_bad_input_is_named():
  with pytest.raises(UserError, match="positive"):
    queue_lib.create(jax.random.key(0), 0, 4)
  queue = queue_lib.create(jax.random.key(0), 4, 2)
  with pytest.raises(UserError, match=r"\[M, 2\]"):
    queue_lib.push(queue, jnp.ones((3, 5)))
