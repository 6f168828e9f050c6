"""3-D convolution, implemented (lowered) by operations that are fast on the backend.

| lowering | value and gradients | `auto` uses it on |
|---|---|---|
| `lax` | one 3-D `lax.conv_general_dilated` | TPU, any other backend |
| `fold` | t×1×1: matrix product; else 2-D convolution of frames, taps as channels | GPU |
| `cpu` | as `fold`, with the 2-D forms and the gradients of `conv_cpu.py` | CPU |

The kernels of the networks are t×1×1 or 1×k×k, except in the stem and R3D-18's 3×3×3, so moving
time into channels costs little. Libraries are fastest at 2-D convolutions: 3-D convolutions run in
scalar loops on CPU, and on GPU in channels-first layout with a transposition before and after. All
lowerings agree up to rounding; in bfloat16 the three taps of a t×1×1 product are rounded before
they are added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vssl_jax.errors import UserError
from vssl_jax.models.layers import conv_cpu, product
from vssl_jax.models.layers.conv_cpu import fold_time
from vssl_jax.models.layers.padding import Padding, Pads, Triple, pads
from vssl_jax.parallel import platform, vary_with

LOWERINGS = ("auto", "lax", "fold", "cpu")

# Keras' "VarianceScaling": scale 1.0, fan-in, truncated normal.
lecun_normal = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
# PySlowFast's and torchvision's "MSRA": He et al., ICCV 2015, by the fan-out.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def fastest(platform: str) -> str:
  """The lowering that `auto` stands for on a platform, see `parallel.platform`."""
  return {"cpu": "cpu", "gpu": "fold"}.get(platform, "lax")


def conv3d(
  x: jax.Array,
  kernel: jax.Array,
  strides: Triple,
  padding: Padding,
  lowering: str = "auto",
  reduce_dtype: DTypeLike = jnp.float32,
) -> jax.Array:
  """Convolves clips.

  Args:
    x: `[N, T, H, W, C]`.
    kernel: `[t, h, w, C, F]`, of the same dtype, or a wider one from which it is rounded.
    strides: In time, height and width.
    padding: See `padding.pads`.
    lowering: One of `LOWERINGS`. `cpu` has a reverse-mode gradient only. `auto` is for programs
      that run on JAX's default device; `build_encoder` replaces it for those of a mesh.
    reduce_dtype: If the kernel is rounded, the dtype in which devices add up its gradient; see
      `product` for GPUs. The lowering `cpu` adds in float32; with bfloat16 it rounds the sum.

  Returns:
    `[N, T', H', W', F]`, of the dtype of `x`.

  Raises:
    UserError: The lowering or the padding is unknown.
  """
  if lowering not in LOWERINGS:
    choices = ", ".join(LOWERINGS)
    raise UserError(f"config.encoder.conv = {lowering!r} is unknown: use {choices}")
  if lowering == "auto":
    lowering = fastest(platform(None))
  pad = cast(Pads, pads(x.shape[1:4], kernel.shape[:3], strides, padding))
  if lowering == "lax":
    return product.convolve(x, kernel, strides, pad, reduce_dtype)
  if lowering == "cpu" and x.dtype == jnp.bfloat16:  # no CPU library supports bfloat16
    straight = kernel.dtype == jnp.float32 == jnp.dtype(reduce_dtype)
    rounded = _rounded(kernel) if straight else kernel.astype(x.dtype).astype(jnp.float32)
    y = conv3d(x.astype(jnp.float32), rounded, strides, pad, "cpu")
    return y.astype(x.dtype)
  if kernel.shape[1:3] == (1, 1) and not any(a or b for a, b in pad[1:]):
    x = x[:, :, :: strides[1], :: strides[2]]
    return _along_time(x, kernel[:, 0, 0], strides[0], pad[0], reduce_dtype)
  if lowering == "fold":
    return _frames(x, kernel, strides, pad, reduce_dtype)
  if x.shape[2] * x.shape[3] <= kernel.shape[1] * kernel.shape[2]:
    return conv_cpu.dense(x, kernel, strides, pad)
  return conv_cpu.convolve(x, *vary_with(x, kernel), strides, pad)


@jax.custom_jvp
def _rounded(x: jax.Array) -> jax.Array:
  """float32 values that bfloat16 has; the gradient passes as it is."""
  return x.astype(jnp.bfloat16).astype(jnp.float32)


@_rounded.defjvp
def _rounded_tangent(primals, tangents):
  return _rounded(*primals), tangents[0]


def _frames(x, kernel, strides, pad, reduce_dtype):
  """Convolves as one 2-D convolution of frames, with temporal taps as channels."""
  x = fold_time(x, kernel.shape[0], strides[0], pad[0])
  kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
  frames = x.reshape(-1, *x.shape[2:])
  y = product.convolve(frames, kernel, strides[1:], pad[1:], reduce_dtype)
  return y.reshape(*x.shape[:2], *y.shape[1:])


def _along_time(x, kernel, stride, pad, reduce_dtype):
  """Convolves along time only, with a kernel `[t, C, F]`, as one matrix product."""
  taps, channels, features = kernel.shape
  if taps > 1 and features <= channels and stride == 1:
    # Few outputs: multiply by all taps at once, then add the shifted results.
    every = kernel.transpose(1, 0, 2).reshape(channels, taps * features)
    y = product.matmul(x, every, reduce_dtype)
    y = jnp.pad(y, ((0, 0), pad, (0, 0), (0, 0), (0, 0)))
    last = y.shape[1] - taps + 1
    return sum(y[:, t : t + last, ..., t * features : (t + 1) * features] for t in range(taps))
  folded = fold_time(x, taps, stride, pad)
  return product.matmul(folded, kernel.reshape(taps * channels, features), reduce_dtype)


class Conv(nn.Module):
  """3-D convolution with parameters `kernel` `[t, h, w, C, features]` and (`use_bias`) `bias`."""

  features: int
  kernel: Triple  # sizes in time, height and width
  strides: Triple = (1, 1, 1)
  padding: Padding = "SAME"
  use_bias: bool = False
  dtype: DTypeLike = jnp.float32  # of the computation and the result
  param_dtype: DTypeLike = jnp.float32
  kernel_init: Callable = lecun_normal
  lowering: str = "auto"
  reduce_dtype: DTypeLike = jnp.float32  # in which devices add up gradients

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Convolves `[N, T, H, W, C]`, giving `[N, T', H', W', features]` in `dtype`."""
    shape = (*self.kernel, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    y = conv3d(
      x.astype(self.dtype), kernel, self.strides, self.padding, self.lowering, self.reduce_dtype
    )
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
      y = product.add(y, bias, self.reduce_dtype)
    return y
