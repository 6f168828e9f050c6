"""Costs against sums by hand and against published figures."""

import flax.linen as nn
import pytest

from vssl_jax import config, models
from vssl_jax.models import cost
from vssl_jax.models.layers.conv import Conv
from vssl_jax.models.layers.norm import BatchNorm


class Two(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = Conv(4, (3, 1, 1), (1, 2, 2), use_bias=True)(x)
    x = BatchNorm()(x, False)
    return nn.Dense(5)(x.mean((1, 2, 3)))


def test_by_hand():
  got = cost.count(Two(), (2, 6, 6, 3))
  assert got.parameters == (3 * 3 * 4 + 4) + 2 * 4 + (4 * 5 + 5)
  assert got.macs == (2 * 3 * 3 * 4) * 3 * 3 + 4 * 5
  assert got.activation_bytes == 4 * (2 * (2 * 3 * 3 * 4) + 5)


def _r3d(depth, width=1.0, name="r3d"):
  c = config.encoder()
  c.depth, c.width, c.name = depth, width, name
  return models.build_encoder(c)


@pytest.mark.parametrize(
  ("depth", "width", "millions"),
  [(50, 1.0, 31.672128), (101, 1.0, 59.6), pytest.param(152, 2.0, 327.7, marks=pytest.mark.slow)],
)
def test_parameters_as_published(depth, width, millions):
  got = cost.count(_r3d(depth, width), (16, 64, 64, 3)).parameters / 1e6
  assert got == pytest.approx(millions, abs=0 if depth == 50 else 0.05)


def test_multiply_adds_of_r3d50_and_of_the_slow_pathway():
  assert cost.count(_r3d(50), (16, 224, 224, 3)).macs / 1e9 == pytest.approx(45.5, abs=0.05)
  slow = cost.count(_r3d(50, name="slow"), (8, 224, 224, 3))
  # 41.74 G by layer shapes with the classifier's 0.8 M; 31,634,496 parameters without it.
  assert slow.macs / 1e9 == pytest.approx(41.74, abs=0.01)
  assert slow.parameters == 31_634_496


# Published networks with their classifier of 400 classes, and the G multiply-adds of a clip.
PUBLISHED = [
  # PyTorchVideo's model zoo and SlowFast's paper, table 2, at 256 x 256 pixels. (For Slow 4x16 the
  # zoo has 27.55, which is not half of its 8x8; the paper has 27.3.)
  ("slow", {}, (4, 256, 256, 3), 32.45e6, 27.3),
  ("slow", {}, (8, 256, 256, 3), 32.45e6, 54.52),
  ("slowfast", {"alpha": 8, "lateral": 5}, (32, 256, 256, 3), 34.48e6, 36.1),
  ("slowfast", {}, (32, 256, 256, 3), 34.57e6, 65.71),
  # torchvision's documentation: resnet50 (a classifier of 1000), r2plus1d_18, r3d_18, s3d.
  ("c2d", {"classes": 1000}, (1, 224, 224, 3), 25_557_032, 4.089),
  ("r2plus1d", {}, (16, 112, 112, 3), 31_505_325, 40.519),
  ("r3d_torchvision", {}, (16, 112, 112, 3), 33_371_472, 40.697),
  ("s3dg", {"gating": False}, (16, 224, 224, 3), 8_320_048, 17.979),
  # VideoMAE, table 6: 22 M and 57 G, 87 M and 180 G. Parameters: its model, built and counted.
  ("vit", {"size": "S"}, (16, 224, 224, 3), 22_033_936, 57),
  ("vit", {}, (16, 224, 224, 3), 86_534_800, 180),
]


@pytest.mark.parametrize("case", PUBLISHED, ids=str)
def test_as_published(case):
  name, fields, shape, numbers, gigas = case
  fields = dict(fields)
  classes = fields.pop("classes", 400)
  c = config.encoder()
  c.name = name
  c.update(fields)
  encoder = models.build_encoder(c)
  got = cost.count(encoder, shape)
  total = got.parameters + (encoder.features_dim + 1) * classes
  assert total == pytest.approx(numbers, abs=0 if isinstance(numbers, int) else 5e3)
  assert (got.macs + encoder.features_dim * classes) / 1e9 == pytest.approx(gigas, rel=4e-3)


def test_gates_of_s3dg():
  """In the paper's table 64 frames take S3D-G 71.38 G, all told; its gates are matrices."""
  costs = {}
  for gating in (False, True):
    c = config.encoder()
    c.name, c.gating = "s3dg", gating
    costs[gating] = cost.count(models.build_encoder(c), (64, 224, 224, 3))
  gates = (192, 64, 128, 32, 32, 128, 192, 96, 64, 192, 208, 48, 64, 160, 224, 64, 64, 128, 256, 64)
  gates += (64, 112, 288, 64, 64, 256, 320, 128, 128, 256, 320, 128, 128, 384, 384, 128, 128)
  products = sum(n * n for n in gates)
  assert costs[True].macs - costs[False].macs == products
  assert costs[True].parameters - costs[False].parameters == products + sum(gates)
  assert costs[True].macs / 1e9 == pytest.approx(71.38, rel=0.01)


def test_attention_by_hand():
  vit = models.vit.ViT("S", 0.0625, tubelet=(2, 4, 4), depth=1)
  got = cost.count(vit, (4, 8, 12, 3))
  length, channels = 2 * 2 * 3, 24
  layers = 12 * channels * channels + 96 * channels  # attention's 4, the MLP's 8, the embedding
  assert got.macs == length * layers + 2 * length * length * channels
  norms, dense = 3 * 2 * channels, (3 + 4 + 1 + 1) * channels  # biases of q, v, out; MLP; embed
  assert got.parameters == layers + norms + dense
  outputs = 1 + 3 + 3 + 1 + 1 + 4 + 1  # embed, norms, qkv, attend, out, MLP in, out
  assert got.activation_bytes == 4 * (length * channels * outputs + 6 * length * length)


def test_lowering_changes_nothing():
  c = config.encoder()
  c.depth, c.width = 18, 0.25
  costs = set()
  for lowering in ("lax", "fold", "cpu"):
    c.conv = lowering
    costs.add(cost.count(models.build_encoder(c), (8, 56, 56, 3)))
  assert len(costs) == 1
