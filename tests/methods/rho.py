"""The ρ-methods around a tiny encoder: configs, batches, and a few real steps."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import small, tolerance
from vssl_jax import augment, methods, parallel
from vssl_jax.methods import base
from vssl_jax.ops import step_keys
from vssl_jax.training import optim
from vssl_jax.training import step as step_lib

N = 8
METHODS = ("rho_simclr", "rho_moco", "rho_byol", "rho_swav")


class Source:
  steps_per_epoch, label_names, fingerprint = 3, (), ""


def config(name, variant="demo", **values):
  """A method's demo at toy size: two clips, the queue that of two steps, flips the only draw."""
  c = small.shrink(small.load(f"{name}.py", variant), **{"data.frames": 2, "data.size": 8})
  augment.presets.none(c.augment)
  c.augment.flip = 0.5
  c.optim.name, c.optim.lr, c.optim.weight_decay, c.optim.warmup_epochs = "sgd", 0.01, 1e-3, 0.0
  c.data.clips, c.head.out_bn = 2, name in ("cvrl", "rho_simclr")
  if name != "rho_byol":
    c[name].temperature = 0.1
  if name == "rho_moco":
    c.rho_moco.queue, c.rho_moco.momentum = 2 * N * c.data.clips, 0.97
    c.head.bn = False
  if name == "rho_byol":
    c.rho_byol.predictor, c.rho_byol.momentum = (16,), 0.97
  if name == "rho_swav":
    c.rho_swav.prototypes, c.rho_swav.epsilon, c.rho_swav.codes_from = 12, 0.05, 2
  c.update_from_flattened_dict(values)
  return methods.resolve(c, Source)


def batch(c, k=0, n=N):
  rng = np.random.default_rng(k)
  d = c.data
  return {
    "clips": rng.integers(0, 256, (n, d.clips, d.frames, d.size, d.size, 3), np.uint8),
    "label": np.zeros(n, np.int32),
    "video": np.arange(n),
  }


def start(c, devices=1):
  """The method, the mesh, and its parameters and state on it."""
  mesh = parallel.make_mesh(jax.devices()[:devices])
  method = methods.load(c.method).build(c, mesh)
  params, state = small.init(method)
  params = parallel.put_replicated(mesh, params)
  return method, mesh, params, parallel.put(mesh, state, method.state_spec)


def keyed(c, step=0, n=N, k=0):
  """A batch with the keys of `step`, and the step's own."""
  rng, keys = step_keys.step_keys(0, jnp.int32(step), n)
  return {**batch(c, k, n), "key": keys}, rng


def first_step(c, devices=1, n=N):
  """The first step's ((loss, (state, metrics)), gradients) as a function, and where it starts."""
  method, mesh, params, state = start(c, devices)
  fn = base.value_and_grad(method, c.accumulate)

  def run(params, state, batch):
    rng, keys = step_keys.step_keys(0, jnp.int32(0), n)
    return fn(params, state, {**batch, "key": keys}, rng, jnp.int32(0))

  rows, run = parallel.put_batch(mesh, batch(c, n=n)), hasty(run)
  return lambda params, state: run(params, state, rows), (params, state)


def gradients(c, devices=1, n=N):
  """((loss, (state, metrics)), gradients) of the first step."""
  run, where = first_step(c, devices, n)
  return jax.device_get(run(*where))


def gradients_and_rounding(c):
  """The same on one device, and how far rounding moves each of its arrays."""
  run, where = first_step(c)
  return tolerance.value_and_rounding(run, *where)


def hasty(fn):
  """Jitted with little optimization: compiling is most of a test's time."""
  return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def steps(c, count, devices=1):
  """States before each step and after the last, and the rows logged."""
  method, mesh, _, _ = start(c, devices)
  total = 100
  rate = optim.schedule(optim.peak_lr(c.optim, c.batch_size), total - method.frozen_steps, 0)
  tx = optim.build(c.optim, rate)
  advance = step_lib.make_step(method, tx, rate, seed=0, accumulate=c.accumulate, mesh=mesh)
  state = step_lib.init(method, tx, 0, mesh, N)
  states, rows = [jax.device_get(state)], []
  for k in range(count):
    state, metrics = advance(state, parallel.put_batch(mesh, batch(c, k)))
    states.append(jax.device_get(state))
    rows.append(jax.device_get(metrics))
  return states, rows


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def unit(x):
  x = np.float64(x)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)
