"""The momentum encoder as methods use it: keys of all clips, and a target that follows slowly.

  target ← m · target + (1 − m) · online,   m = 1 − (1 − m_base)(cos(πk/K) + 1)/2

(the ρ-study, §3; BYOL, §3.2). The target starts as a copy; K counts updates, so that steps which
update nothing leave both k and the target where they are. PySlowFast averages parameters only: the
key network normalizes by batch statistics and keeps running averages of its own, which nothing
reads. `ema_buffers` averages them too.
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

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.methods import multiclip
from vssl_jax.methods.base import Batch, Loss, Metrics, Params
from vssl_jax.methods.network import Network
from vssl_jax.ops import ema

QUERIES = ("mean", "sum")
_SHUFFLE = 1_000_003  # apart from the augmentation's folds, which count views


class Target(flax.struct.PyTreeNode):
  """The slow copy: parameters and running statistics under `encoder` and `head`."""

  params: Params
  stats: Any


def defaults() -> ConfigDict:
  """Fields of a method with a momentum encoder."""
  c = ConfigDict()
  c.momentum = 0.994  # m_base; 0 with anneal=False: the target is the online network
  c.anneal = True  # cosine from m_base to 1 over the run; False: m_base all along
  c.ema_buffers = False  # average batch norm's running statistics too
  c.shuffle_bn = False  # keys see other groups than queries, where batch norm has groups
  c.statistics = "clip"  # of batch norm: each clip index its own | "joint"
  c.queries = "mean"  # over the ρ queries (paper) | "sum" (released code's sequential mode)
  c.sequential = False  # one clip's activations in memory at a time
  return c


def check(config: ConfigDict, fields: ConfigDict) -> None:
  """Raises `UserError` where a field has an impossible value."""
  multiclip.positive(config, fields, "temperature")
  multiclip.choose(config, fields, "queries", QUERIES)
  if fields.sequential and fields.statistics != "clip":
    raise UserError(
      f"config.{config.method}.sequential is True: clips seen one at a time have statistics of "
      f"their own; set config.{config.method}.statistics=clip."
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
  shuffle: bool,
  mesh: Mesh | None = None,
) -> tuple[jax.Array, Target]:
  """The target's embeddings of all clips, without gradient and one clip in memory at a time.

  Args:
    net: encoder and head.
    clips: how to augment and normalize.
    target: the slow copy.
    batch: `clips` and `key` are read.
    shuffle: permute the videos before the network and back after it: its groups of batch norm then
      hold other videos than the queries' (MoCo, He et al. 2020, §3.3).
    mesh: the devices that permuted videos are split over again: unsaid, each would take all.

  Returns:
    `[N, ρ, D]` and the target with its running statistics moved on.
  """
  rows = {name: batch[name] for name in ("clips", "key")}
  if shuffle:
    order = _permutation(batch["key"], len(batch["key"]))
    rows = _split({name: x[order] for name, x in rows.items()}, mesh)
  k, stats = clips.forward(net, target.params, target.stats, rows)
  if shuffle:
    k = _split(k[jnp.argsort(order)], mesh)
  return lax.stop_gradient((k, target.replace(stats=stats)))


def _split(rows: Any, mesh: Mesh | None) -> Any:
  return rows if mesh is None else lax.with_sharding_constraint(rows, parallel.split(mesh))


def _permutation(key: jax.Array, rows: int) -> jax.Array:
  """A random order of the rows, from the examples' own keys."""
  return jax.random.permutation(jax.random.fold_in(key[0], _SHUFFLE), rows)


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
    config: the resolved config: the length of the run.
    fields: the method's own.
    target: before.
    params: online parameters after the update.
    stats: online running statistics after the step.
    updates: updates done, this one included: the first has m(0) = m_base.
    idle: steps of the run that update nothing.
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
  """The loss of all clips as queries against the keys of the others, as `Method` takes it.

  Args:
    fields: the method's own: `sequential` and `queries`.
    clips: how to augment and normalize.
    online: the trained network; gives a tree with `z`, the embeddings.
    keys_of: (params, state, batch) -> (keys [N, ρ, D], state), without gradient.
    query_loss: (state, one clip's tree, the other clips' keys [N, ρ − 1, D]) -> (value, metrics).
    close: (state, keys, metrics) -> (state, metrics), once a step.

  Returns:
    `embed` and `objective`, or `grads` in sequential mode: the same numbers, but that memory does
    not grow with ρ.
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
