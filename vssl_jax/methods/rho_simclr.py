"""ρ-SimCLR: contrast ρ clips of a video against all other videos of the batch.

Feichtenhofer et al., CVPR 2021, §3 and eq. 1; SimCLR: Chen et al. 2020. Each clip is a query q,
the video's other ρ − 1 clips are its positives and all clips of other videos its negatives:

  L_q = −log Σ_{k ∈ k⁺} exp(sim(q, k)/α) / Σ_{k ∈ k⁺ ∪ k⁻} exp(sim(q, k)/α)

For ρ = 2 all three values of `pairs` give the same loss, CVRL's. For more clips, paper and released
code disagree; the default is a third form, ours, which uses every pair and the block-wise kernel:

  joint        the formula above, with positives summed inside the log (paper)
  all          the two-clip loss for every pair of clips (default)
  consecutive  the two-clip loss for the pairs (1, 2), (2, 3), … only (PySlowFast)

The last two forms average over pairs. With `over_pairs = "sum"` they sum over pairs, as PySlowFast
does; the gradient then grows with ρ.
"""

from __future__ import annotations

import itertools
import math

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import info_nce, multi_nce
from vssl_jax.methods import multiclip, network
from vssl_jax.methods.base import Batch, Loss, Method, Params, Variables

PAIRS = ("all", "consecutive", "joint")
OVER_PAIRS = {"mean": jnp.mean, "sum": jnp.sum}


class State(flax.struct.PyTreeNode):
  """Batch-norm running statistics, all that is kept from step to step besides the parameters."""

  stats: Variables


def defaults() -> ConfigDict:
  """Fields of `config.rho_simclr`."""
  c = ConfigDict()
  c.temperature = 0.1
  c.pairs = "all"  # which clips are contrasted: all | consecutive (released code) | joint (eq. 1)
  c.over_pairs = "mean"  # how the losses of the pairs are combined: mean | sum (released code)
  c.statistics = "clip"  # batch norm statistics: clip (each clip index separately) | joint (all)
  # The similarity matrix is computed in tiles of this many videos per side; 0 = no tiles.
  c.block_size = 0
  return c


def build(config: ConfigDict, mesh: Mesh | None = None) -> Method:
  """ρ-SimCLR for a resolved config.

  Args:
    config: `rho_simclr`, `encoder`, `head`, `augment` and `data` are read.
    mesh: the devices; embeddings (never logits) are gathered over its axis.

  Raises:
    UserError: a field has an impossible value.
  """
  c = config.rho_simclr
  multiclip.positive(config, c, "temperature")
  multiclip.choose(config, c, "pairs", PAIRS)
  over_pairs = OVER_PAIRS[multiclip.choose(config, c, "over_pairs", tuple(OVER_PAIRS))]
  if c.over_pairs == "sum" and c.pairs == "joint":
    raise UserError(
      "config.rho_simclr.over_pairs is 'sum': pairs=joint has no pairs to sum over; set it to "
      "'mean'."
    )
  if c.block_size < 0:
    raise UserError(f"config.rho_simclr.block_size is {c.block_size}: it must not be negative.")
  if c.block_size and c.pairs == "joint":
    raise UserError(
      f"config.rho_simclr.block_size is {c.block_size}: pairs=joint has no tiles; set it to 0."
    )
  net = network.build(config, mesh)
  clips = multiclip.build(config, c, mesh)
  contrast = parallel.over_pairs(
    lambda a, b, axis: info_nce(
      a, b, c.temperature, block_size=c.block_size or None, axis_name=axis
    ),
    mesh,
  )
  pairs = list(itertools.combinations(range(clips.count), 2))
  if c.pairs == "consecutive":
    pairs = [(i, j) for i, j in pairs if j == i + 1]

  def init(rng: jax.Array, batch: Batch) -> tuple[Params, State]:
    params, stats = net.init(rng, batch["clips"][:, 0])
    return params, State(stats)

  def embed(params: Params, state: State, batch: Batch) -> tuple[jax.Array, State]:
    z, stats = clips.forward(net, params, state.stats, batch)
    return z, State(stats)

  def objective(
    params: Params, state: State, z: jax.Array, batch: Batch, rng: jax.Array, step: jax.Array
  ) -> Loss:
    del params, batch, rng, step
    if c.pairs == "joint":
      loss, metrics = multi_nce(z, c.temperature)
    else:
      results = [contrast(z[:, i], z[:, j]) for i, j in pairs]
      _, metrics = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x)), *results)
      loss = over_pairs(jnp.stack([value for value, _ in results]))
    return multiclip.finish(loss, {**metrics, "info_nce": loss}, state, z)

  def encoder_variables(params: Params, state: State) -> Variables:
    return net.encoder_variables(params, state.stats)

  n = config.batch_size
  if c.pairs == "joint":
    loss, name = math.log((clips.count * n - 1) / (clips.count - 1)), "log((ρN - 1)/(ρ - 1))"
  else:
    loss, name = math.log(2 * n - 1), "log(2N - 1)"
    if c.over_pairs == "sum":
      loss, name = len(pairs) * loss, f"{len(pairs)} pairs · {name}"
  return Method(
    init,
    encoder_variables,
    {"clips": clips.spec},
    embed=embed,
    objective=objective,
    guess=network.guess(config, loss, name),
  )
