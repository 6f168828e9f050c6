"""The network that contrastive methods share: encoder, then projection head."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import models
from vssl_jax.errors import UserError
from vssl_jax.methods.base import Guess, Params, Variables
from vssl_jax.models import heads

Stats = Variables  # running statistics by module, the `batch_stats` collections


@dataclasses.dataclass(frozen=True)
class Network:
  """Encoder and head; their parameters and running statistics are under `encoder` and `head`."""

  encoder: nn.Module
  head: nn.Module

  def init(self, rng: jax.Array, clips: jax.Array) -> tuple[Params, Stats]:
    """Initial parameters and running statistics; only the shape of clips `[N, T, H, W, C]` matters.

    Runs in inference mode, so that N need not be divisible by the number of batch norm groups.
    """
    encoder_rng, head_rng = jax.random.split(rng)
    encoder = self.encoder.init(encoder_rng, clips.astype(jnp.float32), train=False)
    head = self.head.init(head_rng, jnp.zeros((2, self.encoder.features_dim)), train=False)
    return (
      {"encoder": encoder["params"], "head": head["params"]},
      {"encoder": encoder.get("batch_stats", {}), "head": head.get("batch_stats", {})},
    )

  def __call__(self, params: Params, stats: Stats, clips: jax.Array) -> tuple[jax.Array, Stats]:
    """Training mode: clips float `[N, T, H, W, C]` to embeddings `[N, D]`, not normalized."""
    x, encoder = train(self.encoder, params["encoder"], stats["encoder"], clips)
    z, head = train(self.head, params["head"], stats["head"], x)
    return z, {**stats, "encoder": encoder, "head": head}

  def encoder_variables(self, params: Params, stats: Stats) -> Variables:
    """The variables of the encoder alone, for probes and exports."""
    return {"params": params["encoder"], "batch_stats": stats["encoder"]}


def build(config: ConfigDict, mesh: Mesh | None = None) -> Network:
  """The network that `config.encoder` and `config.head` describe, for the devices of a mesh."""
  h = config.head
  return Network(
    models.build_encoder(config.encoder, mesh),
    mlp(config, h.hidden, out_bn=h.get("out_bn", False)),
  )


def mlp(
  config: ConfigDict, hidden: tuple[int, ...], *, out_bn: bool = False
) -> heads.ProjectionHead:
  """An MLP with the given hidden widths; `config` sets everything else.

  Raises:
    UserError: `config.head.init` is unknown.
  """
  h = config.head
  if h.init not in heads.INITIALIZERS:
    known = ", ".join(heads.INITIALIZERS)
    raise UserError(f"config.head.init is {h.init!r}: choose one of {known}.")
  return heads.ProjectionHead(
    tuple(hidden),
    h.out,
    h.bn_momentum,
    bn_groups=h.bn_groups,
    bn=h.get("bn", True),
    out_bn=out_bn,
    dtype=models.DTYPES[config.encoder.dtype],
    reduce_dtype=models.DTYPES[config.encoder.reduce_dtype],
    init_kernels=h.init,
  )


def guess(config: ConfigDict, loss: float, name: str) -> Guess:
  """The loss of guessing of a method with a temperature, and what helps a network that stays there.

  Args:
    config: the method's own temperature is named.
    loss: in the units of the method's loss.
    name: its formula.
  """
  cures = [
    f"a higher temperature (config.{config.method}.temperature=0.3)",
    "stronger augmentation of what tells videos apart without their content, as colors do "
    "(config.augment.gray_p, config.augment.invert_p)",
    "another learning rate (config.optim.lr)",
    "more epochs",
  ]
  if not config.head.get("out_bn", False):
    cures.insert(1, "batch norm on the embeddings (config.head.out_bn=True)")
  return Guess(loss, name, ", ".join(cures))


def train(module: nn.Module, params: Params, stats: Stats, x: jax.Array) -> tuple[Any, Stats]:
  """A module's output in training mode, and its updated running statistics."""
  variables = {"params": params, "batch_stats": stats}
  y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
  return y, updated.get("batch_stats", stats)
