"""Counts the arithmetic of a JAX function from its operations, with loops multiplied out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval


def flops(function: Callable[..., Any], *args: Any) -> int:
  """FLOPs of the matrix products and convolutions of `function(*args)`, without running it.

  Two per multiply-add with data: taps that fall on padding or between the values of a dilated image
  do not count. A loop counts as often as it runs, a branch as its most expensive side. The rest
  (normalization, losses, optimizer) is left out: it is bound by memory, not by arithmetic. What no
  result needs is left out, too.

  Args:
    function: any function that JAX can trace.
    *args: its arguments, or their shapes and dtypes.
  """
  jaxpr = jax.make_jaxpr(function)(*args).jaxpr
  # A gradient by hand has that of a layer's input too, which the first layer does not need.
  used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(used)


def taps(
  image: int,
  result: int,
  kernel: int,
  *,
  stride: int = 1,
  low: int = 0,
  dilation: int = 1,
  kernel_dilation: int = 1,
) -> int:
  """The number of pairs of an output and a tap along one axis in which the tap meets data.

  Args:
    image: length of the input.
    result: length of the output.
    kernel: number of taps.
    stride: of the window.
    low: padding before the input; negative to cut.
    dilation: distance of the values of the input (in a transposed convolution, its stride).
    kernel_dilation: distance of the taps.
  """
  total = 0
  for tap in range(kernel):
    shift = tap * kernel_dilation - low
    # Outputs o with 0 <= o stride + shift <= (image - 1) dilation, and divisible by the dilation.
    last = min(result - 1, ((image - 1) * dilation - shift) // stride)
    first = max(0, -(shift // stride))
    if dilation == 1:
      total += max(0, last - first + 1)
    else:
      total += sum((o * stride + shift) % dilation == 0 for o in range(first, last + 1))
  return total


def _count(jaxpr: core.Jaxpr) -> int:
  return sum(_of_equation(e) for e in jaxpr.eqns)


def _of_equation(e: Any) -> int:
  name, p = e.primitive.name, e.params
  if name == "dot_general":
    (contracted, _), _ = p["dimension_numbers"]
    summed = math.prod(e.invars[0].aval.shape[a] for a in contracted)
    return 2 * math.prod(e.outvars[0].aval.shape) * summed
  if name == "conv_general_dilated":
    return _of_convolution(e)
  if name == "cond":
    return max(_count(b.jaxpr) for b in p["branches"])
  if name == "shard_map":  # its body is the program of one device
    return _count(_open(p["jaxpr"])) * math.prod(p["mesh"].shape.values())
  times = p["length"] if name == "scan" else 1
  inner = [_open(j) for j in jax.tree.leaves(p, is_leaf=_is_jaxpr) if _is_jaxpr(j)]
  return times * sum(map(_count, inner))


def _is_jaxpr(x: Any) -> bool:
  return isinstance(x, core.Jaxpr | core.ClosedJaxpr)


def _open(x: Any) -> core.Jaxpr:
  return x.jaxpr if isinstance(x, core.ClosedJaxpr) else x


def _of_convolution(e: Any) -> int:
  p, (image, kernel) = e.params, (v.aval.shape for v in e.invars)
  result, numbers = e.outvars[0].aval.shape, p["dimension_numbers"]
  (_, _, *of_image), (_, in_axis, *of_kernel) = numbers.lhs_spec, numbers.rhs_spec
  batch, features, *of_result = numbers.out_spec
  met = 1
  for i, axis in enumerate(of_image):
    met *= taps(
      image[axis],
      result[of_result[i]],
      kernel[of_kernel[i]],
      stride=p["window_strides"][i],
      low=p["padding"][i][0],
      dilation=p["lhs_dilation"][i],
      kernel_dilation=p["rhs_dilation"][i],
    )
  return 2 * result[batch] * result[features] * kernel[in_axis] * met
