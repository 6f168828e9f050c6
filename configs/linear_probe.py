"""Linear probe of a pre-trained encoder, CVRL's protocol (§4.1).

  python -m vssl_jax.main --config=configs/linear_probe.py --config.checkpoint=runs/cvrl_k400

Trains one dense layer on the L2-normalized features of the frozen encoder (batch norm in inference
mode): 32 frames with stride 2, random resized crops and flips, SGD with learning rate 32 at batch
1,024, 100 epochs. The test averages the softmax over 10 clips x 3 crops of 256 pixels. K400 top-1
of CVRL's R3D-50: 63.8 after 200 epochs, *published*; *not run*. Estimated cost: 4 H100-hours.

The data is that of the checkpoint, unless --config.data.path (and .source) are given.

Variants, after a colon:
  demo, ucf6     the small protocols at the end of the pre-training configs of the same names.
"""

from vssl_jax import recipes


def ucf6(c):
  """The protocols of the ucf6 recipe, plus the linear probe, which that recipe leaves out."""
  recipes.ucf6(c)
  c.probe.linear = True


VARIANTS = {
  "published": recipes.published_probe,
  "demo": recipes.demo,
  "ucf6": ucf6,
}


def get_config(variant: str = ""):
  """The config of a variant."""
  c = recipes.compose(variant or "published", VARIANTS, {}, prefix="linear_probe", method="cvrl")
  c.job = "linear_probe"
  return c
