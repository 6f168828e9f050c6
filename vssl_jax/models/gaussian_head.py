"""A clip as a Gaussian: two projections of the encoder's features."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vssl_jax.models.heads import glorot_uniform
from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.ops.sphere import l2_normalize


class GaussianHead(nn.Module):
  """μ = L2(LayerNorm(FC(x))) and log σ² = clamp(FC'(x)), ProViCo's (Park et al., CVPR 2022).

  The variance's layer has neither normalization and starts at one value for all: its kernel at 0,
  its bias at log(trace / D), so that a sample lies √trace from the mean. Beyond the clamp
  there is no gradient. Hidden layers (Dense → BN → ReLU, shared) are ours; the paper has none.

  Attributes:
    out: D.
    hidden: widths before the two.
    trace: Σ_d σ_d² at the start.
    clamp: least and largest log σ².
    bn_momentum: of the hidden layers' batch norm, as its groups and whether there is any.
    dtype: of the products but the variance's, where bfloat16 would round σ² by several per cent;
      both outputs are float32.
  """

  out: int = 256
  hidden: tuple[int, ...] = ()
  trace: float = 1.0
  clamp: tuple[float, float] = (-16.0, 4.0)
  bn_momentum: float = 0.9
  bn_groups: int = 1
  bn: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    """Maps features `[N, F]` to `mean`, unit vectors, and `log_variance`, each `[N, D]`."""
    for i, width in enumerate(self.hidden):
      x = nn.Dense(width, dtype=self.dtype, kernel_init=glorot_uniform, name=f"dense_{i}")(x)
      if self.bn:
        norm = BatchNorm(
          self.bn_momentum, groups=self.bn_groups, dtype=self.dtype, name=f"norm_{i}"
        )
        x = norm(x, train)
      x = nn.relu(x)
    mean = nn.Dense(self.out, dtype=self.dtype, kernel_init=glorot_uniform, name="mean")(x)
    mean = nn.LayerNorm(dtype=jnp.float32, name="mean_norm")(mean.astype(jnp.float32))
    start = nn.initializers.constant(math.log(self.trace / self.out))
    log_variance = nn.Dense(
      self.out,
      dtype=jnp.float32,
      kernel_init=nn.initializers.zeros,
      bias_init=start,
      name="log_variance",
    )(x.astype(jnp.float32))
    return {"mean": l2_normalize(mean), "log_variance": jnp.clip(log_variance, *self.clamp)}
