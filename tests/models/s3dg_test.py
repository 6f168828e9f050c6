"""S3D-G: sizes of the published network, gates and blocks against what they should be made of."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import weights
from vssl_jax.models.layers.conv import Conv
from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.models.layers.pool import max_pool
from vssl_jax.models.s3dg import S3DG, Block, Gate, Separable, Unit

FAST = {"xla_backend_optimization_level": 0}
CONV, NORM = partial(Conv, padding="symmetric"), BatchNorm
POOL = partial(max_pool, padding="symmetric")


@pytest.mark.parametrize("gating", [True, False])
def test_sizes(gating):
  seen = {}

  def observe(next_fn, args, kwargs, context):
    y = next_fn(*args, **kwargs)
    if context.method_name == "__call__":
      seen["/".join(context.module.path)] = y.shape[1:]
    return y

  clip = jax.ShapeDtypeStruct((1, 64, 224, 224, 3), jnp.float32)
  with nn.intercept_methods(observe):
    jax.eval_shape(S3DG(gating=gating).init, jax.random.key(0), clip)
  assert seen["conv_1a/space"] == (64, 112, 112, 64)
  assert seen["conv_1a"] == (32, 112, 112, 64)
  assert seen["conv_2c"] == (32, 56, 56, 192)
  for name, want in (
    ("3b", (32, 28, 28, 256)),
    ("3c", (32, 28, 28, 480)),
    ("4b", (16, 14, 14, 512)),
    ("4e", (16, 14, 14, 528)),
    ("4f", (16, 14, 14, 832)),
    ("5b", (8, 7, 7, 832)),
    ("5c", (8, 7, 7, 1024)),
  ):
    assert seen[f"mixed_{name}"] == want
  gates = {name for name in seen if "gate" in name and "dense" not in name}
  assert len(gates) == (1 + 4 * 9 if gating else 0)


def test_any_length_down_to_one_map():
  """Odd maps keep their last row, so that even four frames of 16 pixels reach the end."""
  for frames, size in ((4, 16), (12, 48)):
    clip = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.float32)
    encoder = S3DG(0.0625)
    maps, _ = jax.eval_shape(partial(encoder.init_with_output, pool=False), jax.random.key(0), clip)
    assert maps.shape[1:4] == (-(-frames // 8), -(-size // 32), -(-size // 32))
    assert maps.shape[-1] == encoder.features_dim == 24 + 24 + 8 + 8


def test_gate_in_float64():
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
  variables = weights.fill(jax.eval_shape(Gate().init, jax.random.key(0), x))
  dense = variables["params"]["dense"]
  z = x.mean((1, 2, 3), dtype=np.float64) @ dense["kernel"] + dense["bias"]
  want = x / (1 + np.exp(-z))[:, None, None, None]
  np.testing.assert_allclose(Gate().apply(variables, x), want, rtol=1e-5, atol=1e-6)


def test_block_of_its_branches():
  block = Block((3, (4, 5), (2, 6), 7), True, CONV, NORM, POOL)
  x = np.random.default_rng(0).normal(size=(2, 3, 5, 4, 6)).astype(np.float32)
  variables = weights.fill(jax.eval_shape(partial(block.init, train=False), jax.random.key(0), x))
  got = jax.jit(lambda v, x: block.apply(v, x, False), compiler_options=FAST)(variables, x)

  def part(module, name, x, *args):
    own = {c: v[name] for c, v in variables.items() if name in v}
    return module.apply(own, x, *args)

  def unit(features):
    return Unit(features, (1, 1, 1), CONV, NORM)

  outputs = [part(unit(3), "branch_0", x, False)]
  for i, (reduced, features) in enumerate(((4, 5), (2, 6)), 1):
    y = part(unit(reduced), f"branch_{i}_reduce", x, False)
    outputs.append(part(Separable(features, 3, CONV, NORM), f"branch_{i}", y, False))
  pooled = max_pool(jnp.asarray(x), (3, 3, 3), (1, 1, 1), "symmetric")
  outputs.append(part(unit(7), "branch_3", pooled, False))
  outputs = [part(Gate(), f"gate_{i}", y) for i, y in enumerate(outputs)]
  np.testing.assert_allclose(got, jnp.concatenate(outputs, -1), rtol=1e-5, atol=1e-6)
