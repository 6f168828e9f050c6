"""An encoder ready to use: `vssl_jax.load`."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vssl_jax import augment, models, probing
from vssl_jax.errors import UserError
from vssl_jax.io import bundle

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A trained encoder with its preprocessing.

  Attributes:
    config: the run's: `encoder`, `augment.mean` and `.std`, `data.frames`, `.stride`, `.size`.
    params: the encoder's variables, {params, batch_stats}.
    info: where they came from.
    network: the Flax module.
  """

  config: ConfigDict
  params: Params
  info: dict[str, Any]
  network: nn.Module

  @property
  def features_dim(self) -> int:
    """F, the number of features."""
    return self.network.features_dim

  @property
  def clip_shape(self) -> tuple[int, int, int, int]:
    """`(T, H, W, C)` of the clips that it is evaluated with; others do as well."""
    e = self.config.data.eval
    return e.frames, e.size, e.size, 3

  def preprocess(self, clips: jax.Array) -> jax.Array:
    """Uint8 RGB `[..., 3]` as the network was trained on it: scaled, less mean, by std.

    Raises:
      UserError: the clips are not uint8 RGB.
    """
    if clips.dtype != jnp.uint8 or clips.shape[-1] != 3:
      raise UserError(
        f"clips are {clips.dtype}{list(clips.shape)}: give RGB as uint8 [N, T, H, W, 3], values 0 "
        "to 255; the encoder scales and normalises them itself."
      )
    return augment.eval_preprocess(self.config.augment)(jnp.asarray(clips))

  def apply(self, params: Params, clips: jax.Array) -> jax.Array:
    """Features of clips, batch norm in inference mode; compiled once for each shape of clips.

    Args:
      params: the encoder's variables.
      clips: uint8 RGB `[N, T, H, W, 3]`.

    Returns:
      float32 `[N, F]`.

    Raises:
      UserError: the clips are not uint8 RGB of five axes.
    """
    if clips.ndim != 5:
      raise UserError(f"clips have {clips.ndim} axes: give [N, T, H, W, 3].")
    return self._compiled(params, clips)

  @functools.cached_property
  def _compiled(self) -> Callable[[Params, jax.Array], jax.Array]:
    return jax.jit(lambda params, x: self.network.apply(params, self.preprocess(x), train=False))


def load(path: str | os.PathLike[str]) -> Encoder:
  """The encoder of a run folder, of an exported folder, or of converted weights.

  A network that was trained on single frames comes inflated, as probes see it.

  Args:
    path: what `--workdir`, `vssl_jax.export --output` or `vssl_jax.weights.convert --to` named.

  Raises:
    UserError: no encoder there, or none that can be read.
  """
  config, variables, info = bundle.load_encoder(path)
  return build(*probing.inflated(config, variables), info)


def build(config: ConfigDict, variables: Params, info: dict[str, Any]) -> Encoder:
  """The encoder that `config` describes, with its variables and where they came from."""
  variables = {k: variables.get(k) or {} for k in ("params", "batch_stats")}
  return Encoder(config, variables, info, models.build_encoder(config.encoder))
