"""SlowFast: which frames each pathway sees, what crosses over, what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import weights
from vssl_jax.errors import UserError
from vssl_jax.models.slowfast import SlowFast

FAST = {"xla_backend_optimization_level": 0}


def _shapes(encoder, clip):
  seen = {}

  def observe(next_fn, args, kwargs, context):
    y = next_fn(*args, **kwargs)
    if context.method_name == "__call__":
      seen["/".join(context.module.path)] = y.shape[1:]
    return y

  with nn.intercept_methods(observe):
    jax.eval_shape(encoder.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *clip), jnp.float32))
  return seen


def test_table_1_of_the_paper():
  """T = 4 slow frames, alpha 8, beta 1/8 (written 8 here), ResNet-50."""
  shapes = _shapes(SlowFast(alpha=8, lateral=5), (32, 224, 224, 3))
  assert shapes["slow_stem_conv"] == (4, 112, 112, 64)
  assert shapes["fast_stem_conv"] == (32, 112, 112, 8)
  for stage, size, blocks in ((2, 56, 3), (3, 28, 4), (4, 14, 6), (5, 7, 3)):
    wide = 256 * 2 ** (stage - 2)
    assert shapes[f"slow_res{stage}_{blocks - 1}"] == (4, size, size, wide)
    assert shapes[f"fast_res{stage}_{blocks - 1}"] == (32, size, size, wide // 8)
    if stage < 5:  # two channels of the lateral connection a channel of the fast pathway
      assert shapes[f"res{stage}_lateral_conv"] == (4, size, size, wide // 4)
  assert shapes["stem_lateral_conv"] == (4, 56, 56, 16)
  assert "res5_lateral_conv" not in shapes
  assert shapes[""] == (2048 + 256,)


def test_temporal_kernels():
  clip = jax.ShapeDtypeStruct((1, 8, 32, 32, 3), jnp.float32)
  params = jax.eval_shape(SlowFast().init, jax.random.key(0), clip)["params"]
  assert params["fast_stem_conv"]["kernel"].shape == (5, 7, 7, 3, 8)
  assert params["slow_stem_conv"]["kernel"].shape == (1, 7, 7, 3, 64)
  assert params["res3_lateral_conv"]["kernel"].shape == (7, 1, 1, 64, 128)
  for name, block in params.items():
    if "_res" in name:
      t = 3 if name.startswith("fast") or name[8] in "45" else 1
      assert block["conv_a"]["kernel"].shape[:3] == (t, 1, 1), name


def test_frames_of_the_pathways():
  """With the lateral connections cut, the slow features depend on every alpha-th frame alone."""
  encoder = SlowFast(18, 0.125, alpha=4)
  clips = weights.clips(1, 8, 16)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), clips)
  variables = weights.fill(shapes)
  cut = {
    name: jax.tree.map(np.zeros_like, value) if "lateral_norm" in name else value
    for name, value in variables["params"].items()
  }
  other = weights.clips(2, 8, 16)[1:]
  mixed = other.copy()
  mixed[:, ::4] = clips[:, ::4]
  apply = jax.jit(encoder.apply, compiler_options=FAST)

  def features(params, x):
    y = apply({**variables, "params": params}, x)
    return np.split(np.asarray(y[0]), [64])

  (slow, fast), (slow_mixed, fast_mixed) = features(cut, clips), features(cut, mixed)
  np.testing.assert_allclose(slow_mixed, slow, rtol=1e-6)
  assert np.abs(fast_mixed - fast).max() > 1e-3 * np.abs(fast).max()
  slow_other, _ = features(cut, other)
  assert np.abs(slow_other - slow).max() > 1e-3 * np.abs(slow).max()
  joined, _ = features(variables["params"], clips)
  joined_mixed, _ = features(variables["params"], mixed)
  assert np.abs(joined_mixed - joined).max() > 1e-3 * np.abs(joined).max()


def test_what_does_not_divide_is_refused():
  clip = jax.ShapeDtypeStruct((1, 6, 16, 16, 3), jnp.float32)
  with pytest.raises(UserError, match=r"clip of 6 frames .*config\.encoder\.alpha = 4.*frames"):
    jax.eval_shape(SlowFast(18, 0.125).init, jax.random.key(0), clip)
  with pytest.raises(UserError, match=r"alpha = 0"):
    jax.eval_shape(SlowFast(18, 0.125, alpha=0).init, jax.random.key(0), clip)
  with pytest.raises(UserError, match=r"config\.encoder\.beta = 8 .*4 channels .*width 0\.0625"):
    _ = SlowFast(18, 0.0625).features_dim
