"""The encoders: shapes by table 1 of arXiv 2008.03800, options that must not change a value."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax import config, models
from vssl_jax.errors import UserError

FAST = {"xla_backend_optimization_level": 0}  # compile in haste, for networks run once


def _encoder(depth=18, width=0.0625, dtype="float32", **fields):
  c = config.encoder()
  c.update(depth=depth, width=width, dtype=dtype, **fields)
  return models.build_encoder(c)


def _variables(encoder, clips, seed=0):
  """Random everywhere, so that no batch norm and no scale is the identity."""
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), clips)
  rng = np.random.default_rng(seed)
  variables = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32) * 0.3, shapes)
  return jax.tree_util.tree_map_with_path(
    lambda path, a: np.abs(a) + 0.5 if path[-1].key in ("var", "scale") else a, variables
  )


def _clips(n=2, t=4, size=16, seed=1):
  return np.random.default_rng(seed).uniform(size=(n, t, size, size, 3)).astype(np.float32)


def _shapes(encoder, clip):
  """Output shape [T, H, W, C] of every layer, without running any."""
  seen = {}

  def observe(next_fn, args, kwargs, context):
    y = next_fn(*args, **kwargs)
    if context.method_name == "__call__":
      seen["/".join(context.module.path)] = y.shape[1:]
    return y

  with nn.intercept_methods(observe):
    jax.eval_shape(encoder.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *clip), jnp.float32))
  return seen


def test_r3d50_by_table():
  shapes = _shapes(_encoder(50, 1.0), (16, 224, 224, 3))
  assert shapes["stem_conv"] == (8, 112, 112, 64)
  for name, size, channels in (("res2_2", 56, 64), ("res3_3", 28, 128), ("res4_5", 14, 256)):
    assert shapes[name] == (8, size, size, 4 * channels)
    assert shapes[f"{name}/conv_a"] == shapes[f"{name}/conv_b"] == (8, size, size, channels)
  assert shapes["res5_2"] == (8, 7, 7, 2048)
  assert shapes[""] == (2048,)
  assert "res2_0/conv_shortcut" in shapes
  assert "res3_0/conv_shortcut" in shapes
  assert "res3_1/conv_shortcut" not in shapes
  # The spatial stride sits on the 1×3×3 convolution.
  assert shapes["res3_0/conv_a"] == (8, 56, 56, 128)
  assert shapes["res3_0/conv_b"] == (8, 28, 28, 128)


def _kernels(encoder):
  clip = jax.ShapeDtypeStruct((1, 4, 32, 32, 3), jnp.float32)
  params = jax.eval_shape(encoder.init, jax.random.key(0), clip)["params"]
  flat = jax.tree_util.tree_flatten_with_path(params)[0]
  return {
    "/".join(k.key for k in path[:-1]): a.shape for path, a in flat if path[-1].key == "kernel"
  }


def test_temporal_kernels_by_stage():
  kernels = _kernels(_encoder(50))
  assert kernels["stem_conv"][:3] == (5, 7, 7)
  for name, shape in kernels.items():
    if match := re.fullmatch(r"res(\d)_\d/conv_(a|b|c|shortcut)", name):
      stage, which = int(match[1]), match[2]
      t = 3 if stage >= 4 and which == "a" else 1
      assert shape[:3] == ((t, 3, 3) if which == "b" else (t, 1, 1)), name
  kernels = _kernels(_encoder(18))
  assert kernels["res3_1/conv_a"][:3] == kernels["res5_1/conv_b"][:3] == (1, 3, 3)
  assert kernels["res4_0/conv_a"][:3] == kernels["res5_1/conv_a"][:3] == (3, 3, 3)


@pytest.mark.parametrize(("depth", "blocks"), [(18, 8), (50, 16), (101, 33), (152, 50)])
def test_depths(depth, blocks):
  encoder = _encoder(depth, 0.125)
  names = {name.split("/")[0] for name in _kernels(encoder)} - {"stem_conv"}
  assert len(names) == blocks
  assert encoder.features_dim == (64 if depth == 18 else 256)


def test_single_frame_network_has_no_time():
  encoder = _encoder(18, temporal=False)
  assert {shape[0] for shape in _kernels(encoder).values()} == {1}
  clips = _clips(2, 3)
  variables = _variables(encoder, clips)
  apply = jax.jit(encoder.apply, compiler_options=FAST)
  frames = clips.reshape(-1, 1, *clips.shape[2:])
  each = apply(variables, frames).reshape(2, 3, -1)
  np.testing.assert_allclose(apply(variables, clips), each.mean(1), rtol=1e-4, atol=1e-5)


def _gradient(encoder, variables, clips):
  def loss(params):
    y, state = encoder.apply(
      {**variables, "params": params}, clips, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(jnp.sin(y)), (y, state)

  return jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)(variables["params"])


@pytest.mark.slow
def test_remat_changes_nothing():
  clips = _clips(4)
  plain, remat = _encoder(), _encoder(remat=True)
  variables = _variables(plain, clips)
  (_, (y, state)), grads = _gradient(plain, variables, clips)
  (_, (y2, state2)), grads2 = _gradient(remat, variables, clips)

  def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(b).max()))

  jax.tree.map(close, (y2, state2, grads2), (y, state, grads))
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_features_are_the_float32_mean_of_the_last_map():
  encoder = _encoder(18, dtype="bfloat16")
  clips = _clips(2)
  variables = _variables(encoder, clips)
  apply = jax.jit(encoder.apply, static_argnames=("pool",), compiler_options=FAST)
  y, maps = apply(variables, clips), apply(variables, clips, pool=False)
  assert y.shape == (2, encoder.features_dim)
  assert y.dtype == jnp.float32
  assert maps.dtype == jnp.bfloat16
  np.testing.assert_allclose(y, np.float32(maps).mean((1, 2, 3)), rtol=1e-5)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), clips)
  assert {a.dtype.name for a in jax.tree.leaves(shapes)} == {"float32"}


def test_last_scale_of_a_block_starts_at_one():
  create = jax.jit(_encoder(18).init, compiler_options=FAST)
  variables = create(jax.random.key(0), _clips(1, 2))
  np.testing.assert_array_equal(variables["params"]["res5_1"]["norm_b"]["scale"], 1.0)


@pytest.mark.parametrize(
  ("field", "value", "choice"),
  [
    ("name", "r2d", "slow"),
    ("depth", 34, "152"),
    ("dtype", "float16", "bfloat16"),
    ("conv", "fast", "auto"),
  ],
)
def test_unknown_values_name_their_field(field, value, choice):
  with pytest.raises(UserError, match=rf"config\.encoder\.{field} = .*{value}.*{choice}"):
    _encoder(**{"depth": 18, field: value})
