"""Calibrated batch norm equals the moments of all clips, by NumPy in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax import parallel, results
from vssl_jax.errors import UserError
from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.probes import calibrate


def _scaled(clips):
  return clips.astype(jnp.float32) / 255.0


class _Net(nn.Module):
  """Dense, batch norm; then, on what the first norm gives, the same again."""

  layers: int = 1
  momentum: float = 0.9
  norm: str = "ours"

  @nn.compact
  def __call__(self, clips, train=False):
    x = clips.reshape(len(clips), -1)
    for i in range(self.layers):
      x = nn.Dense(5, name=f"dense_{i}")(x)
      if self.norm == "ours":
        x = BatchNorm(self.momentum, name=f"norm_{i}")(x, train)
      else:
        x = nn.BatchNorm(not train, momentum=self.momentum, name=f"norm_{i}")(x)
    return x


def _batches(count=3, n=4, r=2, seed=0):
  rng = np.random.default_rng(seed)
  return [
    {
      "clips": (rng.integers(0, 256, (n, r, 2, 3, 3, 1)) * rng.random((n, r, 1, 1, 1, 1))).astype(
        np.uint8
      )
    }
    for _ in range(count)
  ]


def _init(net):
  return net.init(jax.random.key(0), jnp.zeros((1, 2, 3, 3, 1)))


def _numpy(variables, x, layer=0):
  dense = variables["params"][f"dense_{layer}"]
  return x @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"], np.float64)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.997])
@pytest.mark.parametrize("norm", ["ours", "flax"])
def test_first_layer_has_the_moments_of_all_clips(momentum, norm):
  net = _Net(momentum=momentum, norm=norm)
  variables, batches = _init(net), _batches()
  found = calibrate.calibrate(net, variables, iter(batches), preprocess=_scaled)
  x = np.concatenate([b["clips"].reshape(8, -1) for b in batches]) / 255.0
  y = _numpy(variables, x)
  stats = found["batch_stats"]["norm_0"]
  np.testing.assert_allclose(stats["mean"], y.mean(0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(stats["var"], y.var(0), rtol=1e-3)
  assert stats["mean"].dtype == jnp.float32


def test_batches_of_different_size_weigh_by_their_clips():
  net = _Net()
  variables, batches = _init(net), _batches(1, n=2) + _batches(1, n=6, seed=1)
  found = calibrate.calibrate(net, variables, batches, preprocess=_scaled)
  x = np.concatenate([b["clips"].reshape(-1, 18) for b in batches]) / 255.0
  y = _numpy(variables, x)
  np.testing.assert_allclose(found["batch_stats"]["norm_0"]["var"], y.var(0), rtol=1e-4)


def test_second_layer_pools_what_batches_feed_it():
  net = _Net(layers=2)
  variables, batches = _init(net), _batches()
  found = calibrate.calibrate(net, variables, batches, preprocess=_scaled)
  second = []
  for b in batches:
    y = _numpy(variables, b["clips"].reshape(8, -1) / 255.0)
    y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)  # by the batch's own statistics
    second.append(_numpy(variables, y, 1))
  second = np.concatenate(second)
  stats = found["batch_stats"]["norm_1"]
  np.testing.assert_allclose(stats["mean"], second.mean(0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(stats["var"], second.var(0), rtol=1e-4)


def test_devices_make_no_difference():
  net, batches = _Net(layers=2), _batches()
  variables = _init(net)
  one, eight = (
    calibrate.calibrate(
      net, variables, batches, preprocess=_scaled, mesh=parallel.make_mesh(jax.devices()[:d])
    )
    for d in (1, 8)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, eight)


def test_parameters_and_old_statistics_are_left_alone():
  net = _Net()
  variables = _init(net)
  before = results.tree_hash(variables)
  found = calibrate.calibrate(net, variables, _batches(), preprocess=_scaled)
  assert results.tree_hash(variables) == before
  assert results.tree_hash(found["params"]) == results.tree_hash(variables["params"])
  assert results.tree_hash(found["batch_stats"]) != results.tree_hash(variables["batch_stats"])


def test_without_batch_norm_there_is_nothing_to_do():
  variables = {"params": {"kernel": jnp.ones(3)}}
  assert calibrate.calibrate(_Net(), variables, [], preprocess=_scaled) == variables


def test_no_batch_is_an_error():
  net = _Net()
  with pytest.raises(UserError, match=r"probe\.calibrate"):
    calibrate.calibrate(net, _init(net), [], preprocess=_scaled)
