"""Methods are tested around an encoder of one layer: the networks have tests of their own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from vssl_jax import models
from vssl_jax.models.layers.conv import Conv
from vssl_jax.models.layers.norm import BatchNorm


class Tiny(nn.Module):
  bn_groups: int = 1
  features_dim: int = 12

  @nn.compact
  def __call__(self, clips: jax.Array, train: bool = False) -> jax.Array:
    x = Conv(self.features_dim, (2, 4, 4), (2, 4, 4), name="stem")(clips)
    x = BatchNorm(groups=self.bn_groups, name="norm")(x, train)
    return nn.relu(x).mean((1, 2, 3), dtype=jnp.float32)


class Flat(nn.Module):
  """Quicker to compile than a convolution."""

  bn_groups: int = 1
  features_dim: int = 12

  @nn.compact
  def __call__(self, clips: jax.Array, train: bool = False) -> jax.Array:
    x = nn.Dense(self.features_dim, name="stem")(clips.reshape(len(clips), -1))
    return nn.relu(BatchNorm(groups=self.bn_groups, name="norm")(x, train))


@pytest.fixture
def flat(monkeypatch):
  """Makes every encoder a single dense layer."""
  monkeypatch.setattr(models, "build_encoder", lambda config, mesh=None: Flat(config.bn_groups))


@pytest.fixture
def tiny(monkeypatch):
  """Makes every encoder a one-layer one."""
  monkeypatch.setattr(models, "build_encoder", lambda config, mesh=None: Tiny(config.bn_groups))
