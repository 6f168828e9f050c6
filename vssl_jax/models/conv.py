"""One 3-D convolution, lowered to what the backend does well."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.models import lowering as cpu
from vssl_jax.models.padding import Padding, Triple, pads
from vssl_jax.models.varying import vary_with

LOWERINGS = ("auto", "lax", "fold", "cpu")

# Keras' "VarianceScaling": scale 1.0, fan-in, truncated normal.
lecun_normal = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def conv3d(
  x: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding, lowering: str = "auto"
) -> jax.Array:
  """Convolves `[N, T, H, W, C]` with `[t, h, w, C, F]`, giving `[N, T', H', W', F]`."""
  pad = pads(x.shape[1:4], kernel.shape[:3], strides, padding)
  if lowering == "auto":
    lowering = {"cpu": "cpu", "gpu": "fold"}.get(jax.default_backend(), "lax")
  if lowering == "lax":
    return lax.conv_general_dilated(
      x, kernel, strides, pad, dimension_numbers=("NTHWC", "THWIO", "NTHWC")
    )
  if lowering == "cpu" and x.dtype == jnp.bfloat16:
    y = conv3d(x.astype(jnp.float32), kernel.astype(jnp.float32), strides, pad, "cpu")
    return y.astype(x.dtype)
  if kernel.shape[1:3] == (1, 1) and not any(a or b for a, b in pad[1:]):
    x = x[:, :, :: strides[1], :: strides[2]]
    return _time_matmul(x, kernel[:, 0, 0], strides[0], pad[0])
  if lowering == "cpu":
    if x.shape[2] * x.shape[3] <= kernel.shape[1] * kernel.shape[2]:
      return cpu.dense(x, kernel, strides, pad)
    return cpu.convolve(x, *vary_with(x, kernel), strides, pad)
  x = cpu.fold_time(x, kernel.shape[0], strides[0], pad[0])
  kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
  y = lax.conv_general_dilated(
    x.reshape(-1, *x.shape[2:]),
    kernel,
    strides[1:],
    pad[1:],
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return y.reshape(*x.shape[:2], *y.shape[1:])


def _time_matmul(x, kernel, stride, pad):
  """Convolves along time alone with `[t, C, F]`, as one matrix product."""
  taps, channels, features = kernel.shape
  if taps > 1 and features <= channels and stride == 1:
    # Few outputs: multiply by all taps at once, then add the shifted results.
    y = x @ kernel.transpose(1, 0, 2).reshape(channels, taps * features)
    y = jnp.pad(y, ((0, 0), pad, (0, 0), (0, 0), (0, 0)))
    last = y.shape[1] - taps + 1
    return sum(y[:, t : t + last, ..., t * features : (t + 1) * features] for t in range(taps))
  return cpu.fold_time(x, taps, stride, pad) @ kernel.reshape(taps * channels, features)


class Conv(nn.Module):
  """3-D convolution with a channels-last kernel `kernel` `[t, h, w, in, out]`."""

  features: int
  kernel: Triple
  strides: Triple = (1, 1, 1)
  padding: Padding = "SAME"
  use_bias: bool = False
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  kernel_init: Callable = lecun_normal
  lowering: str = "auto"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Convolves `[N, T, H, W, C]`, giving `[N, T', H', W', features]` in `dtype`."""
    shape = (*self.kernel, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    y = conv3d(
      x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding, self.lowering
    )
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
      y = y + bias.astype(self.dtype)
    return y
