"""Walks over all pairs of two lists of items, one tile at a time, without an N×M array in memory.

A matrix of pairs (logits, distances, match probabilities) of 65,536 × 65,536 floats has 17 GB, but
the results needed from it are small: a log-sum-exp per row, the k best columns, a histogram.
`fold_tiles` visits the matrix tile by tile. It passes the row block and the column block of each
tile to a function that folds the result into a carry:

  def row_sums(x, y, block_size):           # x [N, D], y [M, D] -> sum_j exp(x_i · y_j)  [N]
    def step(sums, rows, cols, mask):       # mask [B, C]
      logits = rows.take(x) @ cols.take(y).T
      return rows.merge(jnp.add, sums, jnp.sum(jnp.exp(logits) * mask, axis=1))
    return fold_tiles(step, jnp.zeros_like(x[:, 0]), len(x), len(y), block_size=block_size)

Reductions per row use `rows`, reductions per column use `cols`; a reduction of the whole matrix
uses neither. For pairs within one list and a symmetric function, leave out `num_cols`: each
unordered pair is visited once, which halves the work, and the step folds each tile in both ways.

Nothing is padded: the last block is shifted back to end at the last item, so it overlaps the block
before. `fresh` (already part of `mask`) tells which of its items are new.

Inside `shard_map` the carry must vary over the same mesh axes as the result of the step: create it
with `jnp.zeros_like` or `lax.full_like` from an array that does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vssl_jax.errors import UserError

Carry = TypeVar("Carry")


class Block(NamedTuple):
  """B consecutive items of a list of n.

  Attributes:
    start: int32 [], number of the first item.
    index: int32 [B], numbers of the items.
    fresh: bool [B], False for items that were already in an earlier block.
  """

  start: jax.Array
  index: jax.Array  # type: ignore[assignment]  # a tuple's own `index` searches: not wanted here
  fresh: jax.Array

  def take(self, tree: Any) -> Any:
    """This block's rows `[B, ...]` of every `[n, ...]` array in `tree`."""
    size = self.index.shape[0]
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, self.start, size), tree)

  def put(self, tree: Any, rows: Any) -> Any:
    """`tree` with this block's rows replaced."""
    start = self.start
    return jax.tree.map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y, start, 0), tree, rows)

  def merge(self, combine: Callable[[Any, Any], Any], tree: Any, part: Any) -> Any:
    """`tree` with `combine(old rows, part)` in this block's rows."""
    return self.put(tree, combine(self.take(tree), part))


def fold_tiles(
  step: Callable[[Carry, Block, Block, jax.Array], Carry],
  carry: Carry,
  num_rows: int,
  num_cols: int | None = None,
  *,
  block_size: int | tuple[int, int],
) -> Carry:
  """Folds `step` over all (row block, column block) tiles of a num_rows × num_cols matrix.

  Tiles are visited row block by row block with ascending columns. So a fold that keeps the first of
  equal values keeps the lowest column.

  Args:
    step: `(carry, rows, cols, mask) -> carry`. `mask` bool `[B, C]` is True for the pairs that
      belong to this tile; over all tiles each pair is True exactly once. Replace pairs outside of
      the mask by the neutral element of the reduction. In tiles on the diagonal `rows` and `cols`
      overlap: merge the results of the rows before taking the values of the columns.
    carry: any tree of arrays; XLA updates it in place where the step slices and writes back.
    num_rows: N.
    num_cols: M; None for pairs within one list of N items: each unordered pair {i < j} once, and no
      item with itself.
    block_size: side of a tile, or (rows, columns); need not divide N or M.

  Returns:
    The last carry.

  Raises:
    UserError: a block size or a number of items is not positive.
  """
  half = num_cols is None
  columns = num_rows if num_cols is None else num_cols
  sides = (block_size, block_size) if isinstance(block_size, int) else block_size
  if min(sides) < 1 or min(num_rows, columns) < 1:
    raise UserError(
      f"fold_tiles: sizes must be positive; got {num_rows} rows, {columns} columns, "
      f"block_size {block_size}"
    )
  if half and sides[0] != sides[1]:
    raise UserError(f"fold_tiles: pairs among one list need square tiles; got {block_size}")
  b, c = min(sides[0], num_rows), min(sides[1], columns)
  down, across = -(-num_rows // b), -(-columns // c)
  tiles = np.triu_indices(down) if half else np.divmod(np.arange(down * across), across)

  def visit(carry, tile):
    rows, cols = _block(tile[0], b, num_rows), _block(tile[1], c, columns)
    mask = rows.fresh[:, None] & cols.fresh[None, :]
    if half:
      mask &= rows.index[:, None] < cols.index[None, :]
    return step(carry, rows, cols, mask), None

  return lax.scan(visit, carry, tuple(jnp.asarray(t, jnp.int32) for t in tiles))[0]


def fold_blocks(
  step: Callable[[Carry, Block], Carry], carry: Carry, num_items: int, *, block_size: int
) -> Carry:
  """Folds `step` over the blocks of one list, for O(N) work without copies of whole arrays.

  If the step replaces rows, it must write rows that aren't `fresh` back unchanged.

  Args:
    step: `(carry, block) -> carry`.
    carry: any tree of arrays.
    num_items: N.
    block_size: items per block; need not divide N.

  Returns:
    The last carry.

  Raises:
    UserError: a size is not positive.
  """
  if num_items < 1 or block_size < 1:
    raise UserError(f"fold_blocks: sizes must be positive; got {num_items} by {block_size}")
  size = min(block_size, num_items)

  def visit(carry, i):
    return step(carry, _block(i, size, num_items)), None

  return lax.scan(visit, carry, jnp.arange(-(-num_items // size), dtype=jnp.int32))[0]


def _block(i: jax.Array, size: int, n: int) -> Block:
  start = jnp.minimum(i * size, n - size)
  index = start + jnp.arange(size, dtype=jnp.int32)
  return Block(start, index, index >= i * size)


def nearest(
  queries: jax.Array,
  bank: jax.Array,
  k: int,
  block_size: int | tuple[int, int] = 1024,
  *,
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> tuple[jax.Array, jax.Array]:
  """The k rows of the bank with the largest inner product with each query, tile by tile.

  L2-normalize both sides for cosine similarity.

  Args:
    queries: `[Q, D]`.
    bank: `[N, D]`.
    k: number of neighbors, 1 ≤ k ≤ N.
    block_size: side of a tile, or (queries, bank rows).
    precision: precision of the matrix products; the default keeps float32 even where the backend
      would use TF32.

  Returns:
    scores: float32 `[Q, k]`, descending.
    indices: int32 `[Q, k]` into the bank. Among equal scores the lowest index comes first.

  Raises:
    UserError: k is outside 1..N, or the widths differ.
  """
  if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
    raise UserError(
      f"nearest: queries and bank must be [Q, D] and [N, D]; got {queries.shape}, {bank.shape}"
    )
  if not 1 <= k <= bank.shape[0]:
    raise UserError(f"nearest: k must be in 1..{bank.shape[0]}, the bank's size; got {k}")
  dtype = jnp.result_type(queries, bank, jnp.float32)

  def step(carry, rows, cols, mask):
    x, y = rows.take(queries).astype(dtype), cols.take(bank).astype(dtype)
    scores = jnp.where(mask, jnp.matmul(x, y.T, precision=precision), -jnp.inf)
    found = jnp.broadcast_to(cols.index, scores.shape)
    old_scores, old_found = rows.take(carry)
    # Older candidates first: top_k prefers the first of equals, so the lowest index wins.
    scores, at = lax.top_k(jnp.concatenate([old_scores, scores], axis=1), k)
    found = jnp.take_along_axis(jnp.concatenate([old_found, found], axis=1), at, axis=1)
    return rows.put(carry, (scores, found))

  shape = (queries.shape[0], k)
  start = (
    lax.full_like(queries, -jnp.inf, dtype, shape),
    lax.full_like(queries, 0, jnp.int32, shape),
  )
  return fold_tiles(step, start, shape[0], bank.shape[0], block_size=block_size)
