"""Encoders and heads."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.models.conv import LOWERINGS
from vssl_jax.models.r3d import DEPTHS, R3D

# name -> what differs from the defaults of `R3D`
ENCODERS = {
  "r3d": {},
  # SlowFast's slow pathway, as the ρ-methods use it (CVPR 2021, table 17).
  "slow": {"stem_kernel": (1, 7, 7), "stem_strides": (1, 2, 2), "padding": "symmetric"},
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_encoder(config: ConfigDict) -> nn.Module:
  """Builds the encoder that `config.encoder` describes.

  Args:
    config: `config.encoder`, see `vssl_jax.config.encoder`.

  Returns:
    A module: `[N, T, H, W, 3]` floating-point clips to `[N, features_dim]` float32 features.

  Raises:
    UserError: A field holds a value that no encoder has.
  """
  fields = {"name": ENCODERS, "depth": DEPTHS, "dtype": DTYPES, "conv": LOWERINGS}
  for field, known in fields.items():
    if config[field] not in known:
      choices = ", ".join(map(str, known))
      raise UserError(f"config.encoder.{field} = {config[field]!r} is unknown: use {choices}")
  return R3D(
    depth=config.depth,
    width=config.width,
    dtype=DTYPES[config.dtype],
    bn_momentum=config.bn_momentum,
    bn_epsilon=config.bn_epsilon,
    bn_groups=config.bn_groups,
    remat=config.remat,
    temporal=config.temporal,
    conv=config.conv,
    **ENCODERS[config.name],
  )
