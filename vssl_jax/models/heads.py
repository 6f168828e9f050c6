"""Heads on the features of an encoder: the projection MLP and the linear classifier."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.models.layers.product import Dense

glorot_uniform = nn.initializers.glorot_uniform()
# c2_xavier is Caffe2's XavierFill, U(±sqrt(3 / inputs)), of PySlowFast's MLPs.
INITIALIZERS = {
  "glorot": glorot_uniform,
  "c2_xavier": nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
}


class ProjectionHead(nn.Module):
  """(Dense with bias → BN → ReLU) for each hidden width, then Dense with bias.

  The head of CVRL (arXiv 2008.03800 §3.1), as in its published code. Without `bn` it is the head of
  MoCo. With `out_bn`, batch norm without scale and bias also normalizes the embeddings, as in
  MoCo v3 (arXiv 2104.02057). `init_kernels` is a key of `INITIALIZERS`; biases start at 0.
  """

  hidden: tuple[int, ...] = (2048, 2048, 2048)
  out: int = 128
  bn_momentum: float = 0.997
  bn_epsilon: float = 1e-5
  bn_groups: int = 1
  dtype: DTypeLike = jnp.float32
  bn: bool = True
  out_bn: bool = False
  reduce_dtype: DTypeLike = jnp.float32
  init_kernels: str = "glorot"

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps features `[N, F]` to embeddings `[N, out]`, float32, not normalized."""
    dense = partial(
      Dense,
      dtype=self.dtype,
      reduce_dtype=self.reduce_dtype,
      kernel_init=INITIALIZERS[self.init_kernels],
    )
    for i, width in enumerate(self.hidden):
      x = dense(width, name=f"dense_{i}")(x)
      if self.bn:
        x = BatchNorm(
          self.bn_momentum, self.bn_epsilon, self.bn_groups, dtype=self.dtype, name=f"norm_{i}"
        )(x, train)
      x = nn.relu(x)
    x = dense(self.out, name="out")(x)
    x = x.astype(jnp.float32)
    if self.out_bn:
      x = BatchNorm(
        self.bn_momentum, self.bn_epsilon, self.bn_groups, affine=False, name="norm_out"
      )(x, train)
    return x


class Classifier(nn.Module):
  """Linear classifier in float32; with `normalize`, on L2-normalized features."""

  classes: int
  normalize: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps features `[N, F]` to logits `[N, classes]`, float32."""
    x = x.astype(jnp.float32)
    if self.normalize:
      # The small constant is inside the root, so that the gradient is finite at x = 0.
      x = x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-12)
    return nn.Dense(self.classes, kernel_init=glorot_uniform, name="out")(x)
