"""Frozen protocols: the solver that was asked for reaches the fits, on the task's devices."""

import types

import jax
import numpy as np

from vssl_jax import parallel
from vssl_jax.evaluation import frozen
from vssl_jax.evaluation import options as options_lib
from vssl_jax.ops import softmax_regression


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
