"""Every method at other channels than RGB, in shapes alone: only its stem grows with them."""

import jax
import pytest

from tests import small
from vssl_jax import methods, models
from vssl_jax.models import build, cost
from vssl_jax.models.layers.conv import LOWERINGS
from vssl_jax.parallel import make_mesh
from vssl_jax.training import step

CONFIGS = ["cvrl.py", "rho_simclr.py", "rho_moco.py", "rho_byol.py", "rho_swav.py", "provico.py"]
VALUES = {
  "encoder.name": "slow",
  "batch_size": 8,
  "steps": 10_000,
  "steps_per_epoch": 4,
}  # queues fill first


def _step(file, channels):
  """The shapes that a train step takes and returns."""
  config = small.shrink(small.load(file, "demo"), **VALUES, **{"data.channels": channels})
  config = methods.resolve(config, None)
  mesh = make_mesh(jax.devices()[:1])
  method = methods.build(config, mesh)
  program = step.assemble(config, method, mesh, steps_per_epoch=4)
  state, batch = step.abstract(method, program.tx, mesh, config.batch_size)
  assert batch["clips"].shape[-1] == channels
  jax.eval_shape(program.advance, state, batch)
  return cost.parameters(method.encoder(state.params, state.method)["params"])


@pytest.mark.parametrize("file", CONFIGS)
def test_a_train_step_of_gray_and_of_twelve_bands(file):
  gray, bands = (_step(file, c) for c in (1, 12))
  network = models.build_encoder(small.shrink(small.load(file, "demo"), **VALUES).encoder)
  stem = 7 * 7 * network.features_dim // 8  # the first of four stages has an eighth of the last
  assert bands - gray == 11 * stem


def test_dcc_reads_features_whatever_the_channels():
  config = small.load("dcc.py", "stitched")
  shapes = []
  for channels in (3, 12):
    with config.unlocked():
      config.data.channels = channels
    method = methods.build(methods.resolve(config, None))
    shapes.append(jax.eval_shape(method.init, jax.random.key(0), method.example(2)))
  assert shapes[0] == shapes[1]


@pytest.mark.parametrize("conv", sorted(set(LOWERINGS) - {"auto"}))
@pytest.mark.parametrize("name", sorted(build.ENCODERS))
@pytest.mark.parametrize("channels", [1, 12])
def test_every_encoder_reads_them(name, conv, channels):
  config = small.shrink(small.load("cvrl.py", "demo")).encoder
  config.name, config.conv, config.depth, config.tubelet = name, conv, 0, (2, 8, 8)
  config.width = 0.25
  network = models.build_encoder(config)
  clip = jax.ShapeDtypeStruct((2, 8, 16, 16, channels), "float32")
  out, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), clip)
  assert out.shape == (2, network.features_dim)
