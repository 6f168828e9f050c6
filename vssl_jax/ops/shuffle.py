"""Gives batch norm groups other members, by a permutation that costs little between devices.

MoCo (He et al. 2020, §3.3) shuffles the rows before the momentum encoder, so that a query and its
key are not normalized with the same other rows. A permutation of the whole batch moves every row
through every device. Here rows are exchanged among `block` neighboring groups only (PySlowFast
shuffles within the 8 GPUs of a machine): each group is permuted at random, then
split into `block` equal parts, and part j of group i becomes part i of group j. The order within a
group does not matter to batch norm, so nothing else needs to be permuted. On devices that is one
all-to-all among neighbors, in which each row leaves its device at most once.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from vssl_jax import parallel
from vssl_jax.errors import UserError

Tree = Any


class Shuffle(flax.struct.PyTreeNode):
  """A permutation of N rows.

  Attributes:
    order: int32 `[G, N / G]`, a permutation of the rows of each of G groups.
    block: number of neighboring groups that exchange rows; 1 exchanges nothing.
  """

  order: jax.Array
  block: int = flax.struct.field(pytree_node=False)


def draw(rng: jax.Array, rows: int, groups: int, block: int) -> Shuffle:
  """Draws a permutation that exchanges rows among `block` neighboring groups.

  Args:
    rng: key.
    rows: N.
    groups: G, the number of equal contiguous groups of rows.
    block: divides G and N / G.

  Raises:
    UserError: the sizes do not divide each other.
  """
  size = rows // groups
  if rows % groups or groups % block or size % block:
    raise UserError(
      f"shuffle: {rows} rows in {groups} groups do not split into blocks of {block} groups with "
      f"{block} equal parts each"
    )
  keys = jax.random.split(rng, groups)
  return Shuffle(jax.vmap(lambda k: jax.random.permutation(k, size))(keys), block)


def whole(rng: jax.Array, rows: int) -> Shuffle:
  """Draws a permutation of all rows, which moves every row through every device."""
  return Shuffle(jax.random.permutation(rng, rows)[None], 1)


def apply(shuffle: Shuffle, tree: Tree, mesh: Mesh | None = None) -> Tree:
  """Permutes the rows of arrays `[N, ...]`.

  Args:
    shuffle: the permutation.
    tree: arrays with N rows, split over the mesh.
    mesh: the devices; the result is the same for any.
  """

  def one(x: jax.Array) -> jax.Array:
    return _exchange(_within(x, shuffle.order, mesh), shuffle, mesh)

  return jax.tree.map(one, tree)


def undo(shuffle: Shuffle, tree: Tree, mesh: Mesh | None = None) -> Tree:
  """The inverse of `apply`."""
  back = jnp.argsort(shuffle.order, axis=1)
  return jax.tree.map(lambda x: _within(_exchange(x, shuffle, mesh), back, mesh), tree)


def _within(x: jax.Array, order: jax.Array, mesh: Mesh | None) -> jax.Array:
  """Permutes the rows of each group."""
  groups, size = order.shape

  def local(x: jax.Array, order: jax.Array) -> jax.Array:
    grouped = x.reshape(-1, size, *x.shape[1:])
    return jax.vmap(lambda part, rows: part[rows])(grouped, order).reshape(x.shape)

  if mesh is None or mesh.size == 1 or groups % mesh.size:
    return parallel.keep_rows(mesh, local(x, order))
  return parallel.by_rows(local, mesh)(x, order)


def _exchange(x: jax.Array, shuffle: Shuffle, mesh: Mesh | None) -> jax.Array:
  """Part j of group i becomes part i of group j, within each block; its own inverse."""
  block, (groups, size) = shuffle.block, shuffle.order.shape
  if block == 1:
    return x
  shape = (-1, block, block, size // block, *x.shape[1:])

  def here(x: jax.Array) -> jax.Array:
    return x.reshape(shape).swapaxes(1, 2).reshape(x.shape)

  if mesh is None or mesh.size == 1 or groups % mesh.size:
    return parallel.keep_rows(mesh, here(x))
  own = groups // mesh.size  # groups of each device
  if own % block == 0:
    return parallel.by_rows(here, mesh)(x)
  if block % own:
    return parallel.keep_rows(mesh, here(x))
  near = block // own  # devices of each block
  members = [list(range(i, i + near)) for i in range(0, mesh.size, near)]

  def among(x: jax.Array) -> jax.Array:
    # [own group i, device of group j, j on that device, rows]
    parts = x.reshape(own, near, own, size // block, *x.shape[1:])
    parts = lax.all_to_all(parts, parallel.AXIS, 1, 0, axis_index_groups=members, tiled=True)
    # [device and number of group i, 1, own group j, rows]
    return jnp.moveaxis(parts[:, 0], 1, 0).reshape(x.shape)

  return parallel.by_rows(among, mesh)(x)
