"""A first-in, first-out queue of embeddings, stored as a ring buffer of fixed size."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from vssl_jax.errors import UserError


class Queue(flax.struct.PyTreeNode):
  """K rows; the oldest is overwritten first.

  Attributes:
    items: float32 `[K, D]`.
    pointer: int32 [], the row that the next push writes first.
    filled: int32 [], number of rows in the queue that were pushed, up to K.
  """

  items: jax.Array
  pointer: jax.Array
  filled: jax.Array


def create(rng: jax.Array, size: int, dim: int) -> Queue:
  """An empty queue; its rows are noise U(−√(3/D), √(3/D)), with mean norm 1 (as in MoCo's code).

  Args:
    rng: key.
    size: K > 0.
    dim: D > 0.

  Raises:
    UserError: a size isn't positive.
  """
  if min(size, dim) < 1:
    raise UserError(f"queue: size and dim must be positive; got {size} and {dim}")
  edge = (3 / dim) ** 0.5
  items = jax.random.uniform(rng, (size, dim), jnp.float32, -edge, edge)
  return Queue(items, jnp.int32(0), jnp.int32(0))


def push(queue: Queue, rows: jax.Array) -> Queue:
  """Overwrites the oldest rows with `rows`, in order; of more than K rows, the last K are kept.

  PySlowFast enqueues clip by clip: to do the same, flatten the keys of ρ clips from `[ρ, N, D]`.

  Args:
    queue: a queue of K rows.
    rows: `[M, D]`, any float type; M may be any number, also above K. No gradient.

  Returns:
    The queue, with its pointer advanced by M, modulo K.

  Raises:
    UserError: rows aren't `[M, D]`.
  """
  size, dim = queue.items.shape
  if rows.ndim != 2 or rows.shape[1] != dim:
    raise UserError(f"queue.push: rows must be [M, {dim}]; got {rows.shape}")
  m = rows.shape[0]
  kept = min(m, size)
  rows = jax.lax.stop_gradient(rows[m - kept :]).astype(queue.items.dtype)
  where = (queue.pointer + (m - kept) % size + jnp.arange(kept, dtype=jnp.int32)) % size
  return Queue(
    queue.items.at[where].set(rows, unique_indices=True),
    (queue.pointer + m % size) % size,
    jnp.minimum(queue.filled + kept, size),
  )


def age(queue: Queue) -> jax.Array:
  """Number of rows pushed after each row, int32 `[K]`: 0 for the newest, −1 for initial noise."""
  size = queue.items.shape[0]
  since = (queue.pointer - 1 - jnp.arange(size, dtype=jnp.int32)) % size
  return jnp.where(since < queue.filled, since, -1)


def is_full(queue: Queue) -> jax.Array:
  """Whether all rows were pushed and no initial noise is left, bool []."""
  return queue.filled >= queue.items.shape[0]


def statistics(queue: Queue, rows: int) -> dict[str, jax.Array]:
  """Metrics of a queue that gets `rows` rows per step.

  Args:
    queue: any queue.
    rows: number M of rows in each push.

  Returns:
    float32 scalars:
    queue_fullness: share of rows that are not initial noise, in [0, 1].
    queue_age: mean age of those rows in steps; 0 directly after a push; 0 for an empty queue.
  """
  since = age(queue)
  steps = jnp.where(since >= 0, since // rows, 0).astype(jnp.float32)
  return {
    "queue_fullness": queue.filled / queue.items.shape[0],
    "queue_age": jnp.sum(steps) / jnp.maximum(queue.filled, 1),
  }
