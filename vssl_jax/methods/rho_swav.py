"""ρ-SwAV: predict the prototype code of one clip from the video's other clips.

Feichtenhofer et al., CVPR 2021, §3 and eq. 3; SwAV: Caron et al. 2020. A clip's scores are the
cosines of its embedding and K prototypes; Sinkhorn-Knopp turns the batch's scores into codes that
use all prototypes evenly, and each other clip of the video has to predict them:

  L = mean over (coded clip k, other clip q) of −Σ SK(s_k) · log softmax(s_q / T)

No gradient passes through the codes. Sinkhorn is over the global batch (the released code,
PySlowFast, has each device of a single machine balance its own 8 clips). Prototypes are brought
back to unit length after each update and stay as they are during the first epoch. Where paper and
released code disagree:

  codes_from = 2   codes of the first two clips only (code; the default)
               0   of all clips (eq. 3)

A queue of earlier embeddings may join the codes' batch, once it is full and `queue_start` epochs
are over (SwAV's own code: 15); off by default, as in the paper.
"""

from __future__ import annotations

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
  """What outlives a step: running statistics, and a queue for each coded clip (or None)."""

  stats: Variables
  queues: Any


def defaults() -> ConfigDict:
  """Fields of `config.rho_swav`."""
  c = ConfigDict()
  c.temperature = 0.1
  c.prototypes = 1000  # K
  c.normalize = True  # prototypes to unit length after each update
  c.freeze_epochs = 1.0  # prototypes stay as they are
  c.epsilon = 0.05  # of Sinkhorn; smaller is nearer to one prototype per clip
  c.iterations = 3  # of Sinkhorn; 0 leaves the softmax of scores / ε
  c.codes_from = 2  # clips that get codes, counted from the first; 0 = all
  c.queue = 0  # embeddings of earlier batches beside each coded clip's, for Sinkhorn
  c.queue_start = 15.0  # epochs before they are used
  c.statistics = "clip"  # of batch norm: each clip index its own | "joint"
  return c


def build(config: ConfigDict, mesh: Mesh | None = None) -> Method:
  """ρ-SwAV for a resolved config.

  Args:
    config: `rho_swav`, `encoder`, `head`, `augment`, `data` and an epoch's length are read.
    mesh: queues are split over its devices where they divide them.

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
  net = network.build(config)
  clips = multiclip.build(config, c)
  if c.codes_from > clips.count:
    raise UserError(
      f"config.rho_swav.codes_from is {c.codes_from}: a video has {clips.count} clips; 0 is all."
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
    """Codes [N, K] of one clip's scores, beside a queue's where there is one in use."""
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

  whole: Any = PartitionSpec()  # it stands where the state has an array or a tree
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
    state_spec=State(whole, queue_lib.Queue(split, whole, whole) if c.queue else whole),
    **extra,
  )


def _scores(z: jax.Array, kernel: jax.Array) -> jax.Array:
  """Scores `[..., K]` of unit embeddings `[..., D]` and prototypes `[D, K]`, in float32."""
  return jnp.matmul(z, kernel, precision=lax.Precision.HIGHEST)
