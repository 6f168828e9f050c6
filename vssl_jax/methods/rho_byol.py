"""ρ-BYOL: predict the momentum network's embeddings of a video's other clips, without negatives.

Feichtenhofer et al., CVPR 2021, §3 and eq. 2; BYOL: Grill et al. 2020. Each clip is a query,
q = predictor(projector(encoder(clip))), and every other clip's key k⁺ comes from the momentum
network (encoder and projector):

  L_q = −Σ_{k⁺} sim(q, k⁺) / T,   averaged over the ρ queries, so over all ordered pairs of clips

T only scales the loss: T = ½ gives BYOL's 2 − 2 cos up to a constant (released code), T = 1 gives
eq. 2. Where paper and released code (PySlowFast) disagree, a config field selects either:

  positives = mean   mean over the ρ − 1 keys (code; default)
              sum    sum over the keys (eq. 2); the gradient grows with ρ
  queries = mean     average over the ρ queries (paper; default)
            sum      sum over the queries (code, sequential mode)

`target = False` takes the keys from the online network itself, without gradient. This is BYOL
without a momentum network, an ablation of the study (and SimSiam).
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.losses import negative_cosine
from vssl_jax.methods import momentum, multiclip, network
from vssl_jax.methods.base import Batch, Method, Metrics, Params, Variables

POSITIVES = ("mean", "sum")


class State(flax.struct.PyTreeNode):
  """State kept from step to step: running statistics, and the momentum network or None."""

  stats: Variables
  target: momentum.Target | None


def defaults() -> ConfigDict:
  """Fields of `config.rho_byol`."""
  c = momentum.defaults()
  c.momentum = 0.996
  c.temperature = 0.5  # T; the cosines are divided by it, which only scales the loss
  c.predictor = (4096,)  # hidden widths of the predictor; its output is as wide as the embedding
  c.positives = "mean"  # how a query's ρ − 1 keys are combined: mean (released code) | sum (eq. 2)
  c.target = True  # True: keys from the momentum network | False: from the online network
  return c


notes = momentum.notes


def build(config: ConfigDict, mesh: Mesh | None = None) -> Method:
  """ρ-BYOL for a resolved config.

  Args:
    config: `rho_byol`, `encoder`, `head`, `augment`, `data` and the length of the run are read.
    mesh: the devices; every term is a mean over the global batch.

  Raises:
    UserError: a field has an impossible value.
  """
  c = config.rho_byol
  momentum.check(config, c)
  multiclip.choose(config, c, "positives", POSITIVES)
  if not all(width > 0 for width in c.predictor):
    raise UserError(f"config.rho_byol.predictor is {tuple(c.predictor)}: widths must be positive.")
  if not c.target and not c.anneal:
    raise UserError(
      "config.rho_byol.target is False: without a momentum network config.rho_byol.anneal has no "
      "effect; leave it True (no changes `fixed` or `momentum0`)."
    )
  net = network.build(config, mesh)
  predictor = network.mlp(config, c.predictor)
  clips = multiclip.build(config, c, mesh)
  shuffle = momentum.permutation(config, c)

  def init(rng: jax.Array, batch: Batch) -> tuple[Params, State]:
    rng, predictor_rng = jax.random.split(rng)
    params, stats = net.init(rng, batch["clips"][:, 0])
    target = momentum.start(params, stats) if c.target else None
    last = predictor.init(predictor_rng, jnp.zeros((2, config.head.out)), train=False)
    params = {**params, "predictor": last["params"]}
    return params, State({**stats, "predictor": last.get("batch_stats", {})}, target)

  def online(params: Params, stats: Any, x: jax.Array) -> tuple[dict[str, jax.Array], Any]:
    z, stats = net(params, stats, x)
    p, last = network.train(predictor, params["predictor"], stats["predictor"], z)
    return {"z": z, "p": p}, {**stats, "predictor": last}

  def keys_of(params: Params, state: State, batch: Batch) -> tuple[jax.Array, State]:
    if state.target is None:
      still = momentum.start(lax.stop_gradient(params), state.stats)
      return momentum.keys(net, clips, still, batch, shuffle, mesh)[0], state
    k, target = momentum.keys(net, clips, state.target, batch, shuffle, mesh)
    return k, state.replace(target=target)

  def query_loss(state: State, q: Any, positives: jax.Array) -> tuple[jax.Array, Metrics]:
    del state
    pairs = jax.vmap(lambda k: negative_cosine(q["p"], k, c.temperature), in_axes=1)(positives)
    loss = jnp.sum(pairs) if c.positives == "sum" else jnp.mean(pairs)
    return loss, {"positive_similarity": lax.stop_gradient(-jnp.mean(pairs) * c.temperature)}

  def close(state: State, k: jax.Array, metrics: Metrics) -> tuple[State, Metrics]:
    del k
    return state, metrics

  def after_update(params: Params, state: State, updates: jax.Array) -> tuple[Params, State]:
    if state.target is None:
      return params, state
    target = momentum.follow(config, c, state.target, params, state.stats, updates)
    return params, state.replace(target=target)

  def encoder_variables(params: Params, state: State) -> Variables:
    return net.encoder_variables(params, state.stats)

  return Method(
    init,
    encoder_variables,
    {"clips": clips.spec},
    after_update=after_update,
    **momentum.losses(c, clips, online, keys_of, query_loss, close),
  )
