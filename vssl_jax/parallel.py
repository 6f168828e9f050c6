"""Devices and processes: a mesh with one axis, `data`; parameters are replicated, batches split."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vssl_jax.errors import PeerLost, UserError, brief

AXIS = "data"
_IN_ORDER = "xla_cpu_enable_concurrency_optimized_scheduler"  # of XLA_FLAGS; false: in order
_BLOCK_BYTES = 1 << 26  # of what processes gather, that a device holds at a time
Tree = Any


def initialize(config: ConfigDict) -> None:
  """Connects this process to the others; call it before anything uses a device.

  Args:
    config: `config.distributed`. `coordinator` is "" (one process), "auto" (a TPU pod or SLURM
      gives the other values) or host:port together with `processes` and this process's `index`.

  Raises:
    UserError: the fields contradict each other.
    PeerLost: the other processes did not come in time.
  """
  if not config.coordinator:
    if config.processes != 1:
      raise UserError(
        f"config.distributed.processes is {config.processes} without a coordinator: set "
        "config.distributed.coordinator=host:port (or auto)."
      )
    return
  auto = config.coordinator == "auto"
  if not auto and not 0 <= config.index < config.processes:
    raise UserError(
      f"config.distributed.index is {config.index}: it must be from 0 to processes - 1 = "
      f"{config.processes - 1}."
    )
  _exchange_in_order()
  where = () if auto else (config.coordinator, config.processes, config.index)
  try:
    jax.distributed.initialize(*where)
  except jax.errors.JaxRuntimeError as e:  # DEADLINE_EXCEEDED, for example
    raise PeerLost(
      f"config.distributed.coordinator is {config.coordinator}: the processes did not all come "
      f"({brief(e)[:200]}); start the same command on every host."
    ) from e


def _exchange_in_order() -> None:
  """Has XLA start the exchanges of a CPU program in one order; before anything is compiled.

  Otherwise it starts those that do not depend on each other in any order, and what one process
  sends for the first arrives as another's second: all but small programs end with "collective
  mismatch" (jaxlib 0.10). As an option of `jax.jit` the setting has no effect.
  """
  if any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")):
    return  # there may be accelerators, whose compilers may not know the setting
  given = os.environ.get("XLA_FLAGS", "")
  if _IN_ORDER not in given:
    os.environ["XLA_FLAGS"] = f"{given} --{_IN_ORDER}=false".strip()


def first() -> bool:
  """Whether this is process 0, which prints, draws and writes for all."""
  return jax.process_index() == 0


def say(line: str) -> None:
  """Prints a line, once for all processes."""
  if first():
    print(line, flush=True)


def from_first(make: Callable[[], Any]) -> Any:
  """What process 0 makes, in every process; the others wait for it.

  Files may look different to each process for a moment, so that one must decide what is there.

  Args:
    make: makes a value of JSON's types; called by process 0 alone.

  Raises:
    UserError: `make` raised it; then every process does.
  """
  if jax.process_count() == 1:
    return make()
  told: dict[str, Any] = {}
  if first():
    try:
      told = {"value": make()}
    except UserError as e:
      told = {"error": str(e)}
  told = _told(told, 0)
  if "error" in told:
    raise UserError(told["error"])
  return told["value"]


def _told(value: Any, source: int) -> Any:
  """The value, of JSON's types, of the process `source`."""
  own = jax.process_index() == source
  tell = functools.partial(multihost_utils.broadcast_one_to_all, is_source=own)
  letter = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(tell(np.int32(len(letter))))
  found = tell(letter if own else np.zeros(size, np.uint8))
  return json.loads(np.asarray(found, np.uint8).tobytes())


def everywhere(fact: bool) -> bool:
  """Whether something is true in every process."""
  if jax.process_count() == 1:
    return fact
  return bool(multihost_utils.process_allgather(np.int32(fact)).all())


def for_all(batch_size: int) -> int:
  """The batch size, rounded up so that it divides among the processes."""
  return -(-batch_size // jax.process_count()) * jax.process_count()


def own_share(count: int) -> slice:
  """This process's part of `count` rows; the parts follow each other in the order of processes."""
  share = -(-count // jax.process_count())
  start = min(count, jax.process_index() * share)
  return slice(start, min(count, start + share))


def gather_rows(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The rows of all processes, on every process, in the order of the processes.

  They pass through the devices, which are connected faster than the hosts are to any storage. Rows
  are sent as bytes, which keeps 64-bit integers exact, and in blocks, so that no device has to hold
  all of them.

  Args:
    rows: arrays `[N, ...]` of one N, which may be 0, the same arrays in every process. A process
      without rows may give no arrays at all; if none has any, neither has the result.
  """
  if jax.process_count() == 1:
    return dict(rows)
  # A process without rows may not know their types.
  known = multihost_utils.process_allgather(np.int32(len(rows) > 0)).ravel()
  kinds = [[k, x.dtype.str, list(x.shape[1:])] for k, x in rows.items()]
  kinds = _told(kinds, int(known.argmax()))
  rows = {
    key: np.ascontiguousarray(rows[key], dtype) if key in rows else np.zeros((0, *shape), dtype)
    for key, dtype, shape in kinds
  }
  if not rows:
    return {}
  count = len(next(iter(rows.values())))
  counts = multihost_utils.process_allgather(np.array([count], np.int32)).ravel()
  raw = np.concatenate(
    [x.reshape(count, _numbers(x)).view(np.uint8) for x in rows.values()], axis=1
  )
  step = max(1, _BLOCK_BYTES // (raw.shape[1] * jax.process_count()))
  pieces: list[list[np.ndarray]] = [[] for _ in counts]
  for begin in range(0, int(counts.max()), step):
    block = np.zeros((min(step, int(counts.max()) - begin), raw.shape[1]), np.uint8)
    mine = raw[begin : begin + len(block)]
    block[: len(mine)] = mine
    for process, piece in enumerate(multihost_utils.process_allgather(block)):
      pieces[process].append(piece[: max(0, counts[process] - begin)])
  found = [x for piece in pieces for x in piece]
  raw = np.concatenate(found) if found else raw
  out, begin = {}, 0
  for key, x in rows.items():
    column = np.ascontiguousarray(raw[:, begin : begin + _width(x)])
    out[key], begin = column.view(x.dtype).reshape(len(raw), *x.shape[1:]), begin + _width(x)
  return out


def gather_text(texts: Mapping[str, str]) -> dict[str, str]:
  """The texts by name of all processes, on every process."""
  letter = np.frombuffer(json.dumps(dict(texts)).encode(), np.uint8)
  letters = gather_rows({"letter": letter})["letter"].tobytes().decode()
  found: dict[str, str] = {}
  at, decoder = 0, json.JSONDecoder()
  while at < len(letters):  # one object after the other
    own, at = decoder.raw_decode(letters, at)
    found |= own
  return found


def gather_numbered(arrays: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
  """The arrays by number of all processes, on every process; all arrays have one shape."""
  if jax.process_count() == 1:
    return dict(arrays)
  own = {"number": np.array([*arrays], np.int64), "array": np.array([*arrays.values()])}
  every = gather_rows(own if arrays else {})
  return dict(zip(every["number"].tolist(), every["array"], strict=True)) if every else {}


def _numbers(x: np.ndarray) -> int:
  return math.prod(x.shape[1:])


def _width(x: np.ndarray) -> int:
  """Bytes of a row."""
  return _numbers(x) * x.dtype.itemsize


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
  """A one-axis mesh over the given devices, by default all devices of all processes.

  Devices of one process are neighbors, in the order of the processes: process i has the i-th part
  of the rows of a batch (see `put_batch`).

  With more than one CPU device, this switches JAX's persistent compilation cache off for the
  process. XLA runs a CPU program's collectives in the same order on every device, except when the
  program comes from that cache; then the devices wait for each other forever (jaxlib 0.10).
  """
  if devices is None:
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  on_host = len(devices) > 1 and devices[0].platform == "cpu"
  settings: Any = jax.config  # JAX creates the attribute at run time
  if on_host and settings.jax_enable_compilation_cache:
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX reads the setting only once, at the first compilation
  return Mesh(np.asarray(devices), (AXIS,))


_ALL_OR_ONE = ("TPU v5 lite", "TPU v5e")  # kinds of devices


def local_meshes(devices: Sequence[jax.Device], processes: int) -> list[Mesh]:
  """Meshes for the devices of one process, on which it computes without the other processes.

  For large slices of TPU v5e (8x8, not 4x4) the compiler takes programs for one device and for all
  devices, but not for some ("limited ICI routing"). So there, with several processes, each device
  gets a mesh and a program of its own. Else, one mesh has all of them.

  Args:
    devices: of one process.
    processes: number of processes that share the machine.

  Returns:
    meshes of equal size; their devices, one mesh after the other, are those given.
  """
  if processes > 1 and devices[0].device_kind in _ALL_OR_ONE:
    return [make_mesh([device]) for device in devices]
  return [make_mesh(list(devices))]


def platform(mesh: Mesh | None) -> str:
  """The platform that a program for the mesh runs on: `cpu`, `gpu` or `tpu`.

  Everything that depends on the platform asks here, because a program may be compiled for devices
  that this process does not have. Without a mesh it is the platform of JAX's default device.
  """
  name = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
  return "gpu" if name in ("cuda", "rocm") else name


def run_once(mesh: Mesh | None) -> dict[str, Any] | None:
  """Options of `jax.jit` for a program that runs once.

  On CPU, optimizing the code of such a program takes longer than that saves.
  """
  return {"xla_backend_optimization_level": 0} if platform(mesh) == "cpu" else None


def keep_rows(mesh: Mesh | None, tree: Tree) -> Tree:
  """Under `jit`: holds arrays `[N, ...]` split over the devices of the mesh by their first axis.

  Args:
    mesh: None or one device changes nothing.
    tree: arrays whose N is the same; if the devices do not divide N, nothing changes.
  """
  if mesh is None or mesh.size == 1 or jax.tree.leaves(tree)[0].shape[0] % mesh.size:
    return tree
  return lax.with_sharding_constraint(tree, split(mesh))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of parameters and optimizer state: a full copy on each device."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """The sharding of batches: the first axis is split over the devices."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
  """Checks that a batch divides evenly among devices and micro-batches.

  Raises:
    UserError: it does not; the message names the field and the nearest size that fits.
  """
  unit = mesh.size * accumulate
  if batch_size % unit:
    nearest = max(unit, round(batch_size / unit) * unit)
    raise UserError(
      f"config.batch_size is {batch_size}: it must be a multiple of devices x accumulate = "
      f"{mesh.size} x {accumulate}; the nearest is {nearest}."
    )


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """Turns this process's rows `[N / processes, ...]` into global arrays `[N, ...]` on the mesh.

  Arrays of JAX are taken for global ones, and stay as they are.

  Raises:
    ValueError: the devices of the mesh are not in the order of the processes, so that the rows of a
      process would be elsewhere in the global arrays than in the global batch.
  """
  _check_order(mesh)
  sharding = split(mesh)
  make = jax.make_array_from_process_local_data
  return {k: v if isinstance(v, jax.Array) else make(sharding, v) for k, v in batch.items()}


@functools.cache
def _check_order(mesh: Mesh) -> None:
  owners = [d.process_index for d in mesh.devices.flat]
  if owners != sorted(owners):
    raise ValueError(
      f"the mesh has devices of the processes {owners}: batches need the devices of process 0 "
      "first, then those of process 1, and so on; see parallel.make_mesh"
    )


def shardings(mesh: Mesh, specs: Tree) -> Tree:
  """Converts a tree of PartitionSpecs to shardings on the mesh."""
  is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)


def put(mesh: Mesh, tree: Tree, specs: Tree) -> Tree:
  """Turns arrays that are equal in every process into global arrays, sharded by `specs`.

  Args:
    mesh: mesh of all devices.
    tree: full arrays on host or device, or global arrays that are already sharded this way.
    specs: PartitionSpecs, as a tree like `tree` or a prefix of it.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, shardings(mesh, specs))

  def one(sharding: NamedSharding, x: Any) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
      return x  # already global; its full value is in no single process
    return jax.make_array_from_callback(np.shape(x), sharding, lambda i: np.asarray(x)[i])

  return jax.tree.map(
    lambda sharding, part: jax.tree.map(lambda x: one(sharding, x), part),
    shardings(mesh, specs),
    tree,
  )


def put_replicated(mesh: Mesh, tree: Tree) -> Tree:
  """Turns arrays that are equal in every process into replicated global arrays."""
  return put(mesh, tree, PartitionSpec())


def over_pairs(
  loss: Callable[[jax.Array, jax.Array, str | None], tuple[jax.Array, dict[str, jax.Array]]],
  mesh: Mesh | None,
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]:
  """Runs a loss over pairs on each device's rows, and gives it the mesh axis to gather over.

  Args:
    loss: (a [n, D], b [n, D], axis_name or None) -> (scalar, scalar metrics). Its values must be
      the same on all devices, and its gradients those of the global loss.
    mesh: if None or a single device, `loss` is called on the full arrays with axis_name None.

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


def by_rows(fn: Callable[..., Tree], mesh: Mesh) -> Callable[..., Tree]:
  """Runs `fn` on each device's rows of arrays `[N, ...]`; the result is split the same way.

  The devices must divide N. There is no check of what the result depends on, so `fn` must treat
  devices alike; use it for what has no gradient.
  """
  rows = PartitionSpec(AXIS)
  return jax.shard_map(fn, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)


def vary_with(x: jax.Array, *parameters: jax.Array) -> tuple[jax.Array, ...]:
  """Marks `parameters` as varying over the `shard_map` axes that `x` varies over.

  A custom gradient returns each device's part of a parameter's gradient. The backward pass of the
  mark sums these parts, as built-in operations do automatically. Outside `shard_map` this does
  nothing.
  """
  axes = _varying_axes(x)
  return tuple(_mark_varying(p, tuple(axes - _varying_axes(p))) for p in parameters)


def _varying_axes(x: jax.Array) -> frozenset[str]:
  return jax.typeof(x).manual_axis_type.varying


def _mark_varying(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  return lax.pcast(x, axes, to="varying") if axes else x
