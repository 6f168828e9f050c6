"""Features of each network beside those that its PyTorch original gave for the same weights.

How the numbers came about: `weights.fill` drew each array from its own name; transposed from
[t, h, w, in, out] to [out, in, t, h, w] (dense kernels: transposed) they were loaded into the
original, in eval mode, PyTorch 2.13 on CPU; each row is `weights.digest` of the features of one
clip of `weights.clips`. None of the originals is needed to run this.

* slow, c2d, slowfast: `ResNet` and `SlowFast` of facebookresearch/SlowFast
  (slowfast/models/video_model_builder.py), ARCH slow, slow_c2d and slowfast, WIDTH_PER_GROUP 8,
  BETA_INV 8, FUSION_KERNEL_SZ 7, inputs `[x[:, :, ::4], x]`, each pathway's mean.
* r2plus1d, r3d_torchvision: r2plus1d_18 and r3d_18 of torchvision 0.29. (Its s3d agreed with s3dg
  without gates as closely; that row is left out for its time.)
* s3dg: `S3D(gating=True)` of TengdaHan/CoCLR (backbone/s3dg.py) with one more of its gates after
  Conv_2c, where the TensorFlow original has one.
* vit: `PretrainVisionTransformerEncoder` of MCG-NJU/VideoMAE with nothing masked, 24 channels,
  6 heads, the mean of its tokens.
"""

import jax
import numpy as np
import pytest

from tests.models import weights
from vssl_jax import config, models

pytestmark = pytest.mark.slow

FAST = {"xla_backend_optimization_level": 0}  # compile in haste, for networks run once
# name, other fields of config.encoder, frames, rows of digests
CASES = [
  (
    "slow",
    {"width": 0.125},
    4,
    [
      [1.312446, 8.827747, 13.81579, 185.6762, -33.29658],
      [1.006005, 14.25062, 16.65031, 168.1115, -11.38241],
    ],
  ),
  (
    "c2d",
    {"width": 0.125},
    4,
    [[0.0, 4.110605, 0.02810381, 294.8162, 114.2634], [0.0, 3.437109, 0.0, 279.6817, 98.28651]],
  ),
  (
    "slowfast",
    {"width": 0.125},
    8,
    [
      [0.5780995, 4.110076, 4.217961, 106.9743, 61.72323],
      [0.8251407, 6.045712, 5.796413, 106.1513, 72.7409],
    ],
  ),
  (
    "r2plus1d",
    {},
    4,
    [
      [0.01440973, 2.421869, 1.310539, 17.72874, 1.810298],
      [0.01905603, 2.517323, 1.36735, 17.92178, 4.875788],
    ],
  ),
  (
    "r3d_torchvision",
    {},
    4,
    [
      [0.5926232, 1.707953, 1.653909, 27.87876, -0.2374959],
      [0.635604, 2.145292, 1.381754, 29.48012, -1.788577],
    ],
  ),
  (
    "s3dg",
    {},
    8,
    [[0.05550356, 0.0, 0.0, 1.799695, -0.9243954], [0.05549147, 0.0, 0.0, 1.799732, -0.9252552]],
  ),
  (
    "vit",
    {"size": "S", "width": 0.0625},
    4,
    [
      [-0.5491341, 0.9786245, -1.875259, 5.157803, -2.831266],
      [1.606703, -0.3028028, -2.515328, 5.113166, -1.977991],
    ],
  ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]}")
def test_features_of_the_original(case):
  name, fields, frames, want = case
  c = config.encoder()
  c.name, c.dtype = name, "float32"
  c.update(fields)
  encoder, clips = models.build_encoder(c), weights.clips(2, frames, 32)
  variables = weights.fill(jax.eval_shape(encoder.init, jax.random.key(0), clips))

  def both(variables, clips):
    return encoder.apply(variables, clips), encoder.apply(variables, clips, pool=False)

  y, maps = jax.jit(both, compiler_options=FAST)(variables, clips)
  assert y.shape == (2, encoder.features_dim)
  got, scale = weights.digest(y), np.linalg.norm(y, axis=1)[:, None]
  np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=1e-5)
  np.testing.assert_allclose(maps.mean((1, 2, 3)), y, rtol=1e-4, atol=1e-6 * scale.max())
