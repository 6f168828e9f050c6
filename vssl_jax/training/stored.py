"""What a checkpoint stores of a train state: arrays, as Orbax writes them, and their digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

Tree = Any


@jax.jit
def digest(tree: Tree) -> list[jax.Array]:
  """A 32-bit digest of each array: the sum of its words times odd position weights, modulo 2^32.

  A change of any single word changes the digest. A swap of two different words changes it in all
  but one of 2^31 cases. The digest is computed on the array's own devices, with any sharding.
  """

  def one(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
      x = x.astype(jnp.uint8)
    word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[x.dtype.itemsize]
    words = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis in range(x.ndim):
      index = index * x.shape[axis] + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    weight = (index * jnp.uint32(2654435761)) | jnp.uint32(1)
    return jnp.sum(words * weight, dtype=jnp.uint32)

  return [one(x) for x in jax.tree.leaves(tree)]


def seal(facts: Mapping[str, Any]) -> dict[str, Any]:
  """Facts about a checkpoint, in types of JSON, with their hash under `sha256`."""
  return {**facts, "sha256": _hash(facts)}


def check_seal(sealed: Mapping[str, Any]) -> None:
  """Checks that facts are those that were written; earlier versions wrote no hash of them.

  Raises:
    ValueError: they differ.
  """
  facts = {k: v for k, v in sealed.items() if k != "sha256"}
  if sealed.get("sha256", _hash(facts)) != _hash(facts):
    raise ValueError("its digest differs from what was written")


def _hash(facts: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def handlers() -> ocp.handlers.CheckpointHandlerRegistry:
  """How Orbax writes and reads the parts of a checkpoint.

  One device writes an array that all have. By default Orbax cuts it among them and compiles a
  program for each cut: before the first save of a network on eight devices, thousands.
  """
  arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
  types = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
  state = ocp.PyTreeCheckpointHandler(type_handler_registry=types)
  registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
  registry.add("state", ocp.args.PyTreeSave, state)
  registry.add("state", ocp.args.PyTreeRestore, state)
  digests = ocp.JsonCheckpointHandler()
  registry.add("digest", ocp.args.JsonSave, digests)
  registry.add("digest", ocp.args.JsonRestore, digests)
  return registry


def layout(tree: Tree) -> dict[str, str]:
  """The dtype and shape of every array, keyed by its path in the tree."""
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
    for path, x in flat
  }
