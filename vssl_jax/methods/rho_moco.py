"""ρ-MoCo: contrast ρ clips of a video against a queue of earlier keys.

Feichtenhofer et al., CVPR 2021, §3 and eq. 1; MoCo: He et al. 2020. Each clip is a query q. Its
positives k⁺ are the momentum network's embeddings of the video's other ρ − 1 clips. Its negatives
are the K keys of earlier batches in the queue. After the step, the ρ N new keys enter the queue.
Where paper and released code (PySlowFast) disagree, a config field selects either:

  positives = separate   one (1 + K)-way cross-entropy per positive, averaged (code; default)
              sum        positives summed inside the log (eq. 1)
  queries = mean         average over the ρ queries (paper; default)
            sum          sum over the ρ queries (code, sequential mode), which acts as a learning
                         rate ρ times as large

Nothing is updated until the queue is full: no parameters, weight decay, momentum target or
schedule. PySlowFast waits for K / N steps, whatever ρ is, and its schedule runs on meanwhile.
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import queue_nce
from vssl_jax.methods import momentum, multiclip, network
from vssl_jax.methods.base import Batch, Method, Metrics, Params, Variables
from vssl_jax.ops import queue as queue_lib
from vssl_jax.ops.sphere import l2_normalize

POSITIVES = ("separate", "sum")
ENQUEUE = ("all", "first")


class State(flax.struct.PyTreeNode):
  """State kept from step to step: running statistics, the momentum network, the queue of keys."""

  stats: Variables
  target: momentum.Target
  queue: queue_lib.Queue


def defaults() -> ConfigDict:
  """Fields of `config.rho_moco`."""
  c = momentum.defaults()
  c.temperature = 0.1
  c.queue = 65536  # K, the number of keys in the queue
  c.positives = "separate"  # how positives are combined: separate (released code) | sum (eq. 1)
  c.enqueue = "all"  # clips of a video whose keys enter the queue: all | first
  c.wait = True  # update nothing until the queue is full
  c.shuffle_bn = True
  return c


notes = momentum.notes


def build(config: ConfigDict, mesh: Mesh | None = None) -> Method:
  """ρ-MoCo for a resolved config.

  Args:
    config: `rho_moco`, `encoder`, `head`, `augment`, `data` and the length of the run are read.
    mesh: the devices; the queue is sharded over them if their number divides K.

  Raises:
    UserError: a field has an impossible value.
  """
  c = config.rho_moco
  momentum.check(config, c)
  multiclip.choose(config, c, "positives", POSITIVES)
  multiclip.choose(config, c, "enqueue", ENQUEUE)
  if c.queue < 1:
    raise UserError(f"config.rho_moco.queue is {c.queue}: give a number of keys, at least 1.")
  net = network.build(config, mesh)
  clips = multiclip.build(config, c, mesh)
  shuffle = momentum.permutation(config, c)
  rows = config.batch_size * (clips.count if c.enqueue == "all" else 1)  # keys per step
  idle = -(-c.queue // rows) if c.wait else 0

  def init(rng: jax.Array, batch: Batch) -> tuple[Params, State]:
    rng, queue_rng = jax.random.split(rng)
    params, stats = net.init(rng, batch["clips"][:, 0])
    queue = queue_lib.create(queue_rng, c.queue, config.head.out)
    return params, State(stats, momentum.start(params, stats), queue)

  def online(params: Params, stats: Any, x: jax.Array) -> tuple[dict[str, jax.Array], Any]:
    z, stats = net(params, stats, x)
    return {"z": z}, stats

  def keys_of(params: Params, state: State, batch: Batch) -> tuple[jax.Array, State]:
    del params
    k, target = momentum.keys(net, clips, state.target, batch, shuffle, mesh)
    return k, state.replace(target=target)

  def query_loss(state: State, q: Any, positives: jax.Array) -> tuple[jax.Array, Metrics]:
    return queue_nce(q["z"], positives, state.queue.items, c.temperature, positives=c.positives)

  def close(state: State, k: jax.Array, metrics: Metrics) -> tuple[State, Metrics]:
    k = l2_normalize(k if c.enqueue == "all" else k[:, :1])
    by_clip = k.swapaxes(0, 1).reshape(-1, k.shape[-1])
    metrics = {**metrics, **queue_lib.statistics(state.queue, by_clip.shape[0])}
    return state.replace(queue=queue_lib.push(state.queue, by_clip)), metrics

  def update_mask(state: State, step: jax.Array) -> jax.Array:
    del step
    return queue_lib.is_full(state.queue)

  def after_update(params: Params, state: State, updates: jax.Array) -> tuple[Params, State]:
    target = momentum.follow(config, c, state.target, params, state.stats, updates, idle)
    return params, state.replace(target=target)

  def encoder_variables(params: Params, state: State) -> Variables:
    return net.encoder_variables(params, state.stats)

  own = clips.count - 1 if c.positives == "sum" else 1
  guess, name = math.log1p(c.queue / own), "log(1 + queue/(ρ - 1))" if own > 1 else "log(1 + queue)"
  if c.queries == "sum":
    guess, name = clips.count * guess, f"ρ · {name}"
  devices = 1 if mesh is None else mesh.size
  whole: Any = PartitionSpec()  # a spec for an array or for a whole tree of the state
  split: Any = PartitionSpec(parallel.AXIS) if c.queue % devices == 0 else whole
  return Method(
    init,
    encoder_variables,
    {"clips": clips.spec},
    update_mask=update_mask if c.wait else None,
    after_update=after_update,
    state_spec=State(whole, whole, queue_lib.Queue(split, whole, whole)),
    frozen_steps=idle,
    guess=network.guess(config, guess, name),
    **momentum.losses(c, clips, online, keys_of, query_loss, close),
  )
