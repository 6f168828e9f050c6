"""ρ-SwAV: codes and cross-entropies by hand, frozen prototypes, the queue's start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.methods import rho
from vssl_jax import methods
from vssl_jax.ops import embed_stats, queue

pytestmark = pytest.mark.usefixtures("flat")


def _sinkhorn(scores, epsilon=0.05, iterations=3):
  q = np.exp(scores / epsilon).T
  for _ in range(iterations):
    q = q / q.sum(1, keepdims=True) / len(q)
    q = q / q.sum(0, keepdims=True) / q.shape[1]
  return (q / q.sum(0, keepdims=True)).T


def _log_softmax(x):
  return x - np.log(np.exp(x).sum(1, keepdims=True))


def _inputs(clips, seed=0, **values):
  c = rho.config("rho_swav", **{"data.clips": clips, **values})
  rng = np.random.default_rng(seed)
  kernel = rho.unit(rng.normal(size=(12, 8))).T
  z = rng.normal(size=(8, clips, 8))
  params = {"prototypes": {"kernel": jnp.float32(kernel)}}
  return c, methods.load("rho_swav").build(c), params, jnp.float32(z), kernel, rho.unit(z)


@pytest.mark.parametrize(("codes_from", "coded"), [(2, (0, 1)), (0, (0, 1, 2)), (1, (0,))])
def test_loss_by_hand(codes_from, coded):
  _, method, params, z, kernel, unit = _inputs(3, **{"rho_swav.codes_from": codes_from})
  state = methods.load("rho_swav").State({}, None)
  loss, (_, metrics) = method.objective(params, state, z, {}, None, 0)
  scores = [unit[:, r] @ kernel for r in range(3)]
  want = np.mean(
    [
      -np.mean((_sinkhorn(scores[i]) * _log_softmax(scores[j] / 0.1)).sum(1))
      for i in coded
      for j in range(3)
      if j != i
    ]
  )
  np.testing.assert_allclose(loss, want, rtol=1e-4)
  assert 0 < metrics["prototype_usage"] <= 1


def test_no_gradient_passes_through_the_codes():
  _, method, params, z, kernel, unit = _inputs(2)
  state = methods.load("rho_swav").State({}, None)
  grad = jax.grad(lambda p: method.objective(p, state, z, {}, None, 0)[0])(params)
  want = np.zeros((8, 12))
  for i, j in ((0, 1), (1, 0)):
    p = np.exp(_log_softmax(unit[:, j] @ kernel / 0.1))
    want += unit[:, j].T @ (p - _sinkhorn(unit[:, i] @ kernel)) / 0.1 / 8 / 2
  np.testing.assert_allclose(grad["prototypes"]["kernel"], want, rtol=1e-3, atol=1e-5)


def test_queue_joins_the_codes_when_it_is_full_and_its_time_has_come():
  _, method, params, z, kernel, unit = _inputs(
    2, **{"rho_swav.queue": 16, "rho_swav.queue_start": 2.0}
  )
  rows = rho.unit(np.random.default_rng(5).normal(size=(2, 16, 8)))
  full = queue.Queue(jnp.float32(rows), jnp.zeros(2, jnp.int32), jnp.full(2, 16, jnp.int32))
  empty = full.replace(filled=jnp.full(2, 8, jnp.int32))
  state = methods.load("rho_swav").State

  def loss(ring, step):
    return method.objective(params, state({}, ring), z, {}, None, jnp.int32(step))

  def want(with_queue):
    total = 0
    for i, j in ((0, 1), (1, 0)):
      own = unit[:, i] @ kernel
      every = np.concatenate([rows[i] @ kernel, own]) if with_queue else own
      code = _sinkhorn(every)[-8:]
      total -= np.mean((code * _log_softmax(unit[:, j] @ kernel / 0.1)).sum(1)) / 2
    return total

  start = 2 * rho.Source.steps_per_epoch
  np.testing.assert_allclose(loss(full, start)[0], want(True), rtol=1e-4)
  np.testing.assert_allclose(loss(full, start - 1)[0], want(False), rtol=1e-4)
  np.testing.assert_allclose(loss(empty, start)[0], want(False), rtol=1e-4)
  after = loss(empty, 0)[1][0].queues
  np.testing.assert_allclose(after.items[:, :8], unit.swapaxes(0, 1), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(after.filled, 16)
  metrics = loss(empty, 0)[1][1]
  assert (metrics["queue_fullness"], metrics["queue_age"]) == (0.5, 0)


def test_prototypes_stay_frozen_and_then_stay_on_the_sphere():
  c = rho.config("rho_swav", **{"rho_swav.freeze_epochs": 2 / 3, "optim.weight_decay": 0.5})
  states, _ = rho.steps(c, 4)
  kernels = [s.params["prototypes"]["kernel"] for s in states]
  for k in (1, 2):
    np.testing.assert_array_equal(kernels[k], kernels[0])
    assert (
      np.abs(
        states[k].params["head"]["out"]["kernel"] - states[0].params["head"]["out"]["kernel"]
      ).max()
      > 0
    )
  for k in (3, 4):
    assert np.abs(kernels[k] - kernels[k - 1]).max() > 0
    np.testing.assert_allclose(np.linalg.norm(kernels[k], axis=0), 1, rtol=1e-5)
  # The momentum starts from nothing: the first thawed update is that of a run never frozen from
  # the same parameters.
  trace = jax.tree.leaves(states[2].optim)
  frozen = [x for x in trace if np.shape(x) == (8, 12)]
  assert frozen
  assert all(not np.any(x) for x in frozen)
  assert [int(s.updates) for s in states] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_codes_without_balancing_collapse_and_the_collapse_is_named():
  c = rho.config(
    "rho_swav",
    **{
      "rho_swav.iterations": 0,
      "rho_swav.freeze_epochs": 0.0,
      "optim.lr": 2.0,
      "optim.weight_decay": 0.0,
    },
  )
  _, rows = rho.steps(c, 40)
  row = {k: float(v) for k, v in rows[-1].items() if np.ndim(v) == 0}
  row |= {k: float(v) for k, v in embed_stats.summary(rows[-1]["embeddings"]).items()}
  assert row["prototype_entropy"] < 0.1
  assert "prototype" in embed_stats.diagnose(row)
  assert float(rows[0]["prototype_entropy"]) > 0.5


def test_published_settings():
  c = small.load("rho_swav.py")
  s = c.rho_swav
  assert (s.prototypes, s.epsilon, s.iterations, s.freeze_epochs) == (1000, 0.05, 3, 1.0)
  assert (s.codes_from, s.queue, s.temperature, s.normalize) == (2, 0, 0.1, True)
  assert (c.optim.name, c.batch_size, c.epochs) == ("lars", 512, 200.0)
