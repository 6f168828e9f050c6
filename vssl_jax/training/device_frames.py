"""Decoded training videos in the memory of the devices (`config.data.cache=device`).

The host draws the frames and crops of each clip, as always, and sends these few numbers. The
devices of this process hold all frames, each a part. They cut the clips and scale them with the
arithmetic of the host, in float32. So the clips are those of the host, except that a value in the
middle between two levels may be rounded to the other one: XLA may add in another order.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from data_pipelines import source as source_lib
from data_pipelines.source import Batches, Source
from vssl_jax import parallel
from vssl_jax.errors import UserError

PLACE = "device"


def on_device(source: Source, data: Any, mesh: Mesh) -> Source:
  """The source, with training clips from the devices' memory if the config asks for that.

  Args:
    source: the training split.
    data: `config.data`.
    mesh: all devices of all processes.

  Raises:
    UserError: the memory is too small, the frames have several sizes, or some cannot be decoded.
  """
  return _OnDevice(source, data, mesh) if data.cache == PLACE else source


class _OnDevice(source_lib.Wrapped):
  """Cuts the clips of training batches on the devices of this process."""

  def __init__(self, source: Source, data: Any, mesh: Mesh):
    super().__init__(source)
    here = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    if len(parallel.local_meshes(here, jax.process_count())) > 1:
      raise UserError(
        f"config.data.cache is {PLACE!r}: large slices of {here[0].device_kind} run no program on "
        "the devices of one process alone; choose 'host', or leave it empty."
      )
    self._mesh, self._here = mesh, parallel.make_mesh(here)
    memory: Any = source
    pixels, (height, width) = memory.one_size(lambda wanted: _check(wanted, here))
    self._each = pixels.shape[1]  # bytes from one frame to the next
    _check(pixels.size, here)
    self._pixels = _spread(pixels, height, width, self._here)
    self._cut = jax.jit(_cutter(self._here, data.size))

  def train_batches(self, start: int = 0) -> Batches:
    """See `source.Source`; `clips` is an array of all processes on the mesh."""
    inner: Any = self._source
    with contextlib.closing(inner.cut_batches(start)) as batches:
      for batch in batches:
        cuts = batch.pop("cuts")
        frames = (cuts[..., 0] // self._each).astype(np.int32)
        cuts = np.concatenate([frames[..., None], cuts[..., 3:].astype(np.int32)], axis=-1)
        clips = self._cut(self._pixels, jax.device_put(cuts, parallel.split(self._here)))
        yield batch | {"clips": _global(clips, self._mesh)}


def _check(wanted: int, devices: list[jax.Device]) -> None:
  """Checks that so many bytes of frames fit on the devices, as far as these tell."""
  part = -(-wanted // len(devices))
  for device in devices:
    told = device.memory_stats() or {}
    free = told.get("bytes_limit", 0) - told.get("bytes_in_use", 0)
    if told.get("bytes_limit") and part > free:
      raise UserError(
        f"config.data.cache=device: the decoded training videos take {part / 1e9:,.1f} GB of each "
        f"of {len(devices)} devices, and {free / 1e9:,.1f} GB are free on {device}: set "
        "config.data.cache=host, or prepare smaller frames (--short_side) or fewer (--fps)."
      )


def _spread(pixels: np.ndarray, height: int, width: int, mesh: Mesh) -> jax.Array:
  """Frames `[F, stride]` as uint8 `[F', H, W · 3]` on the mesh, a part on each device.

  W and the colors share an axis, because TPUs would fill an axis of 3 up to 128.
  """
  used = height * width * 3
  part = -(-len(pixels) // mesh.size)

  def of(index: Any) -> np.ndarray:
    begin = index[0].start or 0
    found = pixels[begin : begin + part, :used].reshape(-1, height, width * 3)
    missing = part - len(found)
    return np.pad(found, ((0, missing), (0, 0), (0, 0))) if missing else found

  shape = (part * mesh.size, height, width * 3)
  return jax.make_array_from_callback(shape, parallel.split(mesh), of)


def _cutter(mesh: Mesh, size: int) -> Any:
  """The program from frames and cuts int32 `[N, R, T, 5]` to clips `[N, R, T, size, size, 3]`."""

  def cut(pixels: jax.Array, cuts: jax.Array) -> jax.Array:
    several = mesh.size > 1
    wanted = lax.all_gather(cuts, parallel.AXIS, tiled=True) if several else cuts
    first = lax.axis_index(parallel.AXIS) * len(pixels)

    def clip(rows: jax.Array) -> jax.Array:
      number = rows[:, 0] - first
      mine = (number >= 0) & (number < len(pixels))

      def here() -> jax.Array:
        frames = jnp.where(mine, number, 0)
        made = jax.vmap(functools.partial(_scaled, pixels, size=size))(frames, rows[:, 1:])
        return jnp.where(mine[:, None, None], made, jnp.uint8(0))

      nothing = functools.partial(jnp.zeros, (len(rows), size, size * 3), jnp.uint8)
      return lax.cond(mine.any(), here, nothing)

    n, views, count = wanted.shape[:3]
    made = lax.map(clip, wanted.reshape(n * views, count, 5))  # a clip at a time
    made = made.reshape(n, views, count, size, size * 3)
    if several:  # each frame is on one device, the others give 0
      made = lax.psum_scatter(made, parallel.AXIS, tiled=True)
    return made.reshape(*cuts.shape[:3], size, size, 3)

  rows = PartitionSpec(parallel.AXIS)
  return jax.shard_map(cut, mesh=mesh, in_specs=(rows, rows), out_specs=rows, check_vma=False)


def _scaled(pixels: jax.Array, frame: jax.Array, window: jax.Array, *, size: int) -> jax.Array:
  """A window (top, left, height, width) of a frame, scaled as TensorFlow's ResizeBilinear does it.

  Returns:
    uint8 `[size, size · 3]`, rounded.
  """
  top, left, height, width = window
  above, below, down = _weights(height, size)
  before, after, right = _weights(width, size)
  columns = lambda x: ((left + x)[:, None] * 3 + jnp.arange(3)).reshape(-1)  # noqa: E731
  before, after = columns(before), columns(after)
  right = jnp.repeat(right, 3)

  def across(row: jax.Array) -> jax.Array:
    line = pixels[frame, top + row]
    one, two = (line[:, at].astype(jnp.float32) for at in (before, after))
    return one + (two - one) * right

  upper, lower = across(above), across(below)
  return (upper + (lower - upper) * down[:, None] + 0.5).astype(jnp.uint8)


def _weights(length: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """For each of `size` pixels the two of `length` that it lies between, and how far it is on."""
  scale = length.astype(jnp.float32) / size
  at = (jnp.arange(size, dtype=jnp.float32) + 0.5) * scale - 0.5
  begin = jnp.floor(at)
  low = jnp.maximum(begin.astype(jnp.int32), 0)
  high = jnp.minimum(jnp.ceil(at).astype(jnp.int32), length - 1)
  return low, high, at - begin


def _global(x: jax.Array, mesh: Mesh) -> jax.Array:
  """The rows of this process's devices as a part of the global batch."""
  shape = (x.shape[0] // len(x.addressable_shards) * mesh.size, *x.shape[1:])
  parts = [shard.data for shard in x.addressable_shards]
  return jax.make_array_from_single_device_arrays(shape, parallel.split(mesh), parts)
