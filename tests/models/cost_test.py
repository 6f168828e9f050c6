"""Costs against sums by hand and against published figures."""

import flax.linen as nn
import pytest

from vssl_jax import config, models
from vssl_jax.models import cost
from vssl_jax.models.conv import Conv
from vssl_jax.models.norm import BatchNorm


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
  ("depth", "width", "millions"), [(50, 1.0, 31.672128), (101, 1.0, 59.6), (152, 2.0, 327.7)]
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


def test_lowering_changes_nothing():
  c = config.encoder()
  c.depth, c.width = 18, 0.25
  costs = set()
  for lowering in ("lax", "fold", "cpu"):
    c.conv = lowering
    costs.add(cost.count(models.build_encoder(c), (8, 56, 56, 3)))
  assert len(costs) == 1
