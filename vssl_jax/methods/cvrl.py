"""CVRL: Spatiotemporal Contrastive Video Representation Learning (Qian et al., CVPR 2021).

The global batch has N videos with two clips each. Each clip goes through the R3D encoder and an MLP
to a 128-d embedding. InfoNCE pulls the two clips of a video together and pushes all others of the
2N clips away:

  L = mean_i −log exp(sim(z_i, z_i')/τ) / Σ_{k≠i} exp(sim(z_i, z_k)/τ)      (§3.1)
"""

from __future__ import annotations

import math

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import augment, parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import info_nce
from vssl_jax.methods import network
from vssl_jax.methods.base import Batch, Loss, Method, Params, Variables

Embeddings = jax.Array  # [N, 2, D]


class State(flax.struct.PyTreeNode):
  """Batch-norm running statistics, all that is kept from step to step besides the parameters."""

  encoder: Variables
  head: Variables


def defaults() -> ConfigDict:
  """Fields of `config.cvrl`."""
  c = ConfigDict()
  c.temperature = 0.1
  # Factor on the loss. TF Model Garden adds the mean losses of the two directions, which is twice
  # the mean over all 2N anchors.
  c.loss_scale = 2.0
  # The similarity matrix is computed in tiles of this many videos per side; 0 = no tiles.
  c.block_size = 0
  return c


def build(config: ConfigDict, mesh: Mesh | None = None) -> Method:
  """CVRL for a resolved config.

  Args:
    config: `cvrl`, `encoder`, `head`, `augment` and `data` are read.
    mesh: the devices; embeddings (never logits) are gathered over its axis.

  Raises:
    UserError: the number of clips per video is not two, or the temperature is not positive.
  """
  if config.data.clips != 2:
    raise UserError(f"config.data.clips is {config.data.clips}: CVRL needs 2 clips; set it to 2.")
  if config.cvrl.temperature <= 0:
    raise UserError(f"config.cvrl.temperature is {config.cvrl.temperature}: it must be positive.")
  net = network.build(config, mesh)
  transform = augment.build(config.augment, config.data.size, mesh, channels=config.data.channels)
  contrast = parallel.over_pairs(
    lambda a, b, axis: info_nce(
      a, b, config.cvrl.temperature, block_size=config.cvrl.block_size or None, axis_name=axis
    ),
    mesh,
  )

  def init(rng: jax.Array, batch: Batch) -> tuple[Params, State]:
    params, stats = net.init(rng, batch["clips"][:, 0])
    return params, State(**stats)

  def embed(params: Params, state: State, batch: Batch) -> tuple[Embeddings, State]:
    clips = transform(batch["key"], batch["clips"])  # [N, 2, T, H, W, C]
    n, views = clips.shape[:2]
    x = clips.reshape(n * views, *clips.shape[2:])  # one set of batch statistics for both views
    z, stats = net(params, {"encoder": state.encoder, "head": state.head}, x)
    return z.reshape(n, views, -1), State(**stats)

  def objective(
    params: Params, state: State, z: Embeddings, batch: Batch, rng: jax.Array, step: jax.Array
  ) -> Loss:
    del params, batch, rng, step
    loss, metrics = contrast(z[:, 0], z[:, 1])
    metrics = {**metrics, "info_nce": loss, "embeddings": z}
    return config.cvrl.loss_scale * loss, (state, metrics)

  def encoder_variables(params: Params, state: State) -> Variables:
    return {"params": params["encoder"], "batch_stats": state.encoder}

  d = config.data
  clip = jax.ShapeDtypeStruct((2, d.frames, d.size, d.size, d.channels), jnp.uint8)
  guess = network.guess(
    config, config.cvrl.loss_scale * math.log(2 * config.batch_size - 1), "loss_scale · log(2N - 1)"
  )
  return Method(
    init, encoder_variables, {"clips": clip}, embed=embed, objective=objective, guess=guess
  )
