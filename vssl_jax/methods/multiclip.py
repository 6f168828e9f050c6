"""Sends ρ clips of each video through one network: shared by the four methods of the ρ-study.

Feichtenhofer et al., "A Large-Scale Study on Unsupervised Spatiotemporal Representation Learning",
CVPR 2021. The first clips of all videos go through the network together, then the second clips, and
so on. Batch norm statistics are separate for each clip index, as in the paper's code (PySlowFast),
and the running averages move toward their mean over the ρ clips. `statistics = "joint"` sends all
ρ N clips through the network at once instead. Each of G batch norm groups then has all ρ clips of
N / G neighboring videos, as a GPU of PySlowFast has where it batches clips (`batch_clips`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import augment
from vssl_jax import config as config_lib
from vssl_jax.errors import UserError
from vssl_jax.methods.base import Batch, Loss, Params
from vssl_jax.parallel import platform

Tree = Any
Stats = Any
# (params, stats, clips float [M, T, H, W, C]) -> (tree of [M, ...], stats)
Forward = Callable[[Params, Stats, jax.Array], tuple[Tree, Stats]]
STATISTICS = ("clip", "joint")


@dataclasses.dataclass(frozen=True)
class Clips:
  """The clips of a batch, augmented when they are needed.

  Attributes:
    count: ρ.
    transform: the augmentation.
    statistics: "clip" or "joint".
    spec: shape and dtype of the clips of one video.
    unroll: without a loop over clips in a forward pass that is differentiated. A loop stacks what
      its passes keep for the gradient, so all of it is written and read once more: on TPU that
      doubles memory and traffic of the step. A loop compiles ρ times faster.
  """

  count: int
  transform: Callable[..., jax.Array]
  statistics: str
  spec: jax.ShapeDtypeStruct
  unroll: bool = False

  def view(self, batch: Batch, r: jax.Array | int) -> jax.Array:
    """Clip r of each video, augmented, `[N, T, H, W, C]`."""
    clips = lax.dynamic_slice_in_dim(batch["clips"], r, 1, axis=1)
    return self.transform(batch["key"], clips, r)[:, 0]

  def forward(
    self, fn: Forward, params: Params, stats: Stats, batch: Batch, *, constant: bool = False
  ) -> tuple[Tree, Stats]:
    """Sends all clips through the network `fn`.

    Args:
      fn: the network.
      params: its parameters.
      stats: its running statistics.
      batch: the clips, and the key of their augmentation.
      constant: no gradient flows through the outputs.

    Returns:
      The outputs of `fn`, `[N, ρ, ...]`, and the updated running statistics.
    """
    if self.statistics == "joint":
      clips = self.transform(batch["key"], batch["clips"])
      out, stats = fn(params, stats, clips.reshape(-1, *clips.shape[2:]))
      return jax.tree.map(lambda x: x.reshape(-1, self.count, *x.shape[1:]), out), stats

    def one(r: jax.Array | int) -> tuple[Tree, Stats]:
      return fn(params, stats, self.view(batch, r))

    if self.unroll and not constant:
      out, after = jax.tree.map(lambda *x: jnp.stack(x), *map(one, range(self.count)))
    else:
      out, after = lax.map(one, jnp.arange(self.count))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), out), mean(after)

  def gradients(
    self, loss: Callable[[Params, jax.Array], tuple[jax.Array, Tree]], params: Params
  ) -> tuple[tuple[jax.Array, Tree], Params]:
    """Mean over clips of a loss and its gradient; only one clip's activations are in memory.

    Args:
      loss: (params, r) -> (value, aux) of clip r.
      params: the parameters to differentiate by.

    Returns:
      ((mean value, aux with a leading axis of ρ), gradient of the mean).
    """

    def one(total: Params, r: jax.Array) -> tuple[Params, tuple[jax.Array, Tree]]:
      result, grads = jax.value_and_grad(loss, has_aux=True)(params, r)
      return jax.tree.map(jnp.add, total, grads), result

    zeros = jax.tree.map(jnp.zeros_like, params)
    total, (values, aux) = lax.scan(one, zeros, jnp.arange(self.count))
    return (jnp.mean(values), aux), jax.tree.map(lambda g: g / self.count, total)


def build(config: ConfigDict, fields: ConfigDict, mesh: Mesh | None = None) -> Clips:
  """The clips that `config.data` and `config.augment` describe.

  Args:
    config: the resolved config.
    fields: the method's own config fields; `statistics` is read.
    mesh: the devices that the videos are split over.

  Raises:
    UserError: there are fewer than two clips, `statistics` is unknown, or the batch does not split
      into equal batch norm groups of two or more rows.
  """
  d = config.data
  if d.clips < 2:
    raise UserError(
      f"config.data.clips is {d.clips}: {config.method} needs 2 or more clips per video; for ρ = 1 "
      "(two crops of one clip) set config.data.clips=2 and "
      "config.data.interval.distribution=same."
    )
  choose(config, fields, "statistics", STATISTICS)
  rows = config.batch_size // config.accumulate
  rows *= d.clips if fields.statistics == "joint" else 1
  for part in ("encoder", "head"):
    groups = config[part].bn_groups
    if groups < 1 or rows % groups or (groups > 1 and rows // groups < 2):
      raise UserError(
        f"config.{part}.bn_groups is {groups}: batch norm gets {rows} rows at a time; choose a "
        "divisor that leaves at least 2 rows per group."
      )
  spec = jax.ShapeDtypeStruct((d.clips, d.frames, d.size, d.size, d.channels), jnp.uint8)
  transform = augment.build(config.augment, d.size, mesh, channels=d.channels)
  unroll = platform(mesh) != "cpu"
  return Clips(d.clips, transform, fields.statistics, spec, unroll)


def choose(config: ConfigDict, fields: ConfigDict, name: str, values: tuple[str, ...]) -> str:
  """The value of a field; raises `UserError` if it is not one of `values`."""
  value = fields[name]
  if value not in values:
    raise UserError(
      f"config.{config.method}.{name} is {value!r}: choose one of {', '.join(values)}."
    )
  return value


def positive(config: ConfigDict, fields: ConfigDict, *names: str) -> None:
  """Raises `UserError` where a field is not positive."""
  for name in names:
    if not fields[name] > 0:
      raise UserError(f"config.{config.method}.{name} is {fields[name]}: it must be positive.")


def others(tree: Tree, r: jax.Array | int) -> Tree:
  """All clips except clip r: `[N, ρ, ...]` to `[N, ρ − 1, ...]`; r may be traced."""

  def one(x: jax.Array) -> jax.Array:
    index = jnp.arange(x.shape[1] - 1)
    return jnp.take(x, index + (index >= r), axis=1)

  return jax.tree.map(one, tree)


def over_queries(
  loss: Callable[[Tree, jax.Array], tuple[jax.Array, Tree]], queries: Tree
) -> tuple[jax.Array, Tree]:
  """The mean over clips r of `loss` and of its metrics.

  Args:
    loss: (queries `[N, ...]` of clip r, r) -> (value, metrics).
    queries: tree of `[N, ρ, ...]`.
  """
  clips = jax.tree.leaves(queries)[0].shape[1]
  return mean(jax.vmap(loss, in_axes=(1, 0))(queries, jnp.arange(clips)))


def updates(config: ConfigDict, idle: int = 0) -> int:
  """The number of updates in the whole run, for the method's own schedules.

  Args:
    config: the resolved config.
    idle: number of steps that update nothing.

  Raises:
    UserError: `config.steps_per_epoch` is needed and not set.
  """
  return max(config_lib.total_steps(config, _epoch(config, config.steps)) - idle, 1)


def steps_of(config: ConfigDict, epochs: float) -> int:
  """Converts epochs to steps; raises `UserError` if `config.steps_per_epoch` is not set."""
  return round(epochs * _epoch(config, epochs == 0))


def _epoch(config: ConfigDict, unneeded: Any) -> int:
  length = config.get("steps_per_epoch", 0)
  if not length and not unneeded:
    raise UserError(
      "config.steps_per_epoch is 0: the length of an epoch comes from the data; call "
      "vssl_jax.methods.resolve(config, source) first."
    )
  return length


def mean(tree: Tree) -> Tree:
  """The mean over the leading axis, leaf by leaf."""
  return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)


def finish(
  loss: jax.Array, metrics: dict[str, jax.Array], state: Any, z: jax.Array, scale: float = 1.0
) -> Loss:
  """Packs a method's loss, state and metrics as the train loop expects them.

  Args:
    loss: scalar.
    metrics: scalars.
    state: the state after the step.
    z: embeddings `[N, ρ, D]`, from which the loop computes collapse statistics.
    scale: factor on the loss.
  """
  return scale * loss, (state, {**metrics, "embeddings": lax.stop_gradient(z)})
