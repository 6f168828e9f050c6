"""Linear probe of a pre-trained encoder, CVRL's protocol (§4.1).

  python -m vssl_jax.main --config=configs/linear_probe.py --config.checkpoint=runs/cvrl_k400

A dense layer on the L2-normalised features of the frozen encoder (batch norm in inference mode):
32 frames with stride 2, random resized crops and flips, SGD at rate 32 for batch 1,024, 100
epochs; tested on 10 clips x 3 crops of 256 pixels, softmax averaged. K400 top-1 of CVRL's
R3D-50: 63.8 after 200 epochs, *published*; *not run*. About 4 H100-hours by arithmetic.

The data is the checkpoint's own unless --config.data.path (and .source) say otherwise.

Variants, after a colon:
  demo, ucf6     the small protocols that the pre-training configs of that name end with.
"""

import importlib.util
import pathlib

from vssl_jax import config as config_lib


def _recipes():
  """The pre-training config file next to this one, whose variants set the small protocols."""
  path = pathlib.Path(__file__).with_name("cvrl.py")
  spec = importlib.util.spec_from_file_location("cvrl_config", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _published(c):
  del c


VARIANTS = {
  "published": _published,
  "demo": lambda c: _recipes().demo(c),
  "ucf6": lambda c: _recipes().ucf6(c),
}


def get_config(variant: str = ""):
  """The config of a variant."""
  c = config_lib.compose(variant or "published", VARIANTS, {}, prefix="linear_probe", method="cvrl")
  c.job = "linear_probe"
  return c
