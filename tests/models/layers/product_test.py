"""Products with rounded weights: values and gradients, and the dtype in which gradients leave."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vssl_jax.models.layers import product
from vssl_jax.models.layers.conv import conv3d
from vssl_jax.planning import arithmetic

DTYPES = (jnp.float32, jnp.bfloat16)


def _draw(seed, *shape):
  """Small whole numbers: every product and every sum of them is exact in bfloat16 and float32."""
  return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def _gradients(function, x, w, g):
  y, pull = jax.vjp(function, x, w)
  return (y, *pull(jnp.asarray(g, y.dtype)))


def _equal(got, want):
  for a, b in zip(got, want, strict=True):
    np.testing.assert_array_equal(np.float32(a), np.float32(b))


@pytest.mark.parametrize("reduce_dtype", DTYPES)
def test_a_matrix_product_and_a_bias(reduce_dtype):
  x, w, g, b = _draw(0, 3, 2, 4), _draw(1, 4, 5), _draw(2, 3, 2, 5), _draw(3, 5)
  half = jnp.asarray(x, jnp.bfloat16)
  want = _gradients(jnp.matmul, x, w, g)
  got = _gradients(lambda x, w: product.matmul(x, w, reduce_dtype), half, w, g)
  assert [a.dtype for a in got] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
  _equal(got, want)
  got = _gradients(lambda y, b: product.add(y, b, reduce_dtype), jnp.asarray(g, jnp.bfloat16), b, g)
  assert [a.dtype for a in got] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
  _equal(got, (g + b, g, g.sum((0, 1))))


@pytest.mark.parametrize("reduce_dtype", DTYPES)
@pytest.mark.parametrize(
  ("size", "kernel", "strides", "pads"),
  [
    ((5, 6, 7), (3, 3, 2), (1, 2, 2), ((1, 1), (0, 1), (1, 0))),
    ((4, 5, 5), (2, 1, 3), (3, 1, 2), ((0, 0), (0, 0), (2, 2))),
    ((6, 7), (3, 3), (2, 3), ((1, 0), (1, 1))),
  ],
)
def test_a_convolution_has_the_gradients_of_jax(size, kernel, strides, pads, reduce_dtype):
  x, w = _draw(0, 2, *size, 3), _draw(1, *kernel, 3, 4)
  plain = lambda x, w: product._plain(x, w, strides, pads)
  g = _draw(2, *plain(x, w).shape)
  got = _gradients(
    lambda x, w: product.convolve(x, w, strides, pads, reduce_dtype),
    jnp.asarray(x, jnp.bfloat16),
    w,
    g,
  )
  assert [a.dtype for a in got] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
  _equal(got, _gradients(plain, x, w, g))


def _made_by(platform, function, x, w):
  """Dtypes in which products leave a program for a platform, forward and backward."""
  loss = lambda w, x: jnp.sum(function(x, w).astype(jnp.float32))
  traced = jax.jit(jax.value_and_grad(loss, (0, 1))).trace(w, x)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  found = re.findall(r"stablehlo\.(?:dot_general|convolution)\b.* -> tensor<[\dx]*x(\w+)>", text)
  assert len(found) == 3
  return set(found)


@pytest.mark.parametrize("lowering", ["lax", "fold"])
@pytest.mark.parametrize("kernel", [(3, 1, 1), (1, 3, 3)])
@pytest.mark.parametrize("reduce_dtype", DTYPES)
def test_gradients_of_convolutions_leave_in_the_dtype_asked_for(lowering, kernel, reduce_dtype):
  w, x = _draw(0, *kernel, 3, 4), jnp.asarray(_draw(1, 2, 4, 5, 5, 3), jnp.bfloat16)
  conv = lambda x, w: conv3d(x, w, (1, 1, 1), "SAME", lowering, reduce_dtype)
  asked = {"bf16", "f32" if reduce_dtype == jnp.float32 else "bf16"}
  assert _made_by("tpu", conv, x, w) == _made_by("cpu", conv, x, w) == asked
  # A GPU has no convolution from bfloat16 to float32; it has such matrix products.
  products_alone = lowering == "fold" and kernel == (3, 1, 1)
  assert _made_by("cuda", conv, x, w) == (asked if products_alone else {"bf16"})


def test_a_gradient_costs_two_convolutions():
  """Not a third one, of the values once more, which XLA would have to find out."""
  x = jax.ShapeDtypeStruct((2, 4, 6, 6, 3), jnp.bfloat16)
  w = jax.ShapeDtypeStruct((3, 3, 3, 3, 4), jnp.float32)
  conv = functools.partial(product.convolve, strides=(1, 2, 2), pads=((1, 1),) * 3)
  loss = lambda x, w: jnp.sum(conv(x, w).astype(jnp.float32))
  written = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, w))
  # The value, the gradient of x, and that of w for GPUs and for others.
  assert written.count("conv_general_dilated[") == 4
  forward = arithmetic.flops(conv, x, w)
  assert arithmetic.flops(jax.value_and_grad(loss, (0, 1)), x, w) == 3 * forward > 0


def test_gradients_in_float32_are_those_of_bfloat16_before_rounding():
  """The one number of a sum that bfloat16 cannot hold."""
  x, w = jnp.ones((513, 1), jnp.bfloat16), jnp.ones((1, 1), jnp.float32)
  found = [
    float(jax.grad(lambda w: jnp.sum(product.matmul(x, w, d).astype(jnp.float32)))(w)[0, 0])
    for d in DTYPES
  ]
  assert found == [513.0, 512.0]


def test_the_lowering_for_cpus_passes_the_gradient_as_it_is():
  x, w = jnp.ones((513, 1, 1, 1, 1), jnp.bfloat16), jnp.full((1, 1, 1, 1, 1), 1.001, jnp.float32)
  found = []
  for d in DTYPES:
    conv = lambda w: conv3d(x, w, (1, 1, 1), "SAME", "cpu", d)
    assert float(conv(w)[0, 0, 0, 0, 0]) == 1.0  # the kernel is rounded
    found.append(float(jax.grad(lambda w: jnp.sum(conv(w).astype(jnp.float32)))(w).sum()))
  assert found == [513.0, 512.0]


def test_a_dense_layer_is_flax_s():
  import flax.linen as nn

  x = _draw(0, 3, 4)
  for dtype in (None, jnp.float32, jnp.bfloat16):
    own, other = product.Dense(5, dtype=dtype), nn.Dense(5, dtype=dtype)
    variables = own.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, other.init(jax.random.key(0), x))
    y, want = own.apply(variables, x), other.apply(variables, x)
    assert y.dtype == want.dtype
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("convolves", [False, True])
def test_gradients_within_a_mapped_axis_are_added_up(convolves):
  """`vary_with` marks the weights, whose gradient is then the sum over devices."""
  from jax.sharding import PartitionSpec

  from vssl_jax import parallel

  mesh = parallel.make_mesh(jax.devices()[:2])
  x, w = jnp.asarray(_draw(0, 4, 3), jnp.bfloat16), jnp.asarray(_draw(1, 3, 2))
  rows = PartitionSpec(parallel.AXIS)
  multiply = product.matmul
  if convolves:  # over frames of one pixel
    x, w = x[:, None, None], w[None, None]
    multiply = functools.partial(product.convolve, strides=(1, 1), pads=((0, 0), (0, 0)))

  def loss(w, x):
    return lax.psum(jnp.sum(multiply(x, w).astype(jnp.float32)), parallel.AXIS)

  mapped = jax.shard_map(
    jax.grad(loss), mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=PartitionSpec()
  )
  want = np.float32(x).reshape(4, 3).sum(0)[:, None] * np.ones((1, 2), np.float32)
  np.testing.assert_array_equal(mapped(w, x).reshape(3, 2), want)
