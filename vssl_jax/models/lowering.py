"""2-D convolution as a CPU does it well: value and gradient from a few fast forms.

XLA lowers a convolution to Eigen on CPU only in its plainest form. The gradients that JAX derives
(dilated inputs, a window as large as the image) fall back to scalar loops, a hundred times slower.
Here the gradients are plain convolutions again:

* input gradient: every output pixel of a stride-s convolution's transpose belongs to one of s×s
  phases, each a stride-1 convolution of `dy`; one convolution yields all phases as channels, which
  are then interleaved;
* kernel gradient: a convolution with batch and channels exchanged, over chunks of the batch that
  fit in cache, summed in float32;
* an image no larger than the kernel: one matrix product, which skips the taps that fall outside.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
NHWC = ("NHWC", "HWIO", "NHWC")

# Bytes of unfolded patches that one call may touch. Eigen packs them into fresh memory: beyond
# the last-level cache the call costs twice as much.
FORWARD_BYTES = 12 << 20
GRADIENT_BYTES = 6 << 20
PACKET = 8  # floats in a vector register; channels are padded to it


def _plain(x, kernel, strides=(1, 1), pads=((0, 0), (0, 0)), dilation=(1, 1)):
  return lax.conv_general_dilated(
    x, kernel, strides, pads, rhs_dilation=dilation, dimension_numbers=NHWC
  )


def _chunks(rows: int, row_bytes: int, limit: int, multiple: int = 1) -> int:
  """The smallest divisor of `rows` that brings a chunk of rows under `limit` bytes."""
  for count in range(1, rows + 1):
    if rows % count == 0 and rows // count * row_bytes <= limit:
      return count if (rows // count) % multiple == 0 else max(1, count)
  return rows


def _split(x: jax.Array, count: int) -> jax.Array:
  """`[B, ...]` to `[count, B / count, ...]`, chunk i holding rows i, i + count, ...

  Strided, so that every device of a sharded batch has its share of each chunk.
  """
  return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)


def _convolve(x, kernel, strides, pads):
  """Stride-any convolution without dilation, chunked over the batch."""
  kh, kw, channels, _ = kernel.shape
  if channels % PACKET and channels > PACKET:
    extra = -channels % PACKET
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, extra)))
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, extra), (0, 0)))
  out = [
    (s + sum(p) - k) // d + 1
    for s, p, k, d in zip(x.shape[1:3], pads, (kh, kw), strides, strict=True)
  ]
  row_bytes = 4 * math.prod(out) * math.prod(kernel.shape[:3])
  total = row_bytes * x.shape[0]
  count = _chunks(x.shape[0], row_bytes, FORWARD_BYTES) if total > 8 * FORWARD_BYTES else 1
  if count == 1:
    return _plain(x, kernel, strides, pads)
  y = lax.map(lambda part: _plain(part, kernel, strides, pads), _split(x, count))
  return jnp.swapaxes(y, 0, 1).reshape(x.shape[0], *y.shape[2:])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
  """Convolves `[B, H, W, C]` with `[h, w, C, F]`, giving `[B, H', W', F]`."""
  return _convolve(x, kernel, strides, pads)


def _forward(x, kernel, strides, pads):
  return _convolve(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, saved, dy):
  x, kernel = saved
  return input_gradient(dy, kernel, x.shape, strides, pads), kernel_gradient(
    x, dy, kernel.shape, strides, pads
  )


convolve.defvjp(_forward, _backward)


def input_gradient(dy, kernel, shape, strides: Pair, pads: Pads) -> jax.Array:
  """Gradient `[B, H, W, C]` of `shape` with respect to a convolution's input.

  Padded input row u = s·q + r receives dy[q − a] · kernel[s·a + r] over taps a: for each phase r
  a stride-1 convolution of `dy` with the reversed taps of that phase.
  """
  kh, kw, channels, features = kernel.shape
  sh, sw = strides
  ah, aw = -(-kh // sh), -(-kw // sw)
  kernel = jnp.pad(kernel, ((0, ah * sh - kh), (0, aw * sw - kw), (0, 0), (0, 0)))
  kernel = kernel.reshape(ah, sh, aw, sw, channels, features)[::-1, :, ::-1]
  kernel = kernel.transpose(0, 2, 5, 1, 3, 4).reshape(ah, aw, features, sh * sw * channels)
  qh = -(-(shape[1] + sum(pads[0])) // sh)
  qw = -(-(shape[2] + sum(pads[1])) // sw)
  border = ((ah - 1, qh - dy.shape[1]), (aw - 1, qw - dy.shape[2]))
  if strides == (1, 1):
    # Compute only the rows that the crop below would keep.
    border = tuple((lo - p[0], hi - p[1]) for (lo, hi), p in zip(border, pads, strict=True))
    return _convolve(dy, kernel, (1, 1), border)
  dx = _convolve(dy, kernel, (1, 1), border).reshape(-1, qh, qw, sh, sw, channels)
  dx = dx.transpose(0, 1, 3, 2, 4, 5).reshape(-1, qh * sh, qw * sw, channels)
  top, left = pads[0][0], pads[1][0]
  return dx[:, top : top + shape[1], left : left + shape[2]]


def kernel_gradient(x, dy, shape, strides: Pair, pads: Pads) -> jax.Array:
  """Gradient `[h, w, C, F]` of `shape` with respect to a convolution's kernel."""
  kh, kw, channels, features = shape
  extra = -channels % PACKET if channels > PACKET else 0
  hi = [
    k + s * (o - 1) - i - p[0]
    for k, s, o, i, p in zip((kh, kw), strides, dy.shape[1:3], x.shape[1:3], pads, strict=True)
  ]
  border = ((pads[0][0], hi[0]), (pads[1][0], hi[1]))

  def partial_sum(x, dy):
    rows = -x.shape[0] % PACKET
    x, dy = (jnp.pad(a, ((0, rows), (0, 0), (0, 0), (0, 0))) for a in (x, dy))
    dk = _plain(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), pads=border, dilation=strides)
    return dk.transpose(1, 2, 0, 3)

  row_bytes = 4 * dy.shape[1] * dy.shape[2] * math.prod(shape[:3])
  count = _chunks(x.shape[0], row_bytes, GRADIENT_BYTES)
  if count == 1:
    return partial_sum(x, dy)
  total, _ = lax.scan(
    lambda total, part: (total + partial_sum(*part), None),
    jnp.zeros(shape, x.dtype),
    (_split(x, count), _split(dy, count)),
  )
  return total


def dense(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
  """The same convolution as one product of `[B, H·W·C]` with `[H·W·C, H'·W'·F]`.

  Fewer operations than one product a tap where the image is no larger than the kernel.
  """
  taps, out = [], []
  for size, k, s, (lo, hi) in zip(x.shape[1:3], kernel.shape[:2], strides, pads, strict=True):
    out.append((size + lo + hi - k) // s + 1)
    tap = np.arange(size)[:, None] + lo - s * np.arange(out[-1])[None]
    taps.append(tap[..., None] == np.arange(k))
  select = np.einsum("him,wjn->hwijmn", *taps).reshape(-1, kernel.shape[0] * kernel.shape[1])
  channels, features = kernel.shape[2:]
  image, result = x.shape[1] * x.shape[2], out[0] * out[1]
  matrix = jnp.asarray(select, x.dtype) @ kernel.reshape(-1, channels * features)
  matrix = matrix.reshape(image, result, channels, features).transpose(0, 2, 1, 3)
  y = x.reshape(-1, image * channels) @ matrix.reshape(image * channels, -1)
  return y.reshape(-1, *out, features)
