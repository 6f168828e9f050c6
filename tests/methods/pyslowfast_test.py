"""Four whole updates by this library's methods and train step beside PySlowFast's own numbers.

The inputs are formulas and the numbers come from its released code: see tests/oracles. As there,
MoCo and BYOL run in sequential mode, which sums over queries; the queue starts full; SwAV's
prototypes stand still up to and with the step at which the first epoch ends.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracles import pyslowfast as theirs
from vssl_jax import augment, methods, models, parallel
from vssl_jax.ops import queue
from vssl_jax.training import optim
from vssl_jax.training import step as step_lib

pytestmark = pytest.mark.slow

NUMBERS = theirs.numbers()["updates"]


class Encoder(nn.Module):
  """Their tiny backbone's: one layer without bias, then ReLU."""

  features_dim: int = 6

  @nn.compact
  def __call__(self, clips, train=False):
    x = clips.reshape(len(clips), -1)
    kernel = self.param("kernel", nn.initializers.zeros, (x.shape[1], self.features_dim))
    return nn.relu(x @ kernel)


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
  monkeypatch.setattr(models, "build_encoder", lambda config, mesh=None: Encoder())


def _config(method, rho):
  name = f"rho_{method}"
  c = methods.base_config(name)
  c.batch_size, c.epochs, c.steps_per_epoch = theirs.VIDEOS, float(theirs.EPOCHS), theirs.STEPS
  c.data.clips, c.data.frames, c.data.size = rho, 2, 2
  augment.presets.none(c.augment)
  c.encoder.dtype = "float32"
  c.head.hidden, c.head.out, c.head.bn = (8,), theirs.DIM, method != "moco"
  m, o = c[name], c.optim
  m.temperature = theirs.TEMPERATURE[method]
  if method in ("moco", "byol"):
    m.momentum, m.queries, m.sequential = theirs.MOMENTUM, "sum", True
  if method == "moco":
    m.queue, m.wait = theirs.QUEUE, False
  if method == "byol":
    m.predictor = (8,)
  if method == "simclr":
    m.pairs, m.over_pairs = "consecutive", "sum"
  if method == "swav":
    m.prototypes, m.freeze_epochs = theirs.PROTOTYPES, (theirs.STEPS + 1) / theirs.STEPS
  o.name = "sgd" if method == "moco" else "lars"
  o.nesterov, o.decay_bias, o.weight_decay = True, True, theirs.WEIGHT_DECAY
  o.lr, o.warmup_lr, o.lr_batch = theirs.LR[method], theirs.WARMUP_LR, theirs.VIDEOS
  return c


def _float32(tree):
  return jax.tree.map(jnp.float32, tree)


def _run(method, rho):
  """First and last state, losses and rates of their updates."""
  c = _config(method, rho)
  mesh = parallel.make_mesh(jax.devices()[:1])
  ours = methods.load(c.method).build(c, mesh)
  rate = optim.learning_rate(
    c.optim, theirs.VIDEOS, theirs.EPOCHS * theirs.STEPS, theirs.WARMUP_EPOCHS * theirs.STEPS
  )
  tx = optim.build(c.optim, rate)
  state = step_lib.init(ours, tx, 0, mesh, 8)
  params, inner = theirs.parameters(method), state.method
  if method == "swav":
    params["prototypes"] = {"kernel": theirs.unit(theirs.prototypes()).T}
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, state.params)
  if method in ("moco", "byol"):
    still = {k: params[k] for k in ("encoder", "head")}
    inner = inner.replace(target=inner.target.replace(params=_float32(still)))
  if method == "moco":
    ring = queue.Queue(jnp.float32(theirs.queue()), jnp.int32(0), jnp.int32(theirs.QUEUE))
    inner = inner.replace(queue=ring)
  first = state = state.replace(params=_float32(params), method=inner)
  advance = step_lib.make_step(ours, tx, rate, seed=0, accumulate=1, mesh=mesh)
  losses, rates = [], []
  for k in range(theirs.UPDATES):
    clips = theirs.clips(rho, k).swapaxes(0, 1)
    n = theirs.VIDEOS
    batch = {"clips": clips, "label": np.zeros(n, np.int32), "video": np.arange(n)}
    state, metrics = advance(state, parallel.put_batch(mesh, batch))
    losses.append(float(metrics["loss"]))
    rates.append(float(metrics["lr"]))
  return jax.device_get(first), jax.device_get(state), losses, rates


def _arrays(tree):
  return {k: _arrays(v) for k, v in tree.items()} if isinstance(tree, dict) else np.asarray(tree)


def _changes_alike(method, start, ours, theirs_tree):
  """What the updates changed; a bias before a batch norm has no gradient but rounding."""
  want = _arrays(theirs_tree)
  for part in want:
    for key, value in want[part].items() if part != "prototypes" else ():
      pairs = value.items() if isinstance(value, dict) else [(None, value)]
      for leaf, x in pairs:
        if method != "moco" and (key, leaf) == ("dense_0", "bias"):
          continue
        a, b = (t[part][key] if leaf is None else t[part][key][leaf] for t in (start, ours))
        change = x - a
        least = max(1e-2 * np.abs(change).max(), 2e-6)  # below that it is float32's rounding
        np.testing.assert_allclose(b - a, change, rtol=1e-3, atol=least)


@pytest.mark.parametrize("rho", [2, 3])
@pytest.mark.parametrize("method", ["moco", "simclr", "byol", "swav"])
def test_whole_updates(method, rho):
  want = NUMBERS[method][str(rho)]
  first, last, losses, rates = _run(method, rho)
  np.testing.assert_allclose(rates, want["rates"], rtol=1e-5)
  np.testing.assert_allclose(losses, want["losses"], rtol=1e-4)
  _changes_alike(method, first.params, last.params, want["params"])
  if method in ("moco", "byol"):
    _changes_alike(method, first.method.target.params, last.method.target.params, want["target"])
  if method == "moco":
    np.testing.assert_allclose(last.method.queue.items, want["queue"], rtol=1e-3, atol=1e-4)
    assert int(last.method.queue.pointer) == want["pointer"]
  if method == "swav":
    got, kernel = last.params["prototypes"]["kernel"], _arrays(want["params"])["prototypes"]
    kernel = kernel["kernel"] / np.linalg.norm(kernel["kernel"], axis=0)
    start = first.params["prototypes"]["kernel"]
    np.testing.assert_allclose(got - start, kernel - start, rtol=1e-2, atol=1e-4)
