"""Builds the encoder that `config.encoder` describes: one plain function per family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.models import r3d, vit
from vssl_jax.models.layers.conv import LOWERINGS, fastest, he_fan_out
from vssl_jax.models.r2plus1d import R2Plus1D
from vssl_jax.models.r3d import R3D
from vssl_jax.models.s3dg import S3DG
from vssl_jax.models.slowfast import SlowFast
from vssl_jax.models.vit import ViT
from vssl_jax.models.vit.block import BIASES
from vssl_jax.models.vit.network import FINAL_NORMS, POSITIONS
from vssl_jax.parallel import platform

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
RESIDUAL = (50, *(d for d in r3d.DEPTHS if d != 50))  # the usual depth first


def build_encoder(config: ConfigDict, mesh: Mesh | None = None) -> nn.Module:
  """Builds the encoder that `config.encoder` describes.

  Args:
    config: `config.encoder`, see `vssl_jax.config.encoder`.
    mesh: The devices that it is compiled for, which decide what `config.encoder.conv = auto` means;
      without it, JAX's default device.

  Returns:
    A module: `[N, T, H, W, C]` floating-point clips to `[N, features_dim]` float32 features.

  Raises:
    UserError: A field has a value that is unknown, or that this encoder does not support.
  """
  fields = {"name": ENCODERS, "dtype": DTYPES, "reduce_dtype": DTYPES, "conv": LOWERINGS}
  for field, known in fields.items():
    _choose(config, field, known)
  if config.conv == "auto":
    config = config.copy_and_resolve_references()
    with config.unlocked():
      config.conv = fastest(platform(mesh))
  return ENCODERS[config.name](config)


def _choose(config: ConfigDict, field: str, known: Any, reason: str = "") -> None:
  if config[field] not in known:
    choices = ", ".join(map(str, known))
    raise UserError(f"config.encoder.{field} = {config[field]!r} is unknown{reason}: use {choices}")


def _depth(config: ConfigDict, *known: int) -> int:
  """The depth; a depth of 0 gives the usual depth of the family, `known[0]`."""
  _choose(config, "depth", (0, *known), f" to {config.name}")
  return config.depth or known[0]


def _in_time(config: ConfigDict) -> None:
  if not config.temporal:
    raise UserError(
      f"config.encoder.temporal = False: {config.name} has no version for single frames; use r3d, "
      "slow or c2d"
    )


def _dtypes(config: ConfigDict) -> dict[str, Any]:
  return {"dtype": DTYPES[config.dtype], "reduce_dtype": DTYPES[config.reduce_dtype]}


def _convolutional(config: ConfigDict) -> dict[str, Any]:
  """Arguments of every convolutional network."""
  fields = ("width", "bn_momentum", "bn_epsilon", "bn_groups", "remat", "conv")
  return {**_dtypes(config), **{field: config[field] for field in fields}}


def _r3d(config: ConfigDict) -> nn.Module:
  return R3D(_depth(config, *RESIDUAL), temporal=config.temporal, **_convolutional(config))


def _slow(config: ConfigDict, **differing: Any) -> nn.Module:
  """SlowFast's slow pathway, as the ρ-methods use it (CVPR 2021, table 17)."""
  return R3D(
    _depth(config, *RESIDUAL),
    stem_kernel=(1, 7, 7),
    stem_strides=(1, 2, 2),
    padding="symmetric",
    kernel_init=he_fan_out,
    time_pool=config.time_pool,
    **{"temporal": config.temporal, **differing},
    **_convolutional(config),
  )


def _c2d(config: ConfigDict) -> nn.Module:
  """A 2-D ResNet on each frame, averaged over frames: `slow` without temporal convolutions."""
  return _slow(config, temporal=False)


def _slowfast(config: ConfigDict) -> nn.Module:
  _in_time(config)
  return SlowFast(
    _depth(config, *RESIDUAL),
    alpha=config.alpha,
    beta=config.beta,
    lateral=config.lateral,
    slow_to_last=config.slow_to_last,
    **_convolutional(config),
  )


def _r2plus1d(config: ConfigDict, *, factored: bool = True) -> nn.Module:
  _in_time(config)
  _depth(config, 18)
  return R2Plus1D(factored=factored, **_convolutional(config))


def _r3d_torchvision(config: ConfigDict) -> nn.Module:
  return _r2plus1d(config, factored=False)


def _s3dg(config: ConfigDict) -> nn.Module:
  _in_time(config)
  _choose(config, "depth", (0,), " to s3dg, which has only one depth")
  return S3DG(gating=config.gating, **_convolutional(config))


def _vit(config: ConfigDict) -> nn.Module:
  _in_time(config)
  fields = {
    "size": vit.SIZES,
    "positions": POSITIONS,
    "qkv_bias": BIASES,
    "final_norm": FINAL_NORMS,
  }
  for field, known in fields.items():
    _choose(config, field, known, " to vit")
  for field in ("depth", "heads", "mlp", "norm_epsilon", "final_epsilon"):
    if config[field] < 0:
      raise UserError(f"config.encoder.{field} = {config[field]}: give 0 or more")
  if len(config.grid) not in (0, 3) or any(n < 1 for n in config.grid):
    raise UserError(
      f"config.encoder.grid = {tuple(config.grid)}: give the tokens in time, rows and columns of "
      "the clips of training, or ()"
    )
  return ViT(
    size=config.size,
    width=config.width,
    **_dtypes(config),
    remat=config.remat,
    tubelet=tuple(config.tubelet),
    depth=config.depth or vit.SIZES[config.size][2],
    heads=config.heads,
    mlp=config.mlp,
    positions=config.positions,
    grid=tuple(config.grid),
    biases=config.qkv_bias,
    final_norm=config.final_norm,
    epsilon=config.norm_epsilon,
    final_epsilon=config.final_epsilon,
  )


ENCODERS: dict[str, Callable[[ConfigDict], nn.Module]] = {
  "r3d": _r3d,
  "slow": _slow,
  "c2d": _c2d,
  "slowfast": _slowfast,
  "r2plus1d": _r2plus1d,
  "r3d_torchvision": _r3d_torchvision,
  "s3dg": _s3dg,
  "vit": _vit,
}
