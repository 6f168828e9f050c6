"""Vision transformer on tubelets with joint space-time attention.

Model 1 of ViViT (Arnab et al., ICCV 2021); details as in VideoMAE (Tong et al., NeurIPS 2022) or,
with rotary positions, V-JEPA 2 (Assran et al., 2025).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from jax.typing import DTypeLike

from vssl_jax.errors import UserError
from vssl_jax.models.layers.padding import Triple
from vssl_jax.models.layers.product import Dense
from vssl_jax.models.vit import rotary, sine
from vssl_jax.models.vit.block import Block, glorot_uniform
from vssl_jax.models.vit.sizes import DEPTH, MLPS, SIZES

POSITIONS = ("sine", "rotary")
FINAL_NORMS = ("tokens", "mean", "none")


class ViT(nn.Module):
  """Transformer; `[N, T, H, W, C]` clips to `[N, features_dim]` float32 features.

  The encoder of VideoMAE's pre-training, without masking: tubelets, fixed position embeddings,
  blocks, layer norm. It has no class token and no batch statistics, so `train` has no effect.

  Attributes:
    size: One of `SIZES`.
    width: Factor on the channels; the number of heads does not change.
    tubelet: Frames, rows and columns of a token.
    depth: Number of blocks.
    heads: Number of heads; 0: that of `size`.
    mlp: Channels inside an MLP, per channel; 0: that of `size`.
    positions: "sine", added to the tokens, or "rotary", on three axes.
    grid: sine: tokens `(T', H', W')` of the clips of training, whose positions are interpolated for
      other clips; (): all clips have one size.
    biases: One of `block.BIASES`.
    final_norm: A norm of the "tokens", which are then averaged, of their "mean", or "none".
    epsilon: Of the norms.
    final_epsilon: Of the last norm; 0: `epsilon`.
  """

  size: str = "B"
  width: float = 1.0
  dtype: DTypeLike = jnp.float32
  reduce_dtype: DTypeLike = jnp.float32
  remat: bool = False
  tubelet: Triple = (2, 16, 16)
  depth: int = DEPTH
  heads: int = 0
  mlp: float = 0.0
  positions: str = "sine"
  grid: tuple[int, ...] = ()
  biases: str = "qv"
  final_norm: str = "tokens"
  epsilon: float = 1e-6
  final_epsilon: float = 0.0

  @property
  def fixed_size(self) -> bool:
    """Whether all clips must have one size, because their positions depend on it."""
    return self.positions == "sine" and not self.grid

  @property
  def features_dim(self) -> int:
    """Channels of tokens and features.

    Raises:
      UserError: the number of heads does not divide them.
    """
    channels, heads = SIZES[self.size][0], self.heads or SIZES[self.size][1]
    wide = round(channels * self.width)
    if wide < heads or wide % heads:
      raise UserError(
        f"config.encoder.width = {self.width:g} gives ViT-{self.size} {wide} channels, which its "
        f"{heads} heads cannot share: use a multiple of {heads / channels:g}"
      )
    return wide

  @nn.compact
  def __call__(self, clips: jax.Array, train: bool = False, pool: bool = True) -> jax.Array:
    """Encodes clips.

    Args:
      clips: `[N, T, H, W, C]`, floating point; `tubelet` divides T, H and W.
      train: Without effect.
      pool: False returns the tokens `[N, T', H', W', features_dim]` in `dtype`, normalized where
        `final_norm` is that of tokens.

    Returns:
      Features `[N, features_dim]`, float32: the mean of the tokens, with `final_norm`.

    Raises:
      UserError: `tubelet` does not divide the clip, or the number of heads the channels.
    """
    batch, *size, colors = clips.shape
    if any(n % k for n, k in zip(size, self.tubelet, strict=True)):
      whole, part = (" x ".join(map(str, a)) for a in (size, self.tubelet))
      raise UserError(
        f"clips of {whole} (frames x rows x columns) are not divisible into tubelets of {part}: "
        "change config.data.frames or size (or those of the evaluation), or config.encoder.tubelet"
      )
    grid = [n // k for n, k in zip(size, self.tubelet, strict=True)]
    (t, h, w), (p, q, r) = grid, self.tubelet
    x = clips.astype(self.dtype).reshape(batch, t, p, h, q, w, r, colors)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, t * h * w, -1)
    channels = self.features_dim
    heads = self.heads or SIZES[self.size][1]
    dtypes = self.dtype, self.reduce_dtype
    x = Dense(
      channels,
      dtype=self.dtype,
      reduce_dtype=self.reduce_dtype,
      kernel_init=glorot_uniform,
      name="embed",
    )(x)
    turns = None
    if self.positions == "rotary":
      turns = jnp.asarray(rotary.turns(grid, channels // heads))
    else:
      x = x + jnp.asarray(sine.on_grid(grid, self._trained(grid), channels), self.dtype)
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    mlp = self.mlp or MLPS.get(self.size, 4.0)
    for i in range(self.depth):
      x = block(heads, *dtypes, mlp, self.biases, self.epsilon, name=f"block_{i}")(x, train, turns)
    epsilon = self.final_epsilon or self.epsilon
    if self.final_norm == "tokens":
      x = nn.LayerNorm(epsilon, dtype=self.dtype, name="norm")(x)
    if not pool:
      return x.reshape(batch, *grid, channels)
    x = x.mean(1, dtype=jnp.float32)
    if self.final_norm == "mean":
      x = nn.LayerNorm(epsilon, dtype=jnp.float32, name="norm")(x)
    return x

  def _trained(self, grid: list[int]) -> list[int]:
    """The grid of training; logs a note if the clip's is another one."""
    trained = list(self.grid) or grid
    if trained != grid and not self.is_initializing():
      logging.warning(
        "Note: clips of %s tokens: positions are interpolated from those of training, %s.",
        grid,
        trained,
      )
    return trained
