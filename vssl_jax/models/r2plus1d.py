"""R(2+1)D-18, and the same network with 3×3×3 kernels, as in torchvision (Tran et al. 2018)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vssl_jax.models.layers.blocks import layers
from vssl_jax.models.layers.conv import he_fan_out

BLOCKS = (2, 2, 2, 2)


def middle(channels: int, features: int) -> int:
  """Channels between the 1×3×3 and the 3×1×1 convolution, to match the parameters of one 3×3×3.

  Section 3.5 of the paper. As in torchvision, both convolutions of a block use the number that
  follows from the input and output channels of the block.
  """
  return 27 * channels * features // (9 * channels + 3 * features)


class Block(nn.Module):
  """Two 3×3×3 convolutions; if `factored`, each is a 1×3×3, batch norm, ReLU and a 3×1×1."""

  features: int
  stride: int  # of the first convolution, in time, height and width
  factored: bool
  conv: partial
  norm: partial

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[N, T, H, W, C]` to `[N, T/stride, H/stride, W/stride, features]`."""
    between, y = middle(x.shape[-1], self.features), x
    for name, s in (("a", self.stride), ("b", 1)):
      if self.factored:
        y = self.conv(between, (1, 3, 3), (1, s, s), name=f"conv_{name}_space")(y)
        y = nn.relu(self.norm(name=f"norm_{name}_space")(y, train))
        y = self.conv(self.features, (3, 1, 1), (s, 1, 1), name=f"conv_{name}_time")(y)
      else:
        y = self.conv(self.features, (3, 3, 3), (s, s, s), name=f"conv_{name}")(y)
      y = self.norm(name=f"norm_{name}")(y, train)
      if name == "a":
        y = nn.relu(y)
    if x.shape[-1] != self.features or self.stride > 1:
      x = self.conv(self.features, (1, 1, 1), (self.stride,) * 3, name="conv_shortcut")(x)
      x = self.norm(name="norm_shortcut")(x, train)
    return nn.relu(x + y)


class R2Plus1D(nn.Module):
  """18-layer residual network; `[N, T, H, W, C]` clips to `[N, features_dim]` float32 features.

  Time and space are halved together at the entry of res3, res4 and res5; the stem halves space.

  Attributes:
    factored: True for R(2+1)D; False for 3×3×3 kernels everywhere, torchvision's r3d_18.
  """

  width: float = 1.0
  dtype: DTypeLike = jnp.float32
  reduce_dtype: DTypeLike = jnp.float32
  bn_momentum: float = 0.9
  bn_epsilon: float = 1e-5
  bn_groups: int = 1
  remat: bool = False
  conv: str = "auto"
  factored: bool = True

  @property
  def stem_dim(self) -> int:
    """Channels after the stem."""
    return round(64 * self.width)

  @property
  def features_dim(self) -> int:
    """Channels of the features."""
    return 8 * self.stem_dim

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
    conv, norm, _ = layers(self, "symmetric", he_fan_out)
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    x = clips.astype(self.dtype)
    if self.factored:
      x = conv(round(45 * self.width), (1, 7, 7), (1, 2, 2), name="stem_conv_space")(x)
      x = nn.relu(norm(name="stem_norm_space")(x, train))
      x = conv(self.stem_dim, (3, 1, 1), name="stem_conv_time")(x)
    else:
      x = conv(self.stem_dim, (3, 7, 7), (1, 2, 2), name="stem_conv")(x)
    x = nn.relu(norm(name="stem_norm")(x, train))
    for stage, count in enumerate(BLOCKS):
      for i in range(count):
        x = block(
          features=self.stem_dim * 2**stage,
          stride=2 if stage and i == 0 else 1,
          factored=self.factored,
          conv=conv,
          norm=norm,
          name=f"res{stage + 2}_{i}",
        )(x, train)
    return x.mean((1, 2, 3), dtype=jnp.float32) if pool else x
