"""S3D and S3D-G: separable Inception with feature gating (Xie et al., ECCV 2018)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vssl_jax.models.layers.blocks import layers
from vssl_jax.models.layers.conv import he_fan_out
from vssl_jax.models.layers.padding import Triple
from vssl_jax.models.layers.product import Dense

# Channels of a block's branches: 1×1×1; 1×1×1 then 3×3×3, twice; max-pool then 1×1×1.
STAGES = (
  {"3b": (64, (96, 128), (16, 32), 32), "3c": (128, (128, 192), (32, 96), 64)},
  {
    "4b": (192, (96, 208), (16, 48), 64),
    "4c": (160, (112, 224), (24, 64), 64),
    "4d": (128, (128, 256), (24, 64), 64),
    "4e": (112, (144, 288), (32, 64), 64),
    "4f": (256, (160, 320), (32, 128), 128),
  },
  {"5b": (256, (160, 320), (32, 128), 128), "5c": (384, (192, 384), (48, 128), 128)},
)


def _wide(channels: int, width: float) -> int:
  return max(1, round(channels * width))


class Unit(nn.Module):
  """Convolution, batch norm, ReLU."""

  features: int
  kernel: Triple
  conv: partial
  norm: partial
  strides: Triple = (1, 1, 1)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[N, T, H, W, C]` to `[N, T', H', W', features]`."""
    x = self.conv(self.features, self.kernel, self.strides, name="conv")(x)
    return nn.relu(self.norm(name="norm")(x, train))


class Separable(nn.Module):
  """A k×k×k convolution as 1×k×k and k×1×1, each with batch norm and ReLU."""

  features: int
  size: int
  conv: partial
  norm: partial
  stride: int = 1  # in time, height and width

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[N, T, H, W, C]` to `[N, T/stride, H/stride, W/stride, features]`."""
    k, s = self.size, self.stride
    unit = partial(Unit, self.features, conv=self.conv, norm=self.norm)
    x = unit((1, k, k), strides=(1, s, s), name="space")(x, train)
    return unit((k, 1, 1), strides=(s, 1, 1), name="time")(x, train)


class Gate(nn.Module):
  """y = σ(W · mean(x) + b) ⊙ x, the mean over time and space (section 4.4 of the paper)."""

  dtype: DTypeLike = jnp.float32
  reduce_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[N, T, H, W, C]` to the same shape."""
    mean = x.mean((1, 2, 3), dtype=jnp.float32)
    small = nn.initializers.truncated_normal(0.01)
    y = Dense(
      x.shape[-1],
      dtype=self.dtype,
      reduce_dtype=self.reduce_dtype,
      kernel_init=small,
      name="dense",
    )(mean)
    return x * nn.sigmoid(y)[:, None, None, None]


class Block(nn.Module):
  """An Inception block: four parallel branches, each with a gate if `gating`, concatenated."""

  branches: tuple[int, tuple[int, int], tuple[int, int], int]
  gating: bool
  conv: partial
  norm: partial
  max_pool: partial
  reduce_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[N, T, H, W, C]` to `[N, T, H, W, C']`."""
    point = partial(Unit, kernel=(1, 1, 1), conv=self.conv, norm=self.norm)
    separable = partial(Separable, size=3, conv=self.conv, norm=self.norm)
    first, *middle, last = self.branches
    outputs = [point(first, name="branch_0")(x, train)]
    for i, (reduced, features) in enumerate(middle, 1):
      y = point(reduced, name=f"branch_{i}_reduce")(x, train)
      outputs.append(separable(features, name=f"branch_{i}")(y, train))
    y = self.max_pool(x, (3, 3, 3), (1, 1, 1))
    outputs.append(point(last, name="branch_3")(y, train))
    if self.gating:
      reduce = self.reduce_dtype
      outputs = [Gate(y.dtype, reduce, name=f"gate_{i}")(y) for i, y in enumerate(outputs)]
    return jnp.concatenate(outputs, -1)


class S3DG(nn.Module):
  """Separable Inception; `[N, T, H, W, C]` clips to `[N, features_dim]` float32 features.

  Convolutions, batch norms and padding follow the PyTorch implementations (torchvision's S3D and
  similar ones), because trained weights exist for those: a separable 7×7×7 stem, batch norm after
  every convolution, symmetric padding. The TensorFlow original has a plain stem, no batch norm
  after temporal convolutions, and "SAME" padding. The gates are placed as in the original: after
  the first separable convolution and after every branch. Batch norm of the originals has epsilon
  1e-3 and momentum 0.999.

  Attributes:
    gating: True for S3D-G, False for S3D.
  """

  width: float = 1.0
  dtype: DTypeLike = jnp.float32
  reduce_dtype: DTypeLike = jnp.float32
  bn_momentum: float = 0.9
  bn_epsilon: float = 1e-5
  bn_groups: int = 1
  remat: bool = False
  conv: str = "auto"
  gating: bool = True

  @property
  def features_dim(self) -> int:
    """Channels of the features."""
    first, (_, second), (_, third), fourth = STAGES[-1]["5c"]
    return sum(_wide(n, self.width) for n in (first, second, third, fourth))

  @nn.compact
  def __call__(self, clips: jax.Array, train: bool = False, pool: bool = True) -> jax.Array:
    """Encodes clips.

    Args:
      clips: `[N, T, H, W, C]`, floating point.
      train: Normalize by the batch's statistics and move the running averages.
      pool: False returns the last feature map `[N, T', H', W', features_dim]` in `dtype`.

    Returns:
      Features `[N, features_dim]`, float32: the mean over time and space. (Before their classifier
      the originals average over windows of two steps, so the first and last steps have half the
      weight of the others.)
    """
    conv, norm, max_pool = layers(self, "symmetric", he_fan_out)
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    wide = partial(_wide, width=self.width)
    x = clips.astype(self.dtype)
    x = Separable(wide(64), 7, conv, norm, stride=2, name="conv_1a")(x, train)
    x = max_pool(x, (1, 3, 3), (1, 2, 2))
    x = Unit(wide(64), (1, 1, 1), conv, norm, name="conv_2b")(x, train)
    x = Separable(wide(192), 3, conv, norm, name="conv_2c")(x, train)
    if self.gating:
      x = Gate(self.dtype, self.reduce_dtype, name="gate_2c")(x)
    # Maps of even size need no padding for 2×2×2; for odd sizes the last row is kept, as in
    # TensorFlow.
    pools = (
      ((1, 3, 3), (1, 2, 2), "symmetric"),
      ((3, 3, 3), (2, 2, 2), "symmetric"),
      ((2, 2, 2), (2, 2, 2), "SAME"),
    )
    for stage, (window, strides, padding) in zip(STAGES, pools, strict=True):
      x = max_pool(x, window, strides, padding=padding)
      for name, (first, (a, b), (c, d), last) in stage.items():
        x = block(
          branches=(wide(first), (wide(a), wide(b)), (wide(c), wide(d)), wide(last)),
          gating=self.gating,
          conv=conv,
          norm=norm,
          max_pool=max_pool,
          reduce_dtype=self.reduce_dtype,
          name=f"mixed_{name}",
        )(x, train)
    return x.mean((1, 2, 3), dtype=jnp.float32) if pool else x
