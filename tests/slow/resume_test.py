"""SIGKILL at any moment, on the real `main`: the resumed run equals the uninterrupted one.

Bit for bit, as both are the same program on one machine; another processor's run has other digits.
"""

import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests import small
from vssl_jax.training import run_folder

STEPS = 100


# A method's own values at toy size; the queues fill, and the prototypes thaw, within the run.
METHODS = {
  "cvrl": {},
  "rho_simclr": {"data.clips": 3},
  "rho_moco": {"data.clips": 3, "rho_moco.queue": 70, "rho_moco.sequential": True},
  "rho_byol": {"rho_byol.predictor": (16,)},
  "provico": {"data.clips": 2},
  "rho_swav": {"rho_swav.prototypes": 12, "rho_swav.queue": 20, "rho_swav.queue_start": 2.0},
}


def command(workdir, method="cvrl", **values):
  values = {"steps": STEPS, "save.every": 5, "log_every": 1, "probe.run": False, **values}
  return [
    sys.executable,
    "-m",
    "vssl_jax.main",
    f"--config=configs/{method}.py:demo",
    f"--workdir={workdir}",
    *small.flags(**values),
  ]


def run(workdir, method="cvrl", **values):
  return subprocess.run(
    command(workdir, method, **values),
    cwd=small.ROOT,
    env=environment(),
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    timeout=600,
    check=False,
  )


def environment(devices=1):
  return {**os.environ, "XLA_FLAGS": small.xla_flags(devices), "PYTHONUNBUFFERED": "1"}


def arrays(workdir):
  """The step and every array of the newest checkpoint."""
  _, _, state = run_folder.load_state(workdir)
  return int(state.step), jax.device_get(state)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_sigkill_at_random_moments_then_resume_is_bit_exact(tmp_path, method):
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  values = METHODS[method] | ({"knn.every_epochs": 5.0} if method != "cvrl" else {})
  done = run(whole, method, **values)
  assert done.returncode == 0, done.stdout
  rng = random.Random(0)
  times = 3 if method == "cvrl" else 1
  kills = 0
  for _ in range(times):
    process = subprocess.Popen(
      command(cut, method, **values),
      cwd=small.ROOT,
      env=environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    wanted = rng.randrange(11, 30)  # further steps; the first save is complete after ten
    for line in process.stdout:
      wanted -= line.startswith("step ")
      if wanted <= 0:
        time.sleep(rng.random() * 0.2)  # anywhere within a step, or within a save
        process.send_signal(signal.SIGKILL)
        break
    kills += process.wait() == -signal.SIGKILL
  assert kills >= min(times, 2)
  resumed = run(cut, method, **values)
  assert resumed.returncode == 0, resumed.stdout
  assert "Resuming" in resumed.stdout
  (step, a), (other, b) = arrays(whole), arrays(cut)
  assert step == other == STEPS
  jax.tree.map(np.testing.assert_array_equal, a, b)
  # Each step's loss and norms: the next batches were the same.
  assert small.rows(whole) == small.rows(cut)


@pytest.mark.slow
def test_sigterm_saves_and_exits_143(tmp_path):
  process = subprocess.Popen(
    command(tmp_path, **{"save.every": 0, "steps": 100_000}),
    cwd=small.ROOT,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  for line in process.stdout:
    if line.startswith("step 3/"):
      process.send_signal(signal.SIGTERM)
      break
  rest = process.stdout.read()
  assert process.wait(timeout=120) == 143, rest
  assert "SIGTERM: saved step" in rest
  assert arrays(tmp_path)[0] >= 3
