"""A first-in, first-out queue of embeddings in a ring of fixed size."""

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
    filled: int32 [], rows ever pushed and still here, up to K.
  """

  items: jax.Array
  pointer: jax.Array
  filled: jax.Array


def create(rng: jax.Array, size: int, dim: int) -> Queue:
  """An empty queue whose rows are noise, U(−√(3/D), √(3/D)): norm 1 in the mean (MoCo's code).

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
  """Overwrites the oldest rows with `rows`, in order; of more than K, the last K stay.

  PySlowFast enqueues clip by clip, so ρ clips' keys `[ρ, N, D]` are to be flattened in that order.

  Args:
    queue: of K rows.
    rows: `[M, D]`, any float type; M need neither divide K nor stay below it. No gradient.

  Returns:
    The queue with its pointer moved on by M, modulo K.

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
  """Rows pushed since each row, int32 `[K]`: 0 for the newest, −1 for the noise of `create`."""
  size = queue.items.shape[0]
  since = (queue.pointer - 1 - jnp.arange(size, dtype=jnp.int32)) % size
  return jnp.where(since < queue.filled, since, -1)


def is_full(queue: Queue) -> jax.Array:
  """Whether no noise is left, bool []."""
  return queue.filled >= queue.items.shape[0]


def statistics(queue: Queue, rows: int) -> dict[str, jax.Array]:
  """Monitors of a queue that gets `rows` rows per step.

  Args:
    queue: any.
    rows: M of each push.

  Returns:
    float32 scalars:
    queue_fullness: share of rows that are not noise, in [0, 1].
    queue_age: mean age of those, in steps: 0 right after their push; 0 for an empty queue.
  """
  since = age(queue)
  steps = jnp.where(since >= 0, since // rows, 0).astype(jnp.float32)
  return {
    "queue_fullness": queue.filled / queue.items.shape[0],
    "queue_age": jnp.sum(steps) / jnp.maximum(queue.filled, 1),
  }
