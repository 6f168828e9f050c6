"""Vision transformer on tubelets with joint space-time attention.

Model 1 of ViViT (Arnab et al., ICCV 2021); details as in VideoMAE (Tong et al., NeurIPS 2022).
"""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vssl_jax.errors import UserError
from vssl_jax.models.layers.attention import Attend
from vssl_jax.models.layers.padding import Triple
from vssl_jax.models.layers.product import Dense

# size -> (channels, heads)
SIZES = {"S": (384, 6), "B": (768, 12)}
DEPTH = 12

glorot_uniform = nn.initializers.glorot_uniform()


def positions(length: int, channels: int) -> np.ndarray:
  """Position embedding: sine and cosine of the token number, alternating: `[length, channels]`.

  Attention Is All You Need, section 3.5. As in VideoMAE, all tokens of a clip are numbered in one
  sequence, with width fastest and time slowest. So a table fits only one shape of clip.
  """
  frequencies = 10000.0 ** (-2 * (np.arange(channels) // 2) / channels)
  angles = np.arange(length)[:, None] * frequencies
  table = np.where(np.arange(channels) % 2, np.cos(angles), np.sin(angles))
  return table.astype(np.float32)


class Block(nn.Module):
  """Pre-norm self-attention and MLP.

  Queries and values have a bias. Keys have none, because it would have no effect.
  """

  heads: int
  dtype: DTypeLike
  reduce_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps tokens `[N, L, C]` to the same shape."""
    del train
    channels, dtype = x.shape[-1], self.dtype
    shape = (*x.shape[:2], self.heads, channels // self.heads)

    def dense(features: int, name: str, use_bias: bool = True) -> Dense:
      return Dense(
        features,
        use_bias,
        dtype=dtype,
        reduce_dtype=self.reduce_dtype,
        kernel_init=glorot_uniform,
        name=name,
      )

    y = nn.LayerNorm(1e-6, dtype=dtype, name="norm_attention")(x)
    q, k, v = (dense(channels, name, name != "key")(y) for name in ("query", "key", "value"))
    y = Attend(name="attend")(q.reshape(shape), k.reshape(shape), v.reshape(shape))
    x = x + dense(channels, "out")(y.reshape(x.shape))
    y = nn.LayerNorm(1e-6, dtype=dtype, name="norm_mlp")(x)
    y = nn.gelu(dense(4 * channels, "mlp_in")(y), approximate=False)
    return x + dense(channels, "mlp_out")(y)


class ViT(nn.Module):
  """Transformer of 12 blocks; `[N, T, H, W, C]` clips to `[N, features_dim]` float32 features.

  The encoder of VideoMAE's pre-training, without masking: tubelets, fixed position embeddings,
  blocks, layer norm. It has no batch statistics, so `train` has no effect.

  Attributes:
    size: One of `SIZES`.
    width: Factor on the channels; the number of heads does not change.
    tubelet: Frames, rows and columns of a token.
    depth: Number of blocks.
  """

  fixed_size: ClassVar[bool] = True  # all clips must have one size: positions depend on it
  size: str = "B"
  width: float = 1.0
  dtype: DTypeLike = jnp.float32
  reduce_dtype: DTypeLike = jnp.float32
  remat: bool = False
  tubelet: Triple = (2, 16, 16)
  depth: int = DEPTH

  @property
  def features_dim(self) -> int:
    """Channels of tokens and features.

    Raises:
      UserError: the number of heads does not divide them.
    """
    channels, heads = SIZES[self.size]
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
      pool: False returns the normalized tokens `[N, T', H', W', features_dim]` in `dtype`.

    Returns:
      Features `[N, features_dim]`, float32: the mean of the normalized tokens.

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
    dtypes = self.dtype, self.reduce_dtype
    x = Dense(
      channels,
      dtype=self.dtype,
      reduce_dtype=self.reduce_dtype,
      kernel_init=glorot_uniform,
      name="embed",
    )(x)
    x = x + jnp.asarray(positions(t * h * w, channels), self.dtype)
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    for i in range(self.depth):
      x = block(SIZES[self.size][1], *dtypes, name=f"block_{i}")(x, train)
    x = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm")(x)
    if pool:
      return x.mean(1, dtype=jnp.float32)
    return x.reshape(batch, *grid, channels)
