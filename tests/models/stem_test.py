"""Stems of other channels: the same output for the same picture, as timm's rule has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from vssl_jax import models
from vssl_jax.errors import UserError
from vssl_jax.models import stem


def _network(name):
  config = small.shrink(small.load("cvrl.py", "demo")).encoder
  config.name, config.depth, config.tubelet, config.width = name, 0, (2, 8, 8), 1 / 16
  if name == "vit":
    config.size, config.width = "S", 1 / 32
  return models.build_encoder(config)


def _shapes(network, channels):
  clip = jax.ShapeDtypeStruct((1, 4, 16, 16, channels), "float32")
  return jax.eval_shape(network.init, jax.random.key(0), clip)


@pytest.mark.parametrize("name", ["r3d_torchvision", "vit"])
def test_gray_and_repeated_colors_give_the_output_of_rgb(name):
  network = _network(name)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: (0.1 + 0.2 * rng.random(x.shape)).astype(np.float32), _shapes(network, 3)
  )
  clip = rng.random((1, 4, 16, 16, 3), np.float32)
  gray = clip[..., :1]

  @jax.jit
  def run(variables, x):
    return network.apply(variables, x)

  cases = {1: (gray, jnp.repeat(gray, 3, -1)), 6: (jnp.tile(clip, 2), clip)}
  for channels, (theirs, rgb) in cases.items():
    adapted = stem.adapt(variables, _shapes(network, channels), channels)
    np.testing.assert_allclose(run(adapted, theirs), run(variables, rgb), rtol=1e-5)


def test_the_rule_of_timm():
  """Its `adapt_input_conv`: sums for one channel; else repeats, cuts to C and scales by 3 / C."""
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(1, 3, 3, 3, 2)).astype(np.float32)
  like = lambda c: {"k": jax.ShapeDtypeStruct((1, 3, 3, c, 2), "float32")}  # noqa: E731
  gray = stem.adapt({"k": kernel}, like(1), 1)["k"]
  np.testing.assert_array_equal(gray, kernel.sum(3, keepdims=True))
  four = stem.adapt({"k": kernel}, like(4), 4)["k"]
  np.testing.assert_array_equal(four, np.concatenate([kernel, kernel[:, :, :, :1]], 3) * 0.75)


def test_other_networks_are_refused():
  kernel = {"k": np.zeros((1, 3, 3, 3, 2), np.float32)}
  for shape in ((1, 3, 3, 4, 5), (3, 3, 3, 4, 2)):
    with pytest.raises(UserError, match=r"stem: \['k'\] has shape"):
      stem.adapt(kernel, {"k": jax.ShapeDtypeStruct(shape, "float32")}, 4)
  with pytest.raises(UserError, match="other layers"):
    stem.adapt(kernel, {"other": kernel["k"]}, 4)
