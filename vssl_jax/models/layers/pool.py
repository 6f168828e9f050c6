"""Max pooling, implemented (lowered) by operations that are fast on the backend.

Where convolutions use `lax` (TPU), pooling is XLA's own window operation. Elsewhere that runs in
scalar loops; there, axes are pooled one after the other, and the gradient is a sum of shifted
copies. On TPU that sum would be most of the stem's memory traffic.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.models.layers.conv import fastest
from vssl_jax.models.layers.padding import Padding, Triple, pads
from vssl_jax.parallel import platform

Pair = tuple[int, int]


def max_pool(
  x: jax.Array,
  kernel: Triple,
  strides: Triple,
  padding: Padding = "SAME",
  lowering: str = "auto",
) -> jax.Array:
  """Maximum over windows of `[N, T, H, W, C]`.

  Among equal maxima, the first in row-major order of the window receives the whole gradient, by
  any lowering.

  Args:
    x: `[N, T, H, W, C]`, floating point.
    kernel: sizes of the window in time, height and width.
    strides: in time, height and width.
    padding: see `padding.pads`; the border is minus infinity.
    lowering: the network's lowering of convolutions, see `conv.conv3d`. `lax` uses XLA's windows.

  Returns:
    `[N, T', H', W', C]`, of the same dtype.
  """
  pairs = pads(x.shape[1:4], kernel, strides, padding)
  if lowering == "auto":
    lowering = fastest(platform(None))
  if lowering == "lax" and any(k > 1 or s > 1 for k, s in zip(kernel, strides, strict=True)):
    sides = ((0, 0), *pairs, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *strides, 1), sides)
  # Last axis first, so that among equal maxima the first row wins, and within it the first column.
  for axis in (3, 2, 1):
    k, s, pad = kernel[axis - 1], strides[axis - 1], pairs[axis - 1]
    if k > 1 or s > 1 or any(pad):
      x = _pool(x, axis, k, s, pad)
  return x


def _taps(x, axis, k, s, pad):
  """The window's elements: k slices, each `[..., windows, ...]`."""
  x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), _widen(x.ndim, axis, pad))
  last = (x.shape[axis] - k) // s * s
  return [lax.slice_in_dim(x, i, i + last + 1, s, axis) for i in range(k)]


def _widen(ndim, axis, pad):
  return [(*pad, 0) if i == axis else (0, 0, 0) for i in range(ndim)]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _pool(x, axis: int, k: int, s: int, pad: Pair):
  first, *rest = _taps(x, axis, k, s, pad)
  for tap in rest:
    first = jnp.maximum(first, tap)
  return first


def _forward(x, axis, k, s, pad):
  y = _pool(x, axis, k, s, pad)
  return y, (x, y)


def _backward(axis, k, s, pad, saved, dy):
  x, y = saved
  parts, free = [], True
  for tap in _taps(x, axis, k, s, pad):
    hit = (tap == y) & free
    free = free & ~hit
    parts.append(jnp.where(hit, dy, 0))
  # Padded input u = s·q + r is tap s·a + r of window q − a: sum over a, then over phases r.
  windows, zero = y.shape[axis], jnp.zeros((), dy.dtype)
  rows = windows + -(-k // s) - 1
  dx: jax.Array | int = 0
  for r in range(s):
    phase = jnp.zeros((*y.shape[:axis], rows, *y.shape[axis + 1 :]), dy.dtype)
    for a, part in enumerate(parts[r::s]):
      phase += lax.pad(part, zero, _widen(y.ndim, axis, (a, rows - windows - a)))
    # Interior padding and a sum interleave the phases in one loop, twice as fast as stacking.
    low = r - pad[0]
    high = x.shape[axis] - low - (rows - 1) * s - 1
    sides = _widen(y.ndim, axis, (low, high))
    sides[axis] = (low, high, s - 1)
    dx += lax.pad(phase, zero, sides)
  return (dx,)


_pool.defvjp(_forward, _backward)
