"""Fast 3-D convolution on CPUs: value and gradients from a few fast 2-D operations.

XLA passes a convolution to its CPU libraries only in the simplest case: 2-D, channels last, no
input dilation, and no window larger than the image. All other convolutions, including the gradients
that JAX derives, run in scalar loops that are a hundred times slower. Here everything is a simple
2-D convolution or a matrix product:

* temporal taps become input channels, frames become rows of the batch;
* gradient of the input: each pixel belongs to one of stride × stride phases, and each phase is a
  stride-1 convolution of `dy`; one convolution computes all phases as channels, which are then
  interleaved;
* gradient of the kernel: a convolution with batch and channels exchanged;
* an image no larger than the kernel: one matrix product, without the taps outside of the image.

Large calls are split into chunks of clips, see `PATCH_BYTES`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vssl_jax.models.layers.padding import Pads, Pair, Triple, output_size
from vssl_jax.parallel import vary_with

# The libraries unfold patches into newly allocated memory. Up to about 30 MB the allocator reuses
# the same pages; above, every call needs new pages and takes three times as long.
PATCH_BYTES = 24 << 20
# The smallest number of frames, and of pixels, for an efficient chunk of the kernel's gradient.
PATCH_ROWS, PATCH_PIXELS = 16, 1024
PACKET = 8  # floats in a vector register; channels and rows are padded to it


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, strides: Triple, pads: Pads) -> jax.Array:
  """Convolves `[N, T, H, W, C]` with `[t, h, w, C, F]`, giving `[N, T', H', W', F]`."""
  rows, out = x.shape[0], output_size(x.shape[1:4], kernel.shape[:3], strides, pads)
  folded = _fold_kernel(kernel)

  def chunk(x):
    z = _fold(x, kernel.shape[0], strides[0], pads[0])
    y = _plain(z, folded, strides[1:], pads[1:])
    return y.reshape(-1, *out, y.shape[-1])

  count = _count(rows, 4 * math.prod(out) * math.prod(folded.shape[:3]), rows)
  return _by_chunks(chunk, (x,), count, (*out, kernel.shape[-1]))


def _forward(x, kernel, strides, pads):
  return convolve(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, saved, dy):
  x, kernel = saved
  dx = input_gradient(dy, kernel, x.shape, strides, pads)
  return dx, kernel_gradient(x, dy, kernel.shape, strides, pads)


convolve.defvjp(_forward, _backward)


def fold_time(x: jax.Array, taps: int, stride: int, pad: Pair) -> jax.Array:
  """Moves temporal taps into channels: `[N, T, H, W, C]` to `[N, T', H, W, taps·C]`."""
  if any(pad):
    x = jnp.pad(x, ((0, 0), pad, (0, 0), (0, 0), (0, 0)))
  last = x.shape[1] - taps
  if taps == 1:
    return x[:, ::stride]
  return jnp.concatenate([x[:, t : t + last + 1 : stride] for t in range(taps)], -1)


def unfold_time(z: jax.Array, taps: int, stride: int, pad: Pair, size: int) -> jax.Array:
  """The transpose of `fold_time`: sums `[N, T', H, W, taps·C]` into `[N, size, H, W, C]`."""
  total: Any = 0
  zero, frames = jnp.zeros((), z.dtype), z.shape[1]
  for t, part in enumerate(jnp.split(z, taps, axis=-1)):
    low = t - pad[0]
    high = size - low - (frames - 1) * stride - 1
    sides = [(0, 0, 0), (low, high, stride - 1), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    total += lax.pad(part, zero, sides)
  return total


def _extra(channels: int) -> int:
  return -channels % PACKET if channels > PACKET else 0


def _fold(x, taps, stride, pad):
  """Frames `[N·T', H, W, taps·C]`, channels padded to whole packets."""
  x = fold_time(x, taps, stride, pad)
  x = x.reshape(-1, *x.shape[2:])
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, _extra(x.shape[-1]))))


def _fold_kernel(kernel):
  """`[t, h, w, C, F]` to `[h, w, t·C, F]`, channels padded to whole packets."""
  kernel = kernel.transpose(1, 2, 0, 3, 4)
  kernel = kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])
  return jnp.pad(kernel, ((0, 0), (0, 0), (0, _extra(kernel.shape[2])), (0, 0)))


def _plain(x, kernel, strides=(1, 1), pads=((0, 0), (0, 0)), dilation=(1, 1)):
  """A 2-D convolution that XLA passes to the CPU libraries: output no larger than the input."""
  # Negative padding crops. Explicit padding allows a window as large as the padded image.
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)))
  return lax.conv_general_dilated(
    x, kernel, strides, "VALID", rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _count(rows: int, row_bytes: int, most: int) -> int:
  """The smallest number of equal chunks of at most `most` rows and `PATCH_BYTES` bytes."""
  most = max(1, min(most, PATCH_BYTES // row_bytes))
  return next(count for count in range(1, rows + 1) if rows % count == 0 and rows // count <= most)


def _chunk(x: jax.Array, index: jax.Array, count: int) -> jax.Array:
  """Rows `index`, `index + count`, ... of `[N, ...]`.

  The rows are strided, so that every device of a sharded batch has an equal part of each chunk.
  """
  x = x.reshape(-1, count, *x.shape[1:])
  return lax.dynamic_index_in_dim(x, index, 1, keepdims=False)


def _by_chunks(function, arrays, count, shape):
  """Applies `function` to chunks of rows of `arrays`; `shape` is the shape of one output row."""
  if count == 1:
    return function(*arrays)
  rows = arrays[0].shape[0]

  def body(index, y):
    part = function(*(_chunk(a, index, count) for a in arrays))
    return lax.dynamic_update_index_in_dim(y, part, index, 1)

  y = jnp.zeros((rows // count, count, *shape), arrays[0].dtype)
  return lax.fori_loop(0, count, body, *vary_with(arrays[0], y)).reshape(rows, *shape)


def input_gradient(dy, kernel, shape, strides: Triple, pads: Pads) -> jax.Array:
  """Gradient `[N, T, H, W, C]` of `shape` with respect to a convolution's input.

  Padded input row u = s·q + r receives the sum of dy[q − a] · kernel[s·a + r] over taps a. So each
  phase r is a stride-1 convolution of `dy` with the reversed taps of that phase.
  """
  taps, kh, kw, channels, features = kernel.shape
  sh, sw = strides[1:]
  ah, aw = -(-kh // sh), -(-kw // sw)
  phases = jnp.pad(kernel, ((0, 0), (0, ah * sh - kh), (0, aw * sw - kw), (0, 0), (0, 0)))
  phases = phases.reshape(taps, ah, sh, aw, sw, channels, features)[:, ::-1, :, ::-1]
  phases = phases.transpose(1, 3, 6, 2, 4, 0, 5).reshape(ah, aw, features, -1)
  border, crop = [], []  # only the q that hold rows of the unpadded input
  for size, out, a, s, (lo, _) in zip(
    shape[2:4], dy.shape[2:4], (ah, aw), (sh, sw), pads[1:], strict=True
  ):
    first, last = lo // s, (size - 1 + lo) // s
    border.append((a - 1 - first, last - out + 1))
    crop.append(slice(lo - first * s, lo - first * s + size))
  z = _plain(dy.reshape(-1, *dy.shape[2:]), phases, pads=border)
  z = z.reshape(-1, *z.shape[1:3], sh, sw, taps * channels).transpose(0, 1, 3, 2, 4, 5)
  z = z.reshape(z.shape[0], z.shape[1] * sh, z.shape[3] * sw, -1)[:, crop[0], crop[1]]
  return unfold_time(z.reshape(*dy.shape[:2], *z.shape[1:]), taps, strides[0], pads[0], shape[1])


def kernel_gradient(x, dy, shape, strides: Triple, pads: Pads) -> jax.Array:
  """Gradient `[t, h, w, C, F]` of `shape` with respect to a convolution's kernel."""
  taps, kh, kw, channels, features = shape
  frames = dy.shape[1]
  border = [
    (pad[0], k + s * (out - 1) - size - pad[0])
    for k, s, out, size, pad in zip(
      (kh, kw), strides[1:], dy.shape[2:4], x.shape[2:4], pads[1:], strict=True
    )
  ]

  def chunk(x, dy):
    z = fold_time(x, taps, strides[0], pads[0])
    z = z.reshape(-1, *z.shape[2:]).transpose(3, 1, 2, 0)
    d = dy.reshape(-1, *dy.shape[2:]).transpose(1, 2, 0, 3)
    rows = -z.shape[-1] % PACKET
    z = jnp.pad(z, ((0, 0), (0, 0), (0, 0), (0, rows)))
    d = jnp.pad(d, ((0, 0), (0, 0), (0, rows), (0, 0)))
    return _plain(z, d, pads=border, dilation=strides[1:])

  row_bytes = 4 * math.prod(dy.shape[1:4]) * math.prod(shape[:4])
  most = max(PATCH_ROWS, PATCH_PIXELS // math.prod(dy.shape[2:4])) // frames
  count = _count(x.shape[0], row_bytes, most)
  if count == 1:
    total = chunk(x, dy)
  else:
    total = lax.fori_loop(
      0,
      count,
      lambda i, total: total + chunk(_chunk(x, i, count), _chunk(dy, i, count)),
      *vary_with(x, jnp.zeros((taps * channels, kh, kw, features), x.dtype)),
    )
  return total.reshape(taps, channels, kh, kw, features).transpose(0, 2, 3, 1, 4)


def dense(x: jax.Array, kernel: jax.Array, strides: Triple, pads: Pads) -> jax.Array:
  """The same convolution as one matrix product, `[.., t·H·W·C]` by `[t·H·W·C, H'·W'·F]`.

  Needs fewer operations than one product per tap if the image is no larger than the kernel.
  """
  x = fold_time(x, kernel.shape[0], strides[0], pads[0])
  kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
  taps, out = [], output_size(x.shape[2:4], kernel.shape[:2], strides[1:], pads[1:])
  for size, k, s, pad, n in zip(
    x.shape[2:4], kernel.shape[:2], strides[1:], pads[1:], out, strict=True
  ):
    tap = np.arange(size)[:, None] + pad[0] - s * np.arange(n)[None]
    taps.append(tap[..., None] == np.arange(k))
  select = np.einsum("him,wjn->hwijmn", *taps).reshape(-1, kernel.shape[0] * kernel.shape[1])
  channels, features = kernel.shape[2:]
  image, result = x.shape[2] * x.shape[3], math.prod(out)
  matrix = jnp.asarray(select, x.dtype) @ kernel.reshape(-1, channels * features)
  matrix = matrix.reshape(image, result, channels, features).transpose(0, 2, 1, 3)
  y = x.reshape(-1, image * channels) @ matrix.reshape(image * channels, -1)
  return y.reshape(*x.shape[:2], *out, features)
