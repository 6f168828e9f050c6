import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from sklearn.neighbors import NearestNeighbors

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.ops import tiles


def visits(num_rows, num_cols, block_size):
  """How often each pair was True in a mask, and in which order the tiles came."""

  def step(counts, rows, cols, mask):
    return counts.at[rows.index[:, None], cols.index[None, :]].add(mask.astype(jnp.int32))

  shape = (num_rows, num_rows if num_cols is None else num_cols)
  fold = functools.partial(
    tiles.fold_tiles, step, num_rows=num_rows, num_cols=num_cols, block_size=block_size
  )
  return np.asarray(jax.jit(fold)(jnp.zeros(shape, jnp.int32)))


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)
@hypothesis.given(
  n=st.integers(1, 17), m=st.integers(1, 17), b=st.integers(1, 20), c=st.integers(1, 20)
)
def test_each_pair_is_visited_once(n, m, b, c):
  np.testing.assert_array_equal(visits(n, m, (b, c)), 1)


@pytest.mark.parametrize(("n", "b"), [(1, 3), (7, 1), (7, 3), (8, 4), (9, 5), (5, 5)])
def test_each_unordered_pair_is_visited_once(n, b):
  np.testing.assert_array_equal(visits(n, None, b), np.triu(np.ones((n, n)), 1))


def test_example_of_the_module():
  """Row sums of exp(x_i · y_j), as the docstring has it; and both ways over unordered pairs."""
  rng = np.random.default_rng(0)
  x, y = (jnp.asarray(rng.standard_normal((n, 3)), jnp.float32) for n in (11, 7))

  def step(sums, rows, cols, mask):
    logits = rows.take(x) @ cols.take(y).T
    return rows.merge(jnp.add, sums, jnp.sum(jnp.exp(logits) * mask, axis=1))

  got = tiles.fold_tiles(step, jnp.zeros_like(x[:, 0]), 11, 7, block_size=4)
  np.testing.assert_allclose(got, np.exp(x @ y.T).sum(axis=1), rtol=1e-5)

  def both(sums, rows, cols, mask):
    weights = jnp.exp(rows.take(x) @ cols.take(x).T) * mask
    sums = rows.merge(jnp.add, sums, jnp.sum(weights, axis=1))
    return cols.merge(jnp.add, sums, jnp.sum(weights, axis=0))

  got = tiles.fold_tiles(both, jnp.zeros_like(x[:, 0]), 11, block_size=4)
  want = np.exp(x @ x.T)
  np.testing.assert_allclose(got, want.sum(axis=1) - np.diag(want), rtol=1e-5)


def test_blocks_of_a_list():
  """Rows are replaced once each, through an overlapping last block too."""
  x = jnp.arange(11.0)

  def step(carry, block):
    rows, total = carry
    old = block.take(rows)
    rows = block.put(rows, jnp.where(block.fresh, 10 * old, old))
    return rows, total + jnp.sum(jnp.where(block.fresh, old, 0))

  rows, total = tiles.fold_blocks(step, (x, jnp.float32(0)), 11, block_size=4)
  np.testing.assert_array_equal(rows, 10 * x)
  assert total == x.sum()


@pytest.mark.parametrize("block_size", [1000, (4, 7)])
def test_nearest_matches_scikit_learn(block_size):
  rng = np.random.default_rng(1)
  queries, bank = rng.standard_normal((10, 6)), rng.standard_normal((33, 6))
  bank /= np.linalg.norm(bank, axis=1, keepdims=True)
  queries /= np.linalg.norm(queries, axis=1, keepdims=True)
  distance, index = NearestNeighbors(n_neighbors=5, metric="cosine").fit(bank).kneighbors(queries)
  scores, indices = jax.jit(functools.partial(tiles.nearest, k=5, block_size=block_size))(
    jnp.asarray(queries, jnp.float32), jnp.asarray(bank, jnp.float32)
  )
  np.testing.assert_array_equal(indices, index)
  np.testing.assert_allclose(scores, 1 - distance, rtol=1e-5, atol=1e-6)


def test_nearest_prefers_the_lowest_index_among_equals():
  bank = jnp.asarray([[0.0], [1], [1], [0], [1], [1], [2]])
  for block_size in (2, 3, 7):
    scores, indices = tiles.nearest(jnp.ones((1, 1)), bank, 7, block_size)
    np.testing.assert_array_equal(indices, [[6, 1, 2, 4, 5, 0, 3]])
    np.testing.assert_array_equal(scores, [[2, 1, 1, 1, 1, 0, 0]])


def test_nearest_over_a_sharded_bank():
  rng = np.random.default_rng(2)
  queries, bank = (rng.standard_normal((n, 4)).astype(np.float32) for n in (8, 40))
  mesh = parallel.make_mesh(jax.devices()[:8])
  split = jax.device_put(bank, NamedSharding(mesh, PartitionSpec("data")))
  find = jax.jit(functools.partial(tiles.nearest, k=3, block_size=(3, 16)))
  order = np.argsort(-(queries @ bank.T), axis=1)[:, :3]
  np.testing.assert_array_equal(find(queries, split)[1], order)


def test_memory_of_nearest_is_bounded():
  """100,000 × 100,000 scores would be 40 GB."""
  x = jax.ShapeDtypeStruct((100_000, 16), jnp.float32)
  find = jax.jit(functools.partial(tiles.nearest, k=20, block_size=256))
  assert find.lower(x, x).compile().memory_analysis().temp_size_in_bytes < 40e6


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: tiles.fold_tiles(None, 0, 4, 4, block_size=0), "positive"),
    (lambda: tiles.fold_tiles(None, 0, 0, 4, block_size=2), "positive"),
    (lambda: tiles.fold_tiles(None, 0, 4, block_size=(2, 3)), "square"),
    (lambda: tiles.fold_blocks(None, 0, 4, block_size=0), "positive"),
    (lambda: tiles.nearest(jnp.ones((2, 3)), jnp.ones((4, 2)), 1), r"\[N, D\]"),
    (lambda: tiles.nearest(jnp.ones((2, 3)), jnp.ones((4, 3)), 5), r"1\.\.4"),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(UserError, match=message):
    call()
