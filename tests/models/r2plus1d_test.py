"""R(2+1)D-18: sizes by table 1 of the paper, the number of channels between the factors."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import weights
from vssl_jax.models.layers.conv import Conv, conv3d
from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.models.r2plus1d import Block, R2Plus1D, middle


@pytest.mark.parametrize("factored", [True, False])
def test_sizes(factored):
  encoder, seen = R2Plus1D(factored=factored), {}

  def observe(next_fn, args, kwargs, context):
    y = next_fn(*args, **kwargs)
    if context.method_name == "__call__":
      seen["/".join(context.module.path)] = y.shape[1:]
    return y

  clip = jax.ShapeDtypeStruct((1, 16, 112, 112, 3), jnp.float32)
  with nn.intercept_methods(observe):
    params = jax.eval_shape(encoder.init, jax.random.key(0), clip)["params"]
  assert seen["stem_norm"] == (16, 56, 56, 64)
  for stage, frames, size in ((2, 16, 56), (3, 8, 28), (4, 4, 14), (5, 2, 7)):
    assert seen[f"res{stage}_1"] == (frames, size, size, 64 * 2 ** (stage - 2))
  assert seen[""] == (512,)
  assert "conv_shortcut" not in params["res2_0"]
  assert params["res3_0"]["conv_shortcut"]["kernel"].shape == (1, 1, 1, 64, 128)
  block = params["res3_0"]
  if factored:
    assert params["stem_conv_space"]["kernel"].shape == (1, 7, 7, 3, 45)
    assert block["conv_b_space"]["kernel"].shape == (1, 3, 3, 128, 230)
    assert block["conv_b_time"]["kernel"].shape == (3, 1, 1, 230, 128)
    # The spatial factor halves space, the temporal one time.
    assert seen["res3_0/conv_a_space"] == (16, 28, 28, 230)
    assert seen["res3_0/conv_a_time"] == (8, 28, 28, 128)
  else:
    assert params["stem_conv"]["kernel"].shape == (3, 7, 7, 3, 64)
    assert block["conv_a"]["kernel"].shape == (3, 3, 3, 64, 128)


@pytest.mark.parametrize(("channels", "features"), [(64, 64), (64, 128), (128, 128), (16, 32)])
def test_factors_have_at_most_the_parameters_of_the_whole(channels, features):
  whole = 27 * channels * features

  def factors(between):
    return 9 * channels * between + 3 * between * features

  between = middle(channels, features)
  assert factors(between) <= whole < factors(between + 1)


def test_factored_block_in_steps():
  """The block written out: convolutions in float64, norms as an affine map, borders of zeros."""
  block = Block(6, 2, True, partial(Conv, padding="symmetric"), BatchNorm)
  x = np.random.default_rng(0).normal(size=(2, 5, 6, 7, 4)).astype(np.float32)
  variables = weights.fill(jax.eval_shape(partial(block.init, train=False), jax.random.key(0), x))
  got = block.apply(variables, x, False)
  p, s = variables["params"], variables["batch_stats"]

  def conv(y, name, strides, pad):
    k = p[name]["kernel"].astype(np.float64)
    return np.asarray(conv3d(y, k, strides, [(n, n) for n in pad], "lax"))

  def norm(y, name):
    scale = p[name]["scale"] / np.sqrt(s[name]["var"] + 1e-5)
    return (y - s[name]["mean"]) * scale + p[name]["bias"]

  with jax.enable_x64(True):
    y = x.astype(np.float64)
    for name, n in (("a", 2), ("b", 1)):
      y = norm(conv(y, f"conv_{name}_space", (1, n, n), (0, 1, 1)), f"norm_{name}_space")
      y = norm(conv(np.maximum(y, 0), f"conv_{name}_time", (n, 1, 1), (1, 0, 0)), f"norm_{name}")
      y = np.maximum(y, 0) if name == "a" else y
    short = norm(conv(x.astype(np.float64), "conv_shortcut", (2, 2, 2), (0, 0, 0)), "norm_shortcut")
  want = np.maximum(y + short, 0)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * want.max())
