"""One step of any method: gates, accumulation, keys, devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import toy
from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.ops import step_keys
from vssl_jax.training import optim
from vssl_jax.training import step as step_lib


def _run(method, steps=3, devices=1, accumulate=1, **values):
  config = toy.config(**values)
  mesh = parallel.make_mesh(jax.devices()[:devices])
  rate = optim.schedule(0.1, 12, 2)
  tx = optim.build(config.optim, rate)
  advance = step_lib.make_step(method, tx, rate, seed=0, accumulate=accumulate, mesh=mesh)
  state, source, rows = step_lib.init(method, tx, 0, mesh, 8), toy.Source(), []
  for k in range(steps):
    state, metrics = advance(state, parallel.put_batch(mesh, source.batch(k)))
    rows.append(jax.device_get(metrics))
  return jax.device_get(state), rows


def _close(a, b, rtol=1e-5):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7), a, b)


def test_first_update_by_hand():
  state, rows = _run(toy.method(), steps=1, **{"optim.momentum": 0.0, "optim.weight_decay": 0.0})
  start = step_lib.init(
    toy.method(), optim.build(toy.config().optim, lambda i: 0.0), 0, parallel.make_mesh(), 8
  )
  _, keys = step_keys.step_keys(0, jnp.int32(0), 8)
  batch = toy.Source().batch(0)
  x, y = np.float64(batch["features"]), np.where(batch["label"] > 0, 1.0, -1.0)[:, None]
  noise = 0.1 * np.stack([np.asarray(jax.random.normal(k, (4,))) for k in keys])
  kernel = np.float64(jax.device_get(start.params["kernel"]))
  z = x @ kernel + noise
  np.testing.assert_allclose(rows[0]["loss"], np.mean(np.logaddexp(0, -y * z)), rtol=1e-5)
  dz = -y / (1 + np.exp(y * z)) / z.size
  np.testing.assert_allclose(
    rows[0]["grad_norm"], np.sqrt(((x.T @ dz) ** 2).sum() + (dz.sum(0) ** 2).sum()), rtol=1e-5
  )
  assert rows[0]["lr"] == 0.0  # warm-up starts from zero
  np.testing.assert_allclose(state.params["kernel"], kernel, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_is_exact(accumulate):
  whole, rows = _run(toy.method())
  parts, part_rows = _run(toy.method(), accumulate=accumulate)
  _close(whole.params, parts.params)
  _close(whole.method, parts.method)
  for a, b in zip(rows, part_rows, strict=True):
    _close(a, b, rtol=1e-4)


def test_whole_loss_equals_its_two_parts():
  _close(_run(toy.method())[0], _run(toy.method(two_part=False))[0])


def test_whole_loss_cannot_be_accumulated():
  with pytest.raises(UserError, match=r"config\.accumulate is 2"):
    _run(toy.method(two_part=False), accumulate=2)


def test_one_device_equals_eight():
  one, rows = _run(toy.method())
  eight, eight_rows = _run(toy.method(), devices=8)
  _close(one, eight)
  for a, b in zip(rows, eight_rows, strict=True):
    _close(a, b)


def test_closed_gate_moves_nothing_but_the_method_state():
  closed = toy.method(update_mask=lambda state, step: step >= 2)
  state, rows = _run(closed, steps=2)
  mesh, tx = parallel.make_mesh(jax.devices()[:1]), optim.build(toy.config().optim, lambda i: 0.0)
  start = jax.device_get(step_lib.init(closed, tx, 0, mesh, 8))
  np.testing.assert_array_equal(state.params["kernel"], start.params["kernel"])
  np.testing.assert_array_equal(state.method.slow, start.method.slow)
  for a, b in zip(jax.tree.leaves(state.optim), jax.tree.leaves(start.optim), strict=True):
    np.testing.assert_array_equal(a, b)
  assert (state.step, state.updates, state.method.seen) == (2, 0, 2)
  # Open again: the schedule starts where it stopped, at update 0.
  state, rows = _run(closed, steps=4)
  assert (state.updates, [float(r["lr"]) for r in rows][2]) == (2, 0.0)
  assert rows[3]["lr"] > 0


def test_frozen_subset_stays_with_its_momentum():
  def update_mask(state, step):
    return {"kernel": jnp.bool_(True), "bias": step >= 3}

  state, _ = _run(toy.method(update_mask=update_mask), steps=3)
  np.testing.assert_array_equal(state.params["bias"], np.zeros(4))
  is_trace = lambda s: isinstance(s, optax.TraceState)
  (trace,) = filter(is_trace, jax.tree.leaves(state.optim, is_leaf=is_trace))
  np.testing.assert_array_equal(trace.trace["bias"], np.zeros(4))
  assert np.abs(trace.trace["kernel"]).max() > 0
  free, _ = _run(toy.method(), steps=3)
  np.testing.assert_allclose(state.params["kernel"][0, 0], free.params["kernel"][0, 0], rtol=1e-2)
  assert np.abs(_run(toy.method(update_mask=update_mask), steps=5)[0].params["bias"]).max() > 0


def test_gate_may_be_a_prefix_and_holds_against_after_update():
  def nest(params):
    return {"head": {"kernel": params["kernel"], "bias": params["bias"]}}

  plain = toy.method()

  def flat(fn):
    return lambda params, state, *rest: fn(params["head"], state, *rest)

  def push(params, state, updates):
    del updates
    return jax.tree.map(lambda x: x + 1.0, params), state

  method = dataclasses.replace(
    plain,
    init=lambda rng, batch: (lambda p, s: (nest(p), s))(*plain.init(rng, batch)),
    embed=flat(plain.embed),
    objective=flat(plain.objective),
    after_update=push,
    update_mask=lambda state, step: {"head": step >= 1},
  )
  states = [_run(method, steps=k)[0] for k in (1, 2)]
  start = jax.device_get(method.init(jax.random.key(0), method.example(2))[0])
  np.testing.assert_allclose(states[0].params["head"]["kernel"], start["head"]["kernel"], rtol=1e-6)
  assert (states[1].params["head"]["kernel"] - start["head"]["kernel"]).min() > 0.5


def test_keys_depend_on_seed_step_and_row_only():
  rng, keys = step_keys.step_keys(3, jnp.int32(5), 8)
  _, more = step_keys.step_keys(3, jnp.int32(5), 16)
  data = jax.random.key_data
  np.testing.assert_array_equal(data(keys), data(more)[:8])
  everything = np.concatenate(
    [np.asarray(data(step_keys.step_keys(s, jnp.int32(k), 8)[1])) for s in (0, 1) for k in (0, 1)]
  )
  assert len(np.unique(everything, axis=0)) == 32
  assert not any((np.asarray(data(rng)) == row).all() for row in np.asarray(data(keys)))
