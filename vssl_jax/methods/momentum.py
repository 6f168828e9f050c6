"""The momentum encoder of ρ-MoCo and ρ-BYOL: computes the keys and follows the online network.

  target ← m · target + (1 − m) · online,   m = 1 − (1 − m_base)(cos(πk/K) + 1)/2

(the ρ-study, §3; BYOL, §3.2). The target starts as a copy of the online network. k and K count
updates, so a step that updates nothing changes neither k nor the target. PySlowFast averages only
the parameters: the key network normalizes by batch statistics and keeps its own running averages,
which are never used. With `ema_buffers` the running averages are averaged too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.methods import multiclip
from vssl_jax.methods.base import Batch, Loss, Metrics, Params
from vssl_jax.methods.network import Network
from vssl_jax.ops import ema
from vssl_jax.ops import shuffle as shuffle_lib

Permute = Callable[[jax.Array, int], shuffle_lib.Shuffle]  # (rng, rows) -> the permutation
QUERIES = ("mean", "sum")
_SHUFFLE = 1_000_003  # to derive a key that differs from those of augmentation (numbers of views)


class Target(flax.struct.PyTreeNode):
  """The momentum network: parameters and running statistics under `encoder` and `head`."""

  params: Params
  stats: Any


def defaults() -> ConfigDict:
  """Config fields of every method with a momentum encoder."""
  c = ConfigDict()
  c.momentum = 0.994  # m_base; with 0 and anneal=False the target equals the online network
  c.anneal = True  # True: m rises from m_base to 1 over the run (cosine) | False: m stays m_base
  c.ema_buffers = False  # also average the running statistics of batch norm
  # Shuffle the videos of the keys, each with all its clips, so their batch norm groups differ.
  # Without effect where batch norm has one group.
  c.shuffle_bn = False
  # Shuffle among this many neighboring batch norm groups, which moves each clip at most once
  # between devices; 0 shuffles the whole batch, which moves all clips through all devices.
  c.shuffle_block = 0
  c.statistics = "clip"  # batch norm statistics: clip (each clip index separately) | joint (all)
  c.queries = "mean"  # combine the ρ queries: mean (paper) | sum (released code, sequential mode)
  c.sequential = False  # keep the activations of only one clip in memory at a time
  return c


def check(config: ConfigDict, fields: ConfigDict) -> None:
  """Raises `UserError` where a field has an impossible value."""
  multiclip.positive(config, fields, "temperature")
  multiclip.choose(config, fields, "queries", QUERIES)
  if fields.sequential and fields.statistics != "clip":
    raise UserError(
      f"config.{config.method}.sequential is True: clips are processed one at a time, so each has "
      f"its own batch norm statistics; set config.{config.method}.statistics=clip."
    )
  if not 0 <= fields.momentum <= 1:
    raise UserError(f"config.{config.method}.momentum is {fields.momentum}: it must lie in [0, 1].")


def start(params: Params, stats: Any) -> Target:
  """A copy of the online network."""
  return Target(
    {k: params[k] for k in ("encoder", "head")}, {k: stats[k] for k in ("encoder", "head")}
  )


def keys(
  net: Network,
  clips: multiclip.Clips,
  target: Target,
  batch: Batch,
  shuffle: Permute | None,
  mesh: Mesh | None = None,
) -> tuple[jax.Array, Target]:
  """The momentum network's embeddings of all clips, without gradient.

  With `statistics = "clip"` only one clip index is in memory at a time.

  Args:
    net: encoder and head.
    clips: how to augment and normalize.
    target: the momentum network.
    batch: `clips` and `key` are read.
    shuffle: gives the permutation of the videos that is applied before the network and undone
      afterwards, so that the batch norm groups contain other videos than those of the queries
      (MoCo, He et al. 2020, §3.3); None for no permutation.
    mesh: the devices that the videos are split over.

  Returns:
    Keys `[N, ρ, D]`, and the target with updated running statistics.
  """
  rows = {name: batch[name] for name in ("clips", "key")}
  order = None
  if shuffle is not None:
    order = shuffle(jax.random.fold_in(batch["key"][0], _SHUFFLE), len(batch["key"]))
    data = jax.random.key_data(batch["key"])  # typed keys cannot be exchanged between devices
    mixed = shuffle_lib.apply(order, {"clips": batch["clips"], "key": data}, mesh)
    rows = {
      **mixed,
      "key": jax.random.wrap_key_data(mixed["key"], impl=jax.random.key_impl(batch["key"])),
    }
  k, stats = clips.forward(net, target.params, target.stats, rows, constant=True)
  if order is not None:
    k = shuffle_lib.undo(order, k, mesh)
  return lax.stop_gradient((k, target.replace(stats=stats)))


def notes(config: ConfigDict) -> tuple[str, ...]:
  """Says that `shuffle_bn` has no effect, if that is so; see `methods.notes`."""
  groups = max(config.encoder.bn_groups, config.head.bn_groups)
  if not config[config.method].shuffle_bn or groups > 1:
    return ()
  return (
    f"config.{config.method}.shuffle_bn has no effect: batch norm has one group, so queries and "
    "keys share its rows in any order; set config.encoder.bn_groups to two or more, or "
    f"config.{config.method}.shuffle_bn=False.",
  )


def permutation(config: ConfigDict, fields: ConfigDict) -> Permute | None:
  """The shuffle that the config describes; None if the videos are not shuffled.

  Args:
    config: the resolved config.
    fields: the method's own config fields; `shuffle_bn` and `shuffle_block` are read.

  Raises:
    UserError: the batch does not split into blocks of `shuffle_block` groups.
  """
  groups, block = max(config.encoder.bn_groups, config.head.bn_groups), fields.shuffle_block
  if not fields.shuffle_bn or groups == 1:
    return None
  if block <= 1:
    if block < 0:
      raise UserError(f"config.{config.method}.shuffle_block is {block}: it must not be negative.")
    return shuffle_lib.whole
  size = config.batch_size // config.accumulate // groups
  if groups % block or size % block:
    raise UserError(
      f"config.{config.method}.shuffle_block is {block}: it must divide the {groups} batch norm "
      f"groups and the {size} videos of each; 0 shuffles the whole batch."
    )
  return lambda rng, rows: shuffle_lib.draw(rng, rows, groups, block)


def follow(
  config: ConfigDict,
  fields: ConfigDict,
  target: Target,
  params: Params,
  stats: Any,
  updates: jax.Array,
  idle: int = 0,
) -> Target:
  """The target after an update.

  Args:
    config: the resolved config, for the length of the run.
    fields: the method's own config fields.
    target: the target before the update.
    params: online parameters after the update.
    stats: online running statistics after the step.
    updates: number of updates so far, including this one; the first uses m(0) = m_base.
    idle: number of steps of the run that update nothing.
  """
  total = multiclip.updates(config, idle) if fields.anneal else 1
  m = ema.momentum(fields.momentum, updates - 1, total, fields.anneal)
  online = start(params, stats)
  target = target.replace(params=ema.update(target.params, online.params, m))
  if fields.ema_buffers:
    target = target.replace(stats=ema.update(target.stats, online.stats, m))
  return target


def losses(
  fields: ConfigDict,
  clips: multiclip.Clips,
  online: multiclip.Forward,
  keys_of: Callable[[Params, Any, Batch], tuple[jax.Array, Any]],
  query_loss: Callable[[Any, Any, jax.Array], tuple[jax.Array, Metrics]],
  close: Callable[[Any, jax.Array, Metrics], tuple[Any, Metrics]],
) -> dict[str, Any]:
  """The loss of every clip as a query against the keys of the other clips, as fields of `Method`.

  Args:
    fields: the method's own config fields; `sequential` and `queries` are read.
    clips: how to augment and normalize.
    online: the trained network; returns a tree with the embeddings `z`.
    keys_of: (params, state, batch) -> (keys [N, ρ, D], state), without gradient.
    query_loss: (state, tree of one clip, keys of the other clips [N, ρ − 1, D]) -> (value,
      metrics).
    close: (state, keys, metrics) -> (state, metrics), called once per step.

  Returns:
    `embed` and `objective`, or `grads` in sequential mode. Both give the same numbers; in
    sequential mode the memory does not grow with ρ.
  """
  scale = clips.count if fields.queries == "sum" else 1

  def embed(params: Params, state: Any, batch: Batch) -> tuple[Any, Any]:
    k, state = keys_of(params, state, batch)
    q, stats = clips.forward(online, params, state.stats, batch)
    return {"q": q, "k": k}, state.replace(stats=stats)

  def objective(
    params: Params, state: Any, e: Any, batch: Batch, rng: jax.Array, step: jax.Array
  ) -> Loss:
    del params, batch, rng, step
    q, k = e["q"], lax.stop_gradient(e["k"])
    loss, metrics = multiclip.over_queries(
      lambda one, r: query_loss(state, one, multiclip.others(k, r)), q
    )
    state, metrics = close(state, k, metrics)
    return multiclip.finish(loss, metrics, state, q["z"], scale)

  def grads(
    params: Params, state: Any, batch: Batch, rng: jax.Array, step: jax.Array
  ) -> tuple[Loss, Params]:
    del rng, step
    k, state = keys_of(params, state, batch)

    def loss(params: Params, r: jax.Array) -> tuple[jax.Array, Any]:
      q, stats = online(params, state.stats, clips.view(batch, r))
      value, metrics = query_loss(state, q, multiclip.others(k, r))
      return value, (stats, metrics, q["z"])

    (value, (stats, metrics, z)), gradients = clips.gradients(loss, params)
    stats, metrics = multiclip.mean((stats, metrics))
    state, metrics = close(state.replace(stats=stats), k, metrics)
    result = multiclip.finish(value, metrics, state, jnp.moveaxis(z, 0, 1), scale)
    return result, jax.tree.map(lambda g: scale * g, gradients)

  return {"grads": grads} if fields.sequential else {"embed": embed, "objective": objective}
