"""ρ-MoCo: the loss by hand, the queue's order, and that nothing moves while it fills."""

import jax
import numpy as np
import pytest

from tests import small, tolerance
from tests.methods import rho
from vssl_jax import methods, parallel
from vssl_jax.errors import UserError
from vssl_jax.ops import ema
from vssl_jax.training import checkpoints, loop, optim
from vssl_jax.training import step as step_lib

pytestmark = pytest.mark.usefixtures("flat")


def _embed(c):
  """The method, its parameters and state, and the embeddings of its first batch."""
  method, _, params, state = rho.start(c)
  batch, rng = rho.keyed(c)
  e, _ = rho.hasty(method.embed)(params, state, batch)
  return method, params, state, batch, rng, jax.device_get(e)


@pytest.mark.parametrize("positives", ["separate", "sum"])
def test_loss_and_queue_by_hand(positives):
  c = rho.config("rho_moco", **{"data.clips": 3, "rho_moco.positives": positives})
  method, params, state, batch, rng, e = _embed(c)
  loss, (after, metrics) = method.objective(params, state, e, batch, rng, 0)
  q, k = rho.unit(e["q"]["z"]), rho.unit(e["k"])
  negative = np.exp(q @ rho.unit(state.queue.items).T / 0.1).sum(-1)  # [N, ρ]
  losses = []
  for r in range(3):
    own = np.stack([np.exp((q[:, r] * k[:, j]).sum(-1) / 0.1) for j in range(3) if j != r])
    if positives == "separate":
      losses.append(-np.log(own / (own + negative[:, r])))
    else:
      losses.append(-np.log(own.sum(0) / (own.sum(0) + negative[:, r])))
  np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
  # Clip by clip into the ring, unit length, after the loss has seen the old queue.
  rows = k.swapaxes(0, 1).reshape(-1, k.shape[-1])
  np.testing.assert_allclose(after.queue.items[: len(rows)], rows, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(after.queue.items[len(rows) :], state.queue.items[len(rows) :])
  assert (after.queue.pointer, after.queue.filled) == (24, 24)
  assert metrics["queue_fullness"] == 0


def test_keys_are_the_targets_and_have_no_gradient():
  c = rho.config("rho_moco")
  c.augment.flip = 0.0
  method, params, state, batch, rng, e = _embed(c)
  same = np.asarray(e["q"]["z"])
  np.testing.assert_allclose(same, e["k"], rtol=1e-4, atol=1e-4)  # the target starts as a copy
  moved = state.replace(
    target=state.target.replace(params=jax.tree.map(lambda x: 1.5 * x, state.target.params))
  )
  other, _ = rho.hasty(method.embed)(params, moved, batch)
  np.testing.assert_allclose(other["q"]["z"], same, rtol=1e-4, atol=1e-4)
  assert np.abs(np.asarray(other["k"]) - same).max() > 0.1

  def through(target):
    s = state.replace(target=state.target.replace(params=target))
    e, s = method.embed(params, s, batch)
    return method.objective(params, s, e, batch, rng, 0)[0]

  for g in jax.tree.leaves(rho.hasty(jax.grad(through))(state.target.params)):
    np.testing.assert_array_equal(g, 0)


def test_nothing_moves_while_the_queue_fills():
  c = rho.config("rho_moco", **{"optim.weight_decay": 0.5, "encoder.bn_momentum": 0.9})
  states, rows = rho.steps(c, 4)  # the queue takes two steps' keys
  for k in (1, 2):
    rho.same(states[k].params, states[0].params)
    rho.same(states[k].method.target.params, states[0].method.target.params)
    rho.same(states[k].optim, states[0].optim)
    assert (states[k].updates, states[k].step) == (0, k)
    assert states[k].method.queue.filled == 16 * k
    assert rows[k - 1]["update_norm"] == 0
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), states[3].params, states[2].params)
  assert all(x > 0 for x in jax.tree.leaves(moved))
  assert [int(s.updates) for s in states] == [0, 0, 0, 1, 2]
  assert [float(r["lr"]) for r in rows[:3]] == [float(rows[0]["lr"])] * 3
  assert rows[3]["lr"] < rows[2]["lr"]


def test_target_follows_by_the_annealed_momentum():
  c = rho.config("rho_moco", steps=10)
  states, _ = rho.steps(c, 4)
  total = 10 - 2  # two steps fill the queue
  for k, before, after in ((0, states[2], states[3]), (1, states[3], states[4])):
    m = float(ema.momentum(0.97, k, total))
    assert (m == pytest.approx(0.97, abs=1e-6)) == (k == 0)
    want = jax.tree.map(
      lambda t, p, m=m: m * t + (1 - m) * p,
      before.method.target.params,
      {x: after.params[x] for x in ("encoder", "head")},
    )
    tolerance.close(after.method.target.params, want)


def test_idle_steps_are_those_that_the_gate_is_shut():
  for clips, size, want in ((2, 32, 2), (3, 32, 2), (3, 48, 2), (2, 33, 3), (2, 1, 1)):
    c = rho.config("rho_moco", **{"data.clips": clips, "rho_moco.queue": size})
    assert methods.load("rho_moco").build(c).frozen_steps == want
  c = rho.config("rho_moco", **{"rho_moco.wait": False})
  method = methods.load("rho_moco").build(c)
  assert (method.frozen_steps, method.update_mask) == (0, None)
  c = rho.config("rho_moco", **{"rho_moco.enqueue": "first", "rho_moco.queue": 32})
  assert methods.load("rho_moco").build(c).frozen_steps == 4


def test_run_too_short_to_fill_the_queue_is_refused(tmp_path):
  c = rho.config("rho_moco", steps=2)
  mesh = parallel.make_mesh(jax.devices()[:1])
  with pytest.raises(UserError, match="2 steps, and rho_moco updates nothing in its first 2"):
    loop.train(c, tmp_path, rho.Source, methods.load("rho_moco").build(c, mesh), mesh)


def test_queue_is_split_over_the_devices_that_divide_it():
  c = rho.config("rho_moco", **{"rho_moco.queue": 24})
  _, mesh, _, state = rho.start(c, devices=8)
  assert state.queue.items.addressable_shards[0].data.shape == (3, 8)
  assert state.target.params["encoder"]["stem"]["kernel"].sharding.is_fully_replicated
  assert mesh.size == 8
  _, _, _, state = rho.start(rho.config("rho_moco", **{"rho_moco.queue": 25}), devices=8)
  assert state.queue.items.sharding.is_fully_replicated


@pytest.mark.slow
def test_checkpoint_of_eight_devices_restores_on_one_and_on_two(tmp_path):
  c = rho.config("rho_moco", **{"rho_moco.queue": 48})
  tx = optim.build(c.optim, lambda i: 0.1)

  def state(devices):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    return step_lib.init(methods.load("rho_moco").build(c, mesh), tx, 0, mesh, rho.N)

  eight = state(8)
  saver = checkpoints.Checkpoints(tmp_path, c.save)
  saver.save(3, eight)
  saver.close()
  for devices in (1, 2):
    like = jax.tree.map(lambda x: x * 0, state(devices))
    reader = checkpoints.Checkpoints(tmp_path, c.save)
    step, restored = reader.restore(like)
    reader.close()
    assert step == 3
    rho.same(jax.device_get(eight), jax.device_get(restored))
    shards = restored.method.queue.items.addressable_shards
    assert [x.data.shape for x in shards] == [(48 // devices, 8)] * devices


def test_shuffled_keys_see_other_groups():
  values = {"encoder.bn_groups": 4, "head.bn_groups": 4}
  plain, shuffled = (
    _embed(rho.config("rho_moco", **{"rho_moco.shuffle_bn": s, **values}))[-1]
    for s in (False, True)
  )
  np.testing.assert_allclose(plain["q"]["z"], shuffled["q"]["z"], rtol=1e-4, atol=1e-4)
  assert np.abs(plain["k"] - shuffled["k"]).max() > 0.05
  # Over one group there is nothing to shuffle, and the rows come back in their order.
  whole, same = (
    _embed(rho.config("rho_moco", **{"rho_moco.shuffle_bn": s, **v}))[-1]
    for s, v in ((False, {}), (True, {"head.bn_groups": 2}))
  )
  np.testing.assert_allclose(whole["k"], same["k"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("block", [0, 2])
def test_grouped_and_shuffled_one_device_equals_two_and_eight(block):
  """With two devices, a group lies on each; with eight, a group spans several."""
  values = {"encoder.bn_groups": 2, "head.bn_groups": 2, "head.bn": True}
  c = rho.config("rho_moco", **values, **{"rho_moco.shuffle_block": block})
  want, rounding = rho.gradients_and_rounding(c)
  for devices in (2, 8):
    tolerance.close(rho.gradients(c, devices=devices), want, rounding)


def test_a_block_of_groups_that_does_not_fit_is_refused():
  for block, said in ((3, "must divide the 4 batch norm groups"), (-1, "must not be negative")):
    values = {"encoder.bn_groups": 4, "rho_moco.shuffle_bn": True, "rho_moco.shuffle_block": block}
    with pytest.raises(UserError, match=f"rho_moco.shuffle_block is {block}: .*{said}"):
      methods.build(rho.config("rho_moco", **values))


@pytest.mark.slow
def test_buffers_may_follow_too():
  c = rho.config("rho_moco", **{"rho_moco.wait": False, "rho_moco.anneal": False})
  plain, _ = rho.steps(c, 1)
  c.rho_moco.ema_buffers = True
  states, _ = rho.steps(c, 1)
  norm = lambda s: s["encoder"]["norm"]["mean"]
  own, online = norm(plain[1].method.target.stats), norm(states[1].method.stats)
  want = 0.97 * own + 0.03 * online
  np.testing.assert_allclose(norm(states[1].method.target.stats), want, rtol=1e-4, atol=1e-5)


def test_published_settings():
  c = small.load("rho_moco.py")
  m, o = c.rho_moco, c.optim
  assert (m.queue, m.temperature, m.momentum, m.anneal) == (65536, 0.1, 0.994, True)
  assert (o.name, o.momentum, o.nesterov, o.weight_decay) == ("sgd", 0.9, True, 1e-4)
  assert optim.peak_lr(o, c.batch_size) == pytest.approx(0.4)
  assert (c.data.frames, c.data.stride, c.head.bn, c.batch_size) == (8, 8, False, 512)
  method = methods.load("rho_moco").build(c)
  assert method.frozen_steps == 64
