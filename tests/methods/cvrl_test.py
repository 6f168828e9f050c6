"""CVRL: its loss by hand, devices and micro-batches that change nothing, shipped settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small, tolerance
from vssl_jax import augment, parallel
from vssl_jax.errors import UserError
from vssl_jax.methods import base, cvrl
from vssl_jax.ops import step_keys
from vssl_jax.training import optim


def _config(**values):
  config = small.shrink(small.load("cvrl.py", "demo"), **values)
  augment.presets.none(config.augment)
  config.augment.flip = 0.5  # a random draw, cheap to compile
  return config


def _batch(n=8, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "clips": rng.integers(0, 256, (n, 2, 4, 16, 16, 3), np.uint8),
    "label": np.zeros(n, np.int32),
    "video": np.arange(n),
  }


def _first_step(config, devices=1, n=8):
  """The first step's loss, new state and gradients as a function, and what it starts from."""
  mesh = parallel.make_mesh(jax.devices()[:devices])
  method = cvrl.build(config, mesh)
  fn = base.value_and_grad(method, config.accumulate)

  start = parallel.put_replicated(mesh, small.init(method))

  def run(params, state, batch):
    rng, keys = step_keys.step_keys(0, jnp.int32(0), n)
    return fn(params, state, {**batch, "key": keys}, rng, jnp.int32(0))

  batch, run = parallel.put_batch(mesh, _batch(n)), jax.jit(run)
  return lambda params, state: run(params, state, batch), start


def test_loss_is_info_nce_of_both_views_by_hand(tiny):
  config = _config()
  method = cvrl.build(config)
  params, state = small.init(method)
  rng, keys = step_keys.step_keys(0, jnp.int32(0), 8)
  batch = {**_batch(), "key": keys}
  z, _ = jax.jit(method.embed)(params, state, batch)
  loss, (_, metrics) = method.objective(params, state, z, batch, rng, jnp.int32(0))
  z = np.float64(z).transpose(1, 0, 2).reshape(16, -1)
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  logits = z @ z.T / config.cvrl.temperature
  np.fill_diagonal(logits, -np.inf)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  want = -np.mean([log_p[i, (i + 8) % 16] for i in range(16)])
  np.testing.assert_allclose(metrics["info_nce"], want, rtol=1e-5)
  np.testing.assert_allclose(loss, 2 * want, rtol=1e-5)  # TF Garden's sum of two directions


def test_both_views_share_encoder_and_statistics(tiny):
  config = _config()
  config.augment.flip = 0.0
  method = cvrl.build(config)
  params, state = small.init(method)
  batch = {**_batch(), "key": jax.random.split(jax.random.key(0), 8)}
  batch["clips"][:, 1] = batch["clips"][:, 0]
  z, _ = jax.jit(method.embed)(params, state, batch)
  np.testing.assert_allclose(z[:, 0], z[:, 1], rtol=1e-5, atol=1e-5)


def test_one_device_equals_eight_in_loss_statistics_and_gradient(tiny):
  run, start = _first_step(_config())
  want, rounding = tolerance.value_and_rounding(run, *start)
  run8, start8 = _first_step(_config(), devices=8)
  tolerance.close(jax.device_get(run8(*start8)), want, rounding)


def test_blockwise_equals_dense(tiny):
  run, start = _first_step(_config())
  want, rounding = tolerance.value_and_rounding(run, *start)
  block, start = _first_step(_config(**{"cvrl.block_size": 4}))
  tolerance.close(jax.device_get(block(*start)), want, rounding)


@pytest.mark.slow
def test_accumulation_equals_one_pass_with_the_same_statistics(tiny):
  # Micro-batch i holds rows i, i + k, …; one pass with groups sees them as contiguous rows.
  k, n = 2, 8
  order = np.arange(n).reshape(n // k, k).T.reshape(-1)
  config = _config(accumulate=k)
  whole_config = _config(**{"encoder.bn_groups": k, "head.bn_groups": k})
  method, whole = cvrl.build(config), cvrl.build(whole_config)
  params, state = small.init(method)
  rng, keys = step_keys.step_keys(0, jnp.int32(0), n)
  batch = {**_batch(n), "key": keys}
  permuted = jax.tree.map(lambda x: x[order], batch)
  step = jnp.int32(0)
  (loss, _), grads = jax.jit(base.value_and_grad(method, k))(params, state, batch, rng, step)
  whole_fn = jax.jit(base.value_and_grad(whole, 1))

  def at_once(params):
    (loss, _), grads = whole_fn(params, state, permuted, rng, step)
    return loss, grads

  tolerance.close(jax.device_get((loss, grads)), *tolerance.value_and_rounding(at_once, params))


def test_published_settings():
  config = small.load("cvrl.py")
  d, o = config.data, config.optim
  assert (d.clips, d.frames, d.stride, d.size) == (2, 16, 2, 224)
  assert (config.batch_size, config.epochs, config.cvrl.temperature) == (1024, 200.0, 0.1)
  assert (o.name, o.lr, o.momentum, o.nesterov, o.weight_decay) == ("sgd", 0.32, 0.9, False, 1e-6)
  assert (config.head.hidden, config.head.out, config.head.bn_momentum) == ((2048,) * 3, 128, 0.997)
  method = cvrl.build(config)
  params, _ = jax.eval_shape(method.init, jax.random.key(0), method.example(2))
  count = sum(x.size for x in jax.tree.leaves(params["encoder"]))
  assert count == 31_672_128
  decayed = jax.tree.leaves(optim.kernels(params))
  assert 0 < sum(decayed) < len(decayed)


@pytest.mark.parametrize(
  ("values", "message"),
  [({"data.clips": 3}, r"config\.data\.clips is 3"), ({"cvrl.temperature": 0.0}, "temperature")],
)
def test_impossible_settings_name_the_field(values, message):
  with pytest.raises(UserError, match=message):
    cvrl.build(_config(**values))
