"""Stems of other channels: the same output for the same picture, as timm's rule has it."""

import jax
import numpy as np
import pytest

from vssl_jax.errors import UserError
from vssl_jax.models import stem, vit
from vssl_jax.models.layers.conv import Conv

# All that reads a clip in each network; of a transformer without blocks the rest is the same.
STEMS = {
  "conv": Conv(4, (3, 3, 3), (1, 2, 2)),
  "tubelets": vit.ViT("S", 1 / 32, tubelet=(2, 8, 8), depth=0),
}


def _shapes(network, channels):
  clip = jax.ShapeDtypeStruct((1, 4, 16, 16, channels), "float32")
  return jax.eval_shape(network.init, jax.random.key(0), clip)


@pytest.mark.parametrize("name", STEMS)
def test_gray_and_repeated_colors_give_the_output_of_rgb(name):
  """Whole numbers, whose sums are exact, so that the outputs are equal bit for bit."""
  network, rng = STEMS[name], np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: rng.integers(-4, 5, x.shape).astype(np.float32), _shapes(network, 3)
  )
  clip = rng.integers(0, 16, (1, 4, 16, 16, 3)).astype(np.float32)
  gray = clip[..., :1]
  cases = {1: (gray, np.repeat(gray, 3, -1)), 6: (np.tile(clip, 2), clip)}
  for channels, (theirs, rgb) in cases.items():
    adapted = stem.adapt(variables, _shapes(network, channels), channels)
    out = network.apply(adapted, theirs)
    np.testing.assert_array_equal(out, network.apply(variables, rgb))
    assert np.ptp(out)


def test_the_rule_of_timm():
  """Its `adapt_input_conv`: sums for one channel; else repeats, cuts to C and scales by 3 / C."""
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(1, 3, 3, 3, 2)).astype(np.float32)
  like = lambda c: {"k": jax.ShapeDtypeStruct((1, 3, 3, c, 2), "float32")}
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
