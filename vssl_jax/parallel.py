"""Devices and processes: one mesh axis, `data`; parameters replicated, batches split by video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vssl_jax.errors import UserError

AXIS = "data"
Tree = Any


def initialize(config: ConfigDict) -> None:
  """Joins the other processes, before anything touches a device.

  Args:
    config: `config.distributed`: `coordinator` is "" (one process), "auto" (a TPU pod or
      SLURM tells the rest) or host:port with `processes` and this process's `index`.

  Raises:
    UserError: the fields do not fit together.
  """
  if not config.coordinator:
    if config.processes != 1:
      raise UserError(
        f"config.distributed.processes is {config.processes} without a coordinator: set "
        "config.distributed.coordinator=host:port (or auto)."
      )
    return
  if config.coordinator == "auto":
    jax.distributed.initialize()
    return
  if not 0 <= config.index < config.processes:
    raise UserError(
      f"config.distributed.index is {config.index}: it counts from 0 to processes - 1 = "
      f"{config.processes - 1}."
    )
  jax.distributed.initialize(config.coordinator, config.processes, config.index)


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
  """A one-axis mesh over the given devices, by default all of every process.

  More than one CPU device switches JAX's persistent compilation cache off for the process: XLA
  runs a CPU program's collectives in one order on every device, but not when the program was read
  from that cache, and then devices wait for each other for ever (jaxlib 0.10).
  """
  devices = devices if devices is not None else jax.devices()
  on_host = len(devices) > 1 and devices[0].platform == "cpu"
  # JAX makes the attribute at run time.
  if on_host and jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # whether it is used is asked once, at the first compilation
  return Mesh(np.asarray(devices), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of parameters and optimizer state: a whole copy on each device."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """The sharding of batches: the first axis over the devices."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
  """Fails early where a batch does not divide over devices and micro-batches.

  Raises:
    UserError: naming the field and the nearest size that fits.
  """
  unit = mesh.size * accumulate
  if batch_size % unit:
    nearest = max(unit, round(batch_size / unit) * unit)
    raise UserError(
      f"config.batch_size is {batch_size}: it must be a multiple of devices x accumulate = "
      f"{mesh.size} x {accumulate}; the nearest is {nearest}."
    )


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """This process's rows `[N / processes, ...]` become global arrays `[N, ...]` on the mesh."""
  sharding = split(mesh)
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def shardings(mesh: Mesh, specs: Tree) -> Tree:
  """The shardings that a tree of PartitionSpecs names."""
  is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)


def put(mesh: Mesh, tree: Tree, specs: Tree) -> Tree:
  """Equal host or device arrays of every process become global arrays, laid out by `specs`.

  Args:
    mesh: all devices.
    tree: whole arrays, or global ones that are laid out so already.
    specs: PartitionSpecs in the shape of `tree` or of its upper part (a prefix).
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, shardings(mesh, specs))

  def one(sharding: NamedSharding, x: Any) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
      return x  # no process sees all of it
    return jax.make_array_from_callback(np.shape(x), sharding, lambda i: np.asarray(x)[i])

  return jax.tree.map(
    lambda sharding, part: jax.tree.map(lambda x: one(sharding, x), part),
    shardings(mesh, specs),
    tree,
  )


def put_replicated(mesh: Mesh, tree: Tree) -> Tree:
  """Equal host or device arrays of every process become replicated global arrays."""
  return put(mesh, tree, PartitionSpec())


def over_pairs(
  loss: Callable[[jax.Array, jax.Array, str | None], tuple[jax.Array, dict[str, jax.Array]]],
  mesh: Mesh | None,
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]:
  """Runs a pair loss on each device's own rows, with the mesh axis's name to gather over.

  Args:
    loss: (a [n, D], b [n, D], axis_name or None) -> (scalar, scalar metrics), the same on all
      devices and differentiable as the global loss.
    mesh: None or one device: `loss` is called on the whole arrays with axis_name None.

  Returns:
    (a [N, D], b [N, D]) -> (scalar, scalar metrics) for use under `jit`.
  """
  if mesh is None or mesh.size == 1:
    return lambda a, b: loss(a, b, None)
  rows = PartitionSpec(AXIS)
  return jax.shard_map(
    lambda a, b: loss(a, b, AXIS),
    mesh=mesh,
    in_specs=(rows, rows),
    out_specs=(PartitionSpec(), PartitionSpec()),
  )


def vary_with(x: jax.Array, *parameters: jax.Array) -> tuple[jax.Array, ...]:
  """Marks `parameters` as varying over the `shard_map` axes that `x` varies over.

  A custom gradient returns each device's share of a parameter's gradient; the mark's transpose
  sums the shares, as the built-in operations do unasked. Outside `shard_map` nothing happens.
  """
  axes = _varying_axes(x)
  return tuple(_mark_varying(p, tuple(axes - _varying_axes(p))) for p in parameters)


def _varying_axes(x: jax.Array) -> frozenset[str]:
  kind = jax.typeof(x)
  if hasattr(kind, "manual_axis_type"):
    return kind.manual_axis_type.varying
  return getattr(kind, "vma", frozenset())  # JAX before 0.10


def _mark_varying(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  if not axes:
    return x
  if not hasattr(lax, "pcast") and hasattr(lax, "pvary"):  # an older JAX
    return lax.pvary(x, axes)
  return lax.pcast(x, axes, to="varying")
