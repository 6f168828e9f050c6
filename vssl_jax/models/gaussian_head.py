"""Maps the features of a clip to a Gaussian: one projection for the mean, one for the variance."""

from __future__ import annotations

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vssl_jax.models.heads import glorot_uniform
from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.models.layers.product import Dense
from vssl_jax.ops.sphere import l2_normalize


class GaussianHead(nn.Module):
  """μ = L2(LayerNorm(FC(x))) and log σ² = clamp(FC'(x)), as in ProViCo (Park et al., CVPR 2022).

  The layer of the variance has no normalization. It starts with the same value for all clips:
  kernel 0 and bias log(trace / D), so that a sample is √trace away from the mean. Outside of the
  clamp there is no gradient. The hidden layers (Dense → BN → ReLU, shared) are ours; the paper has
  none.

  Attributes:
    out: D.
    hidden: widths of the hidden layers that both projections share.
    trace: Σ_d σ_d² at the start.
    clamp: smallest and largest log σ².
    bn_momentum: momentum of batch norm in the hidden layers.
    bn_groups: groups of that batch norm.
    bn: whether the hidden layers have batch norm.
    dtype: dtype of the matrix products. The variance always uses float32, since bfloat16 would
      round σ² by several per cent; both outputs are float32.
    reduce_dtype: dtype in which devices add up gradients.
  """

  out: int = 256
  hidden: tuple[int, ...] = ()
  trace: float = 1.0
  clamp: tuple[float, float] = (-16.0, 4.0)
  bn_momentum: float = 0.9
  bn_groups: int = 1
  bn: bool = True
  dtype: DTypeLike = jnp.float32
  reduce_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    """Maps features `[N, F]` to `mean`, unit vectors, and `log_variance`, each `[N, D]`."""
    dense = partial(
      Dense, dtype=self.dtype, reduce_dtype=self.reduce_dtype, kernel_init=glorot_uniform
    )
    for i, width in enumerate(self.hidden):
      x = dense(width, name=f"dense_{i}")(x)
      if self.bn:
        norm = BatchNorm(
          self.bn_momentum, groups=self.bn_groups, dtype=self.dtype, name=f"norm_{i}"
        )
        x = norm(x, train)
      x = nn.relu(x)
    mean = dense(self.out, name="mean")(x)
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
