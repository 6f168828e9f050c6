"""Counted FLOPs: against closed forms and against taps counted one by one."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from vssl_jax.planning import arithmetic


def _brute(image, result, kernel, stride, low, dilation, spread):
  """Walks over all outputs and taps, and asks whether there is data."""
  met = 0
  for o, tap in itertools.product(range(result), range(kernel)):
    at = o * stride + tap * spread - low
    met += 0 <= at <= (image - 1) * dilation and at % dilation == 0
  return met


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("low", [-1, 0, 1, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("spread", [1, 2])
def test_taps_equal_those_counted_one_by_one(stride, low, dilation, spread):
  for image, result, kernel in itertools.product((1, 5, 8), (1, 4, 9), (1, 3, 7)):
    got = arithmetic.taps(
      image, result, kernel, stride=stride, low=low, dilation=dilation, kernel_dilation=spread
    )
    assert got == _brute(image, result, kernel, stride, low, dilation, spread)


def test_products_loops_and_branches():
  a, b = jnp.ones((4, 8)), jnp.ones((8, 8))
  one = 2 * 4 * 8 * 8
  assert arithmetic.flops(jnp.matmul, a, b) == one
  assert arithmetic.flops(lambda a, b: lax.scan(lambda c, _: (c @ b, 0), a, length=5)[0], a, b) == (
    5 * one
  )
  branches = [lambda a, b: a @ b, lambda a, b: a @ b @ b]
  assert arithmetic.flops(lambda i, a, b: lax.switch(i, branches, a, b), 0, a, b) == 2 * one
  assert arithmetic.flops(jax.jit(jax.vmap(jnp.matmul, (0, None))), jnp.ones((3, 4, 8)), b) == (
    3 * one
  )


def test_what_no_result_needs_is_left_out():
  a, b = jnp.ones((4, 8)), jnp.ones((8, 8))

  @jax.jit
  def both(a, b):
    return a @ b, b @ b

  def first(a, b):
    return lax.scan(lambda c, _: (both(c, b)[0], 0), a, length=5)[0]

  assert arithmetic.flops(first, a, b) == 5 * 2 * 4 * 8 * 8


def test_a_gradient_costs_two_more_products():
  a, b = jnp.ones((4, 8)), jnp.ones((8, 8))
  grad = jax.value_and_grad(lambda a, b: jnp.sum(jnp.sin(a @ b)), (0, 1))
  assert arithmetic.flops(grad, a, b) == 3 * 2 * 4 * 8 * 8


def test_a_convolution_and_its_gradients_leave_padding_out():
  x, k = jnp.ones((2, 7, 7, 3)), jnp.ones((3, 3, 3, 5))

  def conv(x, k):
    return lax.conv_general_dilated(
      x, k, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  met = _brute(7, 4, 3, 2, 1, 1, 1)  # along one axis
  one = 2 * 2 * met * met * 3 * 5
  assert arithmetic.flops(conv, x, k) == one
  # Each gradient multiplies the same pairs of an output and a tap.
  assert arithmetic.flops(jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 2), (0, 1)), x, k) == 3 * one
