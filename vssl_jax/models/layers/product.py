"""Products with weights, whose gradients the devices add up in a dtype that the caller chooses.

Each device has the gradient of its own rows of a batch. XLA adds these parts up right after the
product that makes them, in the dtype of its result. So that dtype is chosen here: `jax.grad` alone
takes that of the activations, except where a loop over clips adds in float32 first.

Weights are given in their own dtype, and rounded to that of the activations for the product.

On NVIDIA GPUs, the gradient of a convolution leaves in the dtype of the activations, whatever is
asked for: cuDNN has no convolution of bfloat16 that gives float32, so XLA would convert the
activations, which takes memory, and convolve in float32, which takes twice as long.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from vssl_jax.parallel import vary_with

_Pads = Sequence[tuple[int, int]]


def matmul(x: jax.Array, w: jax.Array, reduce_dtype: DTypeLike = jnp.float32) -> jax.Array:
  """The product x w for x `[..., K]` and w `[K, F]`, in the dtype of x."""
  if x.dtype == w.dtype:
    return x @ w
  return _matmul(x, *vary_with(x, w), reduce_dtype)


def convolve(
  x: jax.Array,
  w: jax.Array,
  strides: Sequence[int],
  pads: _Pads,
  reduce_dtype: DTypeLike = jnp.float32,
) -> jax.Array:
  """Convolves x `[N, ..., C]` with w `[..., C, F]` over the two or three axes between."""
  if x.dtype == w.dtype:
    return _plain(x, w, strides, pads)
  return _convolve(x, *vary_with(x, w), tuple(strides), tuple(pads), reduce_dtype)


def add(x: jax.Array, bias: jax.Array, reduce_dtype: DTypeLike = jnp.float32) -> jax.Array:
  """The sum x + bias for x `[..., F]` and bias `[F]`, in the dtype of x."""
  if x.dtype == bias.dtype:
    return x + bias
  return _add(x, *vary_with(x, bias), reduce_dtype)


class Dense(nn.Dense):
  """Flax's dense layer; `reduce_dtype` is the dtype in which devices add up its gradients."""

  reduce_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps `[..., K]` to `[..., features]`."""
    shape = (inputs.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    x = inputs.astype(self.dtype or jnp.result_type(inputs, kernel))
    y = matmul(x, kernel, self.reduce_dtype)
    if not self.use_bias:
      return y
    bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
    return add(y, bias, self.reduce_dtype)


def _added(gradient: jax.Array, dtype: DTypeLike) -> jax.Array:
  """A gradient whose parts are added up here, and not after a conversion or a loop."""
  small = jnp.dtype(dtype).itemsize < 4
  return lax.optimization_barrier(gradient) if small else gradient


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: jax.Array, w: jax.Array, reduce_dtype: DTypeLike) -> jax.Array:
  del reduce_dtype
  return x @ w.astype(x.dtype)


def _matmul_forward(x: jax.Array, w: jax.Array, reduce_dtype: DTypeLike) -> Any:
  return _matmul(x, w, reduce_dtype), (x, w)


def _matmul_backward(reduce_dtype: DTypeLike, saved: Any, g: jax.Array) -> Any:
  x, w = saved
  rows = tuple(range(x.ndim - 1))
  dw = lax.dot_general(x, g, ((rows, rows), ((), ())), preferred_element_type=reduce_dtype)
  return g @ w.astype(x.dtype).T, _added(dw, reduce_dtype).astype(w.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _plain(x: jax.Array, w: jax.Array, strides: Sequence[int], pads: _Pads) -> jax.Array:
  axes = "THW"[-(x.ndim - 2) :]
  numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
  return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=numbers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(
  x: jax.Array, w: jax.Array, strides: Sequence[int], pads: _Pads, reduce_dtype: DTypeLike
) -> jax.Array:
  del reduce_dtype
  return _plain(x, w.astype(x.dtype), strides, pads)


def _convolve_forward(
  x: jax.Array, w: jax.Array, strides: Sequence[int], pads: _Pads, reduce_dtype: DTypeLike
) -> Any:
  return _convolve(x, w, strides, pads, reduce_dtype), (x, w)


def _convolve_backward(
  strides: Sequence[int], pads: _Pads, reduce_dtype: DTypeLike, saved: Any, g: jax.Array
) -> Any:
  x, w = saved
  kernel = w.astype(x.dtype)
  # The transpose, because the gradient of a function computes the function too.
  (dx,) = jax.linear_transpose(lambda x: _plain(x, kernel, strides, pads), x)(g)
  # The kernel's gradient is x convolved with g, where videos are summed over as channels are else.
  axes = "THW"[-(x.ndim - 2) :]
  sizes = zip(w.shape, x.shape[1:-1], g.shape[1:-1], strides, pads, strict=False)
  ends = [(low, k - n - low + (m - 1) * s) for k, n, m, s, (low, _) in sizes]

  def correlate(x: jax.Array, g: jax.Array, dtype: DTypeLike) -> jax.Array:
    dw = lax.conv_general_dilated(
      x,
      g,
      (1,) * len(axes),
      ends,
      rhs_dilation=strides,
      dimension_numbers=(f"C{axes}N", f"I{axes}O", f"{axes}NC"),
      preferred_element_type=dtype,
    )
    return _added(dw, dtype).astype(w.dtype)

  dw = lax.platform_dependent(
    x,
    g,
    cuda=functools.partial(correlate, dtype=x.dtype),
    default=functools.partial(correlate, dtype=reduce_dtype),
  )
  return dx, dw


_convolve.defvjp(_convolve_forward, _convolve_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _add(x: jax.Array, bias: jax.Array, reduce_dtype: DTypeLike) -> jax.Array:
  del reduce_dtype
  return x + bias.astype(x.dtype)


def _add_forward(x: jax.Array, bias: jax.Array, reduce_dtype: DTypeLike) -> Any:
  return _add(x, bias, reduce_dtype), bias


def _add_backward(reduce_dtype: DTypeLike, bias: jax.Array, g: jax.Array) -> Any:
  # Within a device the sum is in float32 either way.
  total = g.astype(jnp.float32).sum(tuple(range(g.ndim - 1)))
  return g, _added(total.astype(reduce_dtype), reduce_dtype).astype(bias.dtype)


_add.defvjp(_add_forward, _add_backward)
