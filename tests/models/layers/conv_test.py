"""Every lowering against a convolution written out in NumPy float64, value and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.models.layers import conv_cpu
from vssl_jax.models.layers.conv import Conv, conv3d
from vssl_jax.models.layers.padding import output_size, pads

# kernel, strides, padding, (T, H, W), (C, F)
CASES = [
  ((5, 7, 7), (2, 2, 2), "SAME", (4, 9, 8), (3, 16)),  # the stem
  ((1, 7, 7), (1, 2, 2), "symmetric", (2, 8, 9), (3, 5)),  # the slow pathway's
  ((1, 1, 1), (1, 1, 1), "SAME", (2, 3, 4), (5, 3)),
  ((1, 1, 1), (1, 2, 2), "SAME", (2, 5, 4), (3, 6)),  # a shortcut
  ((3, 1, 1), (1, 1, 1), "SAME", (4, 2, 3), (8, 3)),  # fewer features than channels
  ((3, 1, 1), (1, 1, 1), "SAME", (3, 2, 3), (3, 8)),
  ((3, 1, 1), (2, 1, 1), "SAME", (5, 2, 2), (6, 4)),
  ((1, 3, 3), (1, 1, 1), "SAME", (2, 6, 5), (9, 20)),  # channels padded to packets
  ((1, 3, 3), (1, 2, 2), "SAME", (2, 7, 8), (4, 6)),
  ((1, 3, 3), (1, 2, 2), "symmetric", (2, 8, 7), (17, 3)),
  ((3, 3, 3), (1, 2, 2), "SAME", (3, 5, 6), (4, 5)),
  ((3, 3, 3), (1, 1, 1), "SAME", (2, 2, 3), (3, 5)),  # an image smaller than the kernel
  ((3, 3, 3), (1, 2, 2), "symmetric", (3, 3, 2), (3, 4)),
  ((5, 1, 1), (4, 1, 1), "symmetric", (8, 2, 3), (4, 8)),  # a lateral connection
  ((7, 1, 1), (2, 1, 1), "symmetric", (5, 2, 2), (6, 6)),  # more taps than frames
  ((1, 1, 1), (2, 2, 2), "symmetric", (5, 4, 3), (3, 6)),  # a shortcut through time
  ((3, 3, 3), (2, 2, 2), "symmetric", (5, 6, 5), (4, 3)),
  ((2, 3, 2), (1, 3, 2), "VALID", (4, 8, 7), (2, 3)),  # rows that no window reaches
  ((3, 5, 3), (2, 3, 1), ((2, 0), (3, 4), (0, 1)), (4, 6, 5), (2, 4)),
]


def _arrays(kernel, strides, padding, size, channels, rows=3):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(rows, *size, channels[0]))
  k = rng.normal(size=(*kernel, *channels))
  out = output_size(size, kernel, strides, pads(size, kernel, strides, padding))
  return x, k, rng.normal(size=(rows, *out, channels[1]))


def _oracle(x, k, dy, strides, pad):
  """y, dx and dk, tap by tap."""
  wide = np.pad(x, ((0, 0), *pad, (0, 0)))
  y, dwide, dk = np.zeros(dy.shape), np.zeros(wide.shape), np.zeros(k.shape)
  for tap in np.ndindex(k.shape[:3]):
    steps = zip(tap, dy.shape[1:4], strides, strict=True)
    window = (slice(None), *(slice(a, a + (n - 1) * s + 1, s) for a, n, s in steps))
    y += wide[window] @ k[tap]
    dwide[window] += dy @ k[tap].T
    dk[tap] = np.einsum("nthwc,nthwf->cf", wide[window], dy)
  inner = tuple(slice(lo, n - hi) for (lo, hi), n in zip(pad, wide.shape[1:4], strict=True))
  return y, dwide[(slice(None), *inner)], dk


def _run(x, k, dy, strides, padding, lowering):
  def both(x, k, dy):
    y, vjp = jax.vjp(lambda x, k: conv3d(x, k, strides, padding, lowering), x, k)
    return y, *vjp(dy)

  return jax.jit(both)(*(jnp.asarray(a, jnp.float32) for a in (x, k, dy)))


def _check(got, want, tolerance=3e-6):
  for name, a, b in zip(("y", "dx", "dk"), got, want, strict=True):
    scale = np.abs(b).max()
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("lowering", ["cpu", "fold"])
def test_value_and_gradients(case, lowering):
  kernel, strides, padding, size, _ = case
  x, k, dy = _arrays(*case)
  want = _oracle(x, k, dy, strides, pads(size, kernel, strides, padding))
  _check(_run(x, k, dy, strides, padding, lowering), want)


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_plain_lowering(case):
  kernel, strides, padding, size, _ = case
  x, k, dy = _arrays(*case)
  want = _oracle(x, k, dy, strides, pads(size, kernel, strides, padding))
  _check(_run(x, k, dy, strides, padding, "lax"), want)


@pytest.mark.parametrize("case", [CASES[0], CASES[8], CASES[10]], ids=str)
def test_chunks_change_nothing(case, monkeypatch):
  kernel, strides, padding, size, _ = case
  monkeypatch.setattr(conv_cpu, "PATCH_BYTES", 1)
  monkeypatch.setattr(conv_cpu, "PATCH_PIXELS", 1)
  x, k, dy = _arrays(*case, rows=6)
  want = _oracle(x, k, dy, strides, pads(size, kernel, strides, padding))
  _check(_run(x, k, dy, strides, padding, "cpu"), want)


def test_float64_to_its_own_rounding():
  kernel, strides, padding, size, _ = CASES[8]
  x, k, dy = _arrays(*CASES[8])
  want = _oracle(x, k, dy, strides, pads(size, kernel, strides, padding))
  with jax.enable_x64(True):

    def both(x, k):
      y, vjp = jax.vjp(lambda x, k: conv3d(x, k, strides, padding, "cpu"), x, k)
      return y, *vjp(jnp.asarray(dy))

    _check(jax.jit(both)(jnp.asarray(x), jnp.asarray(k)), want, 1e-14)


def test_bfloat16_accumulates_in_float32():
  kernel, strides, padding, size, _ = CASES[7]
  x, k, dy = _arrays(*CASES[7])
  x, k = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x, k))
  y, _, _ = _oracle(x, k, dy, strides, pads(size, kernel, strides, padding))
  got = conv3d(jnp.asarray(x, jnp.bfloat16), jnp.asarray(k, jnp.bfloat16), strides, padding, "cpu")
  assert got.dtype == jnp.bfloat16
  # Rounding to bfloat16's 8 bits is 2⁻⁸ at most; float32's sums are within 1e-5 before it.
  np.testing.assert_allclose(got.astype(jnp.float32), y, rtol=2**-8, atol=1e-5)


def test_sharded_batch_is_the_same_computation(monkeypatch):
  monkeypatch.setattr(conv_cpu, "PATCH_BYTES", 1 << 14)  # several chunks, each over all devices
  monkeypatch.setattr(conv_cpu, "PATCH_ROWS", 16)
  kernel, strides, padding, size, _ = CASES[10]
  x, k, dy = _arrays(*CASES[10], rows=16)
  want = _oracle(x, k, dy, strides, pads(size, kernel, strides, padding))
  mesh = parallel.make_mesh()
  rows = NamedSharding(mesh, P("data"))
  got = _run(
    jax.device_put(x.astype(np.float32), rows),
    k,
    jax.device_put(dy.astype(np.float32), rows),
    strides,
    padding,
    "cpu",
  )
  _check(got, want)
  each = jax.shard_map(
    jax.grad(lambda k, x: jnp.sum(jnp.square(conv3d(x, k, strides, padding, "cpu")))),
    mesh=mesh,
    in_specs=(P(), P("data")),
    out_specs=P(),
  )
  x, k = jnp.asarray(x, jnp.float32), jnp.asarray(k, jnp.float32)
  y, _, dk = _oracle(x, k, 2 * want[0], strides, pads(size, kernel, strides, padding))
  del y
  np.testing.assert_allclose(jax.jit(each)(k, x), dk, rtol=0, atol=1e-5 * np.abs(dk).max())


def test_module_names_and_dtypes():
  conv = Conv(6, (3, 3, 3), use_bias=True, dtype=jnp.bfloat16)
  x = jnp.ones((2, 3, 4, 4, 5))
  variables = conv.init(jax.random.key(0), x)
  shapes = jax.tree.map(lambda a: (a.shape, a.dtype.name), variables["params"])
  assert shapes == {"kernel": ((3, 3, 3, 5, 6), "float32"), "bias": ((6,), "float32")}
  y = conv.apply(variables, x)
  assert y.dtype == jnp.bfloat16
  assert y.shape == (2, 3, 4, 4, 6)


def test_initial_kernels_are_lecun_normal():
  kernel = Conv(64, (1, 3, 3)).init(jax.random.key(0), jnp.ones((1, 1, 4, 4, 32)))
  kernel = np.asarray(kernel["params"]["kernel"])
  sigma = (1 / (9 * 32)) ** 0.5
  assert kernel.std() == pytest.approx(sigma, rel=0.02)
  assert np.abs(kernel).max() < 2 * sigma / 0.87962566 * 1.001  # truncated at two deviations


def test_unknown_names_are_refused():
  x, k = jnp.ones((1, 1, 3, 3, 1)), jnp.ones((1, 3, 3, 1, 1))
  with pytest.raises(UserError, match=r"config.encoder.conv .*fast.*auto"):
    conv3d(x, k, (1, 1, 1), "SAME", "fast")
  with pytest.raises(UserError, match=r"same"):
    conv3d(x, k, (1, 1, 1), "same")
