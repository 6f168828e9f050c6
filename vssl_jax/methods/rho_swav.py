"""ρ-SwAV: predict the prototype code of one clip from the video's other clips.

Feichtenhofer et al., CVPR 2021, §3 and eq. 3; SwAV: Caron et al. 2020. The scores of a clip are the
cosines between its embedding and K prototypes. Sinkhorn-Knopp turns the scores of the batch into
codes that use all prototypes equally often. Every other clip of the video has to predict the code:

  L = mean over (clip k with a code, other clip q) of −Σ SK(s_k) · log softmax(s_q / T)

The codes have no gradient. Sinkhorn runs over the global batch (in the released code, PySlowFast,
each device of a single machine balances its own 8 clips). Prototypes are normalized to unit length
after each update and are frozen during the first epoch. Where paper and released code disagree, a
config field selects either:

  codes_from = 2   codes for the first two clips only (code; default)
               0   codes for all clips (eq. 3)

Sinkhorn can also use a queue of embeddings of earlier batches. The queue is used once it is full
and `queue_start` epochs are over (15 in SwAV's own code). It is off by default, as in the paper.
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import code_cross_entropy, prototype_statistics
from vssl_jax.methods import multiclip, network
from vssl_jax.methods.base import Batch, Loss, Method, Params, Variables
from vssl_jax.ops import queue as queue_lib
from vssl_jax.ops.sinkhorn import sinkhorn
from vssl_jax.ops.sphere import l2_normalize


class State(flax.struct.PyTreeNode):
  """State kept from step to step: running statistics, and one queue per clip with a code or None.

  The queues are stacked along a leading axis.
  """

  stats: Variables
  queues: Any


def defaults() -> ConfigDict:
  """Fields of `config.rho_swav`."""
  c = ConfigDict()
  c.temperature = 0.1
  c.prototypes = 1000  # K, the number of prototypes
  c.normalize = True  # normalize prototypes to unit length after each update
  c.freeze_epochs = 1.0  # number of epochs at the start in which prototypes are frozen
  c.epsilon = 0.05  # ε of Sinkhorn; smaller values are closer to one prototype per clip
  c.iterations = 3  # iterations of Sinkhorn; 0 uses the softmax of scores / ε
  c.codes_from = 2  # the first so many clips of a video get codes; 0 = all clips
  c.queue = 0  # queue length: embeddings of earlier batches that Sinkhorn also uses; 0 = none
  c.queue_start = 15.0  # number of epochs before the queue is used
  c.statistics = "clip"  # batch norm statistics: clip (each clip index separately) | joint (all)
  return c


def build(config: ConfigDict, mesh: Mesh | None = None) -> Method:
  """ρ-SwAV for a resolved config.

  Args:
    config: `rho_swav`, `encoder`, `head`, `augment`, `data` and an epoch's length are read.
    mesh: the devices; queues are sharded over them if their number divides the queue length.

  Raises:
    UserError: a field has an impossible value.
  """
  c = config.rho_swav
  multiclip.positive(config, c, "temperature", "epsilon")
  for field, least in {
    "prototypes": 2,
    "iterations": 0,
    "codes_from": 0,
    "queue": 0,
    "freeze_epochs": 0,
    "queue_start": 0,
  }.items():
    if c[field] < least:
      raise UserError(f"config.rho_swav.{field} is {c[field]}: it must be at least {least}.")
  net = network.build(config, mesh)
  clips = multiclip.build(config, c, mesh)
  if c.codes_from > clips.count:
    raise UserError(
      f"config.rho_swav.codes_from is {c.codes_from}: a video has only {clips.count} clips; use at "
      "most that many, or 0 for all."
    )
  coded = c.codes_from or clips.count

  def init(rng: jax.Array, batch: Batch) -> tuple[Params, State]:
    rng, prototype_rng, queue_rng = jax.random.split(rng, 3)
    params, stats = net.init(rng, batch["clips"][:, 0])
    kernel = jax.random.normal(prototype_rng, (config.head.out, c.prototypes))
    params["prototypes"] = {"kernel": l2_normalize(kernel.T).T}
    make = jax.vmap(lambda key: queue_lib.create(key, c.queue, config.head.out))
    return params, State(stats, make(jax.random.split(queue_rng, coded)) if c.queue else None)

  def embed(params: Params, state: State, batch: Batch) -> tuple[jax.Array, State]:
    z, stats = clips.forward(net, params, state.stats, batch)
    return z, state.replace(stats=stats)

  def codes(scores: jax.Array, kernel: jax.Array, queue: Any, step: jax.Array) -> jax.Array:
    """Codes [N, K] for the scores of one clip index, balanced together with the queue if in use."""
    balance = lambda s: sinkhorn(s, epsilon=c.epsilon, iterations=c.iterations)  # noqa: E731
    if queue is None:
      return balance(scores)
    begun = queue_lib.is_full(queue) & (step >= multiclip.steps_of(config, c.queue_start))
    both = lambda: balance(jnp.concatenate([_scores(queue.items, kernel), scores]))  # noqa: E731
    return lax.cond(begun, lambda: both()[-scores.shape[0] :], lambda: balance(scores))

  def objective(
    params: Params, state: State, z: jax.Array, batch: Batch, rng: jax.Array, step: jax.Array
  ) -> Loss:
    del batch, rng
    z_unit, kernel = l2_normalize(z), params["prototypes"]["kernel"]
    scores = _scores(z_unit, kernel)  # [N, ρ, K]
    still_z, still_kernel = lax.stop_gradient((z_unit, kernel))
    terms = []
    for i in range(coded):
      queue = None if state.queues is None else jax.tree.map(lambda x, i=i: x[i], state.queues)
      code = codes(lax.stop_gradient(scores[:, i]), still_kernel, queue, step)
      terms += [
        code_cross_entropy(scores[:, j], code, c.temperature) for j in range(clips.count) if j != i
      ]
    loss = jnp.mean(jnp.stack(terms))
    watched = prototype_statistics(lax.stop_gradient(scores).reshape(-1, c.prototypes))
    if state.queues is not None:
      rows = still_z[:, :coded].swapaxes(0, 1)
      watched |= queue_lib.statistics(jax.tree.map(lambda x: x[0], state.queues), len(z))
      state = state.replace(queues=jax.vmap(queue_lib.push)(state.queues, rows))
    return multiclip.finish(loss, watched, state, z)

  def update_mask(state: State, step: jax.Array) -> dict[str, Any]:
    del state
    thawed = step >= multiclip.steps_of(config, c.freeze_epochs)
    return {"encoder": jnp.bool_(True), "head": jnp.bool_(True), "prototypes": thawed}

  def after_update(params: Params, state: State, updates: jax.Array) -> tuple[Params, State]:
    del updates
    kernel = params["prototypes"]["kernel"]
    return {**params, "prototypes": {"kernel": l2_normalize(kernel.T).T}}, state

  def encoder_variables(params: Params, state: State) -> Variables:
    return net.encoder_variables(params, state.stats)

  whole: Any = PartitionSpec()  # a spec for an array or for a whole tree of the state
  divides = mesh is None or c.queue % mesh.size == 0
  split: Any = PartitionSpec(None, parallel.AXIS) if divides else whole
  extra: dict[str, Any] = {"after_update": after_update} if c.normalize else {}
  return Method(
    init,
    encoder_variables,
    {"clips": clips.spec},
    embed=embed,
    objective=objective,
    update_mask=update_mask if c.freeze_epochs > 0 else None,
    guess=network.guess(config, math.log(c.prototypes), "log(prototypes)"),
    state_spec=State(whole, queue_lib.Queue(split, whole, whole) if c.queue else whole),
    **extra,
  )


def _scores(z: jax.Array, kernel: jax.Array) -> jax.Array:
  """Scores `[..., K]`: cosines of unit embeddings `[..., D]` and prototypes `[D, K]`, float32."""
  return jnp.matmul(z, kernel, precision=lax.Precision.HIGHEST)
