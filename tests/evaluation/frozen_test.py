"""Frozen protocols: the solver that was asked for reaches the fits, on the task's devices."""

import types

import jax
import numpy as np
import pytest

from tests import small
from vssl_jax import parallel
from vssl_jax.evaluation import frozen
from vssl_jax.evaluation import options as options_lib
from vssl_jax.ops import softmax_regression
from vssl_jax.probes import knn


def _task(solver):
  rng = np.random.default_rng(0)
  label = np.arange(60) % 3
  x = (np.eye(3)[label] + 0.5 * rng.standard_normal((60, 3))).astype(np.float32)
  bank = types.SimpleNamespace(label=label, names=(), mean=lambda: x)
  return types.SimpleNamespace(
    options=options_lib.make(solver=solver),
    config=types.SimpleNamespace(seed=0),
    train=types.SimpleNamespace(label_names=("a", "b", "c")),
    label_names=("a", "b", "c"),
    given=(x, label, x, label),
    bank=bank,
    folder=None,
    labeled={"train": 60, "eval": 60},
    read={"train": 60, "eval": 60},
    mesh=parallel.make_mesh(jax.devices()[:1]),
  )


def _meshes(monkeypatch):
  seen, rows = [], softmax_regression.Rows

  def record(*args, **kwargs):
    seen.append(kwargs["mesh"])
    return rows(*args, **kwargs)

  monkeypatch.setattr(softmax_regression, "Rows", record)
  return seen


def test_both_protocols_use_the_solver_and_the_devices(monkeypatch):
  seen = _meshes(monkeypatch)
  task = _task("device")
  assert "preconditioned" in frozen._run_logistic(task)["optimizer"]
  assert seen == [task.mesh]
  frozen._run_cross_validation(task)
  assert seen == [task.mesh] * 6


def test_small_data_stays_with_scikit_learn(monkeypatch):
  seen = _meshes(monkeypatch)
  assert "scikit-learn" in frozen._run_logistic(_task("auto"))["optimizer"]
  assert not seen


def test_results_from_before_the_option_stay_valid():
  for describe in (frozen._describe_logistic, frozen._describe_cross_validation):
    assert "solver" not in describe(_task("auto"))
    assert describe(_task("device")) == describe(_task("auto")) | {"solver": "device"}


@pytest.mark.parametrize("bound", [True, False])
def test_as_many_neighbors_vote_as_the_result_says(bound):
  rng = np.random.default_rng(0)
  label, bank = np.array([0] * 12 + [1] * 4), rng.normal(size=(16, 3))
  task = types.SimpleNamespace(
    bank=types.SimpleNamespace(mean=lambda: bank, label=label),
    config=small.load("cvrl.py", "k400"),
    label_names=("a", "b"),
  )
  task.config.knn.bound = bound
  queries = rng.normal(size=(5, 3))
  want = knn.weighted_knn(bank, label, queries, classes=2, k=4 if bound else 16)
  np.testing.assert_array_equal(frozen.knn_votes(task, queries), want)
