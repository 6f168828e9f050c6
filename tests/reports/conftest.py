"""Folders as training and `evaluate` write them, with texts of a hostile user."""

import json

import numpy as np
import pytest

from vssl_jax import methods
from vssl_jax.reports import page

EVIL = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def light_plotly(monkeypatch, request):
  """A stand-in for Plotly's 5 MB, except in a browser."""
  if "browser" not in request.fixturenames:
    monkeypatch.setattr(page, "plotly", lambda: "var Plotly = {};")


def write(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value), encoding="utf-8")


def make_run(folder, *, seed=0, finished=True, steps=6, **changes):
  """A run of CVRL whose loss is seed + 1 / step."""
  config = json.loads(methods.base_config("cvrl").to_json())
  config |= {"name": f"mine {EVIL}", "seed": seed, "batch_size": 48, **changes}
  write(folder / "config.json", config)
  rows = [
    {
      "step": 10 * i,
      "epoch": i / 2,
      "loss": seed + 1 / i,
      "loss_of_guessing": 0.1,
      "effective_rank": 2.0,
      "input_wait": 0.5,
      "odd one": float(i),
    }
    for i in range(1, steps + 1)
  ]
  text = "".join(json.dumps(r) + "\n" for r in rows)
  (folder / "metrics.jsonl").write_text(text + '{"step": 70, "lo', encoding="utf-8")
  if finished:
    headline = {"knn_top1": {"trained": 0.625, "random_init": 0.25}}
    write(folder / "result.json", {"headline": headline, "train_seconds": 75.0, "seconds": 99.0})
  return folder


@pytest.fixture
def run(tmp_path):
  return make_run(tmp_path / "run")


@pytest.fixture
def rng():
  return np.random.default_rng(0)
