"""R3D: the residual 3-D networks of CVRL (arXiv 2008.03800, table 1) and related networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vssl_jax.models.layers.blocks import layers
from vssl_jax.models.layers.conv import lecun_normal
from vssl_jax.models.layers.padding import Padding, Triple

# depth -> (blocks per stage, bottleneck blocks?)
DEPTHS = {
  18: ((2, 2, 2, 2), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
  152: ((3, 8, 36, 3), True),
}
TEMPORAL = (1, 1, 3, 3)  # temporal kernel by stage, res2 to res5


class Block(nn.Module):
  """A residual block, bottleneck (t×1×1, 1×3×3, 1×1×1) or basic (t×3×3, 1×3×3).

  The shortcut is a 1×1×1 convolution with batch norm if the number of channels changes (it does in
  every strided block), otherwise the identity.
  """

  channels: int  # of the inner convolutions
  temporal: int  # kernel size in time of the first convolution
  stride: int  # in height and width
  bottleneck: bool
  conv: partial
  norm: partial

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[N, T, H, W, C]` to `[N, T, H/stride, W/stride, C']`."""
    strides = (1, self.stride, self.stride)
    layers: tuple[tuple[int, Triple, Triple], ...]
    if self.bottleneck:
      layers = (
        (self.channels, (self.temporal, 1, 1), (1, 1, 1)),
        (self.channels, (1, 3, 3), strides),
        (4 * self.channels, (1, 1, 1), (1, 1, 1)),
      )
    else:
      layers = (
        (self.channels, (self.temporal, 3, 3), strides),
        (self.channels, (1, 3, 3), (1, 1, 1)),
      )
    y = x
    for i, (features, kernel, step) in enumerate(layers):
      name = "abc"[i]
      y = self.conv(features, kernel, step, name=f"conv_{name}")(y)
      y = self.norm(name=f"norm_{name}")(y, train)
      if i < len(layers) - 1:
        y = nn.relu(y)
    if x.shape[-1] != y.shape[-1]:
      x = self.conv(y.shape[-1], (1, 1, 1), strides, name="conv_shortcut")(x)
      x = self.norm(name="norm_shortcut")(x, train)
    return nn.relu(x + y)


class R3D(nn.Module):
  """Residual 3-D network; `[N, T, H, W, C]` clips to `[N, features_dim]` float32 features.

  Attributes:
    time_pool: Number of frames max-pooled into one after res2 (remaining frames are dropped); 2 in
      PySlowFast's C2D.
  """

  depth: int = 50
  width: float = 1.0
  dtype: DTypeLike = jnp.float32
  reduce_dtype: DTypeLike = jnp.float32
  bn_momentum: float = 0.9
  bn_epsilon: float = 1e-5
  bn_groups: int = 1
  remat: bool = False
  temporal: bool = True
  conv: str = "auto"
  stem_kernel: Triple = (5, 7, 7)
  stem_strides: Triple = (2, 2, 2)
  padding: Padding = "SAME"
  kernel_init: Callable = lecun_normal
  time_pool: int = 1

  @property
  def stem_dim(self) -> int:
    """Channels after the stem."""
    return round(64 * self.width)

  @property
  def features_dim(self) -> int:
    """Channels of the features."""
    return self.stem_dim * (32 if DEPTHS[self.depth][1] else 8)

  @nn.compact
  def __call__(self, clips: jax.Array, train: bool = False, pool: bool = True) -> jax.Array:
    """Encodes clips.

    Args:
      clips: `[N, T, H, W, C]`, floating point.
      train: Normalize by the batch's statistics and move the running averages.
      pool: False returns the last feature map `[N, T', H', W', features_dim]` in `dtype`.

    Returns:
      Features `[N, features_dim]`, float32: the mean over time and space.
    """
    conv, norm, max_pool = layers(self, self.padding, self.kernel_init)
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    blocks, bottleneck = DEPTHS[self.depth]

    kernel, strides = self.stem_kernel, self.stem_strides
    if not self.temporal:
      kernel, strides = (1, *kernel[1:]), (1, *strides[1:])
    x = clips.astype(self.dtype)
    x = conv(self.stem_dim, kernel, strides, name="stem_conv")(x)
    x = nn.relu(norm(name="stem_norm")(x, train))
    x = max_pool(x, (1, 3, 3), (1, 2, 2))
    for stage, (count, t) in enumerate(zip(blocks, TEMPORAL, strict=True)):
      for i in range(count):
        x = block(
          channels=self.stem_dim * 2**stage,
          temporal=t if self.temporal else 1,
          stride=2 if stage and i == 0 else 1,
          bottleneck=bottleneck,
          conv=conv,
          norm=norm,
          name=f"res{stage + 2}_{i}",
        )(x, train)
      if stage == 0 and self.time_pool > 1:
        x = max_pool(x, (self.time_pool, 1, 1), (self.time_pool, 1, 1), padding="VALID")
    return x.mean((1, 2, 3), dtype=jnp.float32) if pool else x
