"""SlowFast: two pathways at two frame rates (Feichtenhofer et al., ICCV 2019, table 1)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vssl_jax.errors import UserError
from vssl_jax.models.layers.blocks import layers
from vssl_jax.models.layers.conv import he_fan_out
from vssl_jax.models.r3d import DEPTHS, TEMPORAL, Block

FUSION = 2  # channels of a lateral connection per channel of the fast pathway


class SlowFast(nn.Module):
  """Maps `[N, T, H, W, C]` clips to `[N, features_dim]` float32 features, slow features first.

  The fast pathway gets all frames of the clip. The slow pathway gets every `alpha`-th frame from
  the first on, or, with `slow_to_last`, as many frames spread evenly over the clip (PySlowFast).
  After the stem and after each of res2 to res4, a `lateral`×1×1 convolution with stride `alpha` in
  time, batch norm and ReLU map the fast pathway to additional channels of the slow pathway.

  Attributes:
    alpha: Frames of the fast pathway per frame of the slow pathway.
    beta: Channels of the slow pathway per channel of the fast pathway (the paper's β is 1 / beta).
    lateral: Kernel size in time of the lateral convolutions: 5 in the paper and in PySlowFast's
      4×16 models (alpha 8), 7 in its 8×8 models (alpha 4).
    slow_to_last: Spread the slow pathway's frames evenly from the first to the last frame.
  """

  depth: int = 50
  width: float = 1.0
  dtype: DTypeLike = jnp.float32
  reduce_dtype: DTypeLike = jnp.float32
  bn_momentum: float = 0.9
  bn_epsilon: float = 1e-5
  bn_groups: int = 1
  remat: bool = False
  conv: str = "auto"
  alpha: int = 4
  beta: int = 8
  lateral: int = 7
  slow_to_last: bool = False

  @property
  def stem_dims(self) -> tuple[int, int]:
    """Channels of the slow and of the fast pathway after the stem.

    Raises:
      UserError: `beta` does not divide the channels of the slow pathway.
    """
    slow = round(64 * self.width)
    if self.beta < 1 or slow % self.beta:
      raise UserError(
        f"config.encoder.beta = {self.beta} does not divide the {slow} channels of the slow "
        f"pathway at width {self.width:g}: change beta or width"
      )
    return slow, slow // self.beta

  @property
  def features_dim(self) -> int:
    """Channels of the features, of both pathways."""
    return sum(self.stem_dims) * (32 if DEPTHS[self.depth][1] else 8)

  @nn.compact
  def __call__(self, clips: jax.Array, train: bool = False, pool: bool = True) -> jax.Array:
    """Encodes clips.

    Args:
      clips: `[N, T, H, W, C]`, floating point; `alpha` divides T.
      train: Normalize by the batch's statistics and move the running averages.
      pool: False returns `[N, T/alpha, H', W', features_dim]` in `dtype`: the last map of the slow
        pathway, and that of the fast pathway averaged over each `alpha` frames.

    Returns:
      Features `[N, features_dim]`, float32: each pathway's mean over time and space.

    Raises:
      UserError: `alpha` does not divide T, or `beta` the channels.
    """
    if self.alpha < 1 or clips.shape[1] % self.alpha:
      raise UserError(
        f"a clip of {clips.shape[1]} frames is not divisible by config.encoder.alpha = "
        f"{self.alpha}: change config.data.frames (or that of the evaluation) or alpha"
      )
    conv, norm, max_pool = layers(self, "symmetric", he_fan_out)
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    blocks, bottleneck = DEPTHS[self.depth]
    dims = dict(zip(("slow", "fast"), self.stem_dims, strict=True))

    def fuse(maps: dict[str, jax.Array], name: str) -> dict[str, jax.Array]:
      fast = maps["fast"]
      features, kernel = FUSION * fast.shape[-1], (self.lateral, 1, 1)
      y = conv(features, kernel, (self.alpha, 1, 1), name=f"{name}_conv")(fast)
      y = nn.relu(norm(name=f"{name}_norm")(y, train))
      return {"slow": jnp.concatenate([maps["slow"], y], -1), "fast": fast}

    clips = clips.astype(self.dtype)
    maps = {"slow": clips[:, :: self.alpha], "fast": clips}
    if self.slow_to_last:
      count, last = clips.shape[1] // self.alpha, clips.shape[1] - 1
      maps["slow"] = clips[:, np.arange(count) * last // max(count - 1, 1)]
    for path, t in (("slow", 1), ("fast", 5)):
      x = conv(dims[path], (t, 7, 7), (1, 2, 2), name=f"{path}_stem_conv")(maps[path])
      x = nn.relu(norm(name=f"{path}_stem_norm")(x, train))
      maps[path] = max_pool(x, (1, 3, 3), (1, 2, 2))
    maps = fuse(maps, "stem_lateral")
    for stage, (count, t) in enumerate(zip(blocks, TEMPORAL, strict=True)):
      for path in ("slow", "fast"):
        for i in range(count):
          maps[path] = block(
            channels=dims[path] * 2**stage,
            temporal=t if path == "slow" else 3,
            stride=2 if stage and i == 0 else 1,
            bottleneck=bottleneck,
            conv=conv,
            norm=norm,
            name=f"{path}_res{stage + 2}_{i}",
          )(maps[path], train)
      if stage < len(blocks) - 1:
        maps = fuse(maps, f"res{stage + 2}_lateral")
    if pool:
      means = [maps[path].mean((1, 2, 3), dtype=jnp.float32) for path in ("slow", "fast")]
      return jnp.concatenate(means, -1)
    fast = maps["fast"]
    fast = fast.reshape(fast.shape[0], -1, self.alpha, *fast.shape[2:])
    fast = fast.mean(2, dtype=jnp.float32).astype(self.dtype)
    return jnp.concatenate([maps["slow"], fast], -1)
