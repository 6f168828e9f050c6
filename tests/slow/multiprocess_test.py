"""Two processes of four devices each on loopback get the single process's numbers."""

import socket
import subprocess

import jax
import numpy as np
import pytest

from tests import small
from tests.slow import resume_test
from vssl_jax.training import metrics_log


def _free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def _environment(devices):
  flags = f"--xla_force_host_platform_device_count={devices}"
  return {**resume_test.environment(), "XLA_FLAGS": flags}


@pytest.mark.slow
def test_two_processes_of_four_devices_equal_one_of_eight(tmp_path):
  # Plain SGD in small steps: at this size gradients are steep, and larger ones amplify rounding.
  # A bias before batch norm has rounding for a gradient, and nothing else.
  settings = {
    "steps": 4,
    "probe.run": True,
    "save.every": 2,
    "optim.name": "sgd",
    "optim.lr": 1e-5,
    "optim.warmup_epochs": 1.0,
    "head.out_bn": False,
  }
  one, two = tmp_path / "one", tmp_path / "two"
  done = subprocess.run(
    resume_test.command(one, **settings),
    cwd=small.ROOT,
    env=_environment(8),
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    timeout=900,
    check=False,
  )
  assert done.returncode == 0, done.stdout
  address = f"127.0.0.1:{_free_port()}"
  processes = [
    subprocess.Popen(
      resume_test.command(
        two,
        **settings,
        **{"distributed.coordinator": address, "distributed.processes": 2, "distributed.index": i},
      ),
      cwd=small.ROOT,
      env=_environment(4),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    for i in range(2)
  ]
  outputs = [p.communicate(timeout=900)[0] for p in processes]
  assert [p.returncode for p in processes] == [0, 0], outputs[0] + outputs[1]
  assert outputs[0].count("RESULT ") == 1
  assert "RESULT " not in outputs[1]
  (step, a), (other, b) = resume_test.arrays(one), resume_test.arrays(two)
  assert step == other == 4

  def close(x, y):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-3 * max(np.abs(x).max(), 1e-3))

  jax.tree.map(close, a, b)
  for x, y in zip(metrics_log.read(one), metrics_log.read(two), strict=True):
    np.testing.assert_allclose(x["loss"], y["loss"], rtol=1e-4)
    np.testing.assert_allclose(x["grad_norm"], y["grad_norm"], rtol=1e-3)
