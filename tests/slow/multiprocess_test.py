"""Two processes of four devices each on loopback get the single process's numbers."""

import shutil
import socket
import subprocess
import time

import jax
import numpy as np
import pytest

from tests import small, tolerance
from tests.slow import resume_test
from vssl_jax import methods, parallel
from vssl_jax.config import total_steps
from vssl_jax.training import metrics_log, optim, sources
from vssl_jax.training import step as step_lib

STEPS = 4
LOGGED = ("loss", "grad_norm")


def _free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def _run_here(**values):
  """The run of `main` on one device of this process, as a function of its first parameters.

  Returns:
    params -> (last state, what each step logged); and the parameters.
  """
  config = small.load("cvrl.py", "demo")
  config.update_from_flattened_dict({**small.overrides(), **values})
  source = sources.load_source(config, config.data.train_split)
  config = methods.resolve(config, source)
  mesh = parallel.make_mesh(jax.devices()[:1])
  method = methods.load(config.method).build(config, mesh)
  rate = optim.learning_rate(
    config.optim,
    config.batch_size,
    total_steps(config, source.steps_per_epoch),
    config.optim.warmup_epochs * source.steps_per_epoch,
  )
  tx = optim.build(config.optim, rate)
  advance = step_lib.make_step(method, tx, rate, seed=config.seed, accumulate=1, mesh=mesh)
  start = jax.device_get(step_lib.init(method, tx, config.seed, mesh, config.batch_size))
  kept = {*method.batch_spec, "label", "video"}
  batches = [
    {k: v for k, v in batch.items() if k in kept}
    for batch, _ in zip(source.train_batches(0), range(STEPS), strict=False)
  ]

  def run(params):
    state, rows = parallel.put_replicated(mesh, start.replace(params=params)), []
    for batch in batches:
      state, metrics = advance(state, parallel.put_batch(mesh, batch))
      rows.append(jax.device_get({k: metrics[k] for k in LOGGED}))
    return state, rows

  return run, start.params


# Plain SGD in small steps: at this size gradients are steep, and larger ones amplify rounding.
SETTINGS = {
  "steps": STEPS,
  "log_every": 1,
  "probe.run": True,
  "save.every": 2,
  "optim.name": "sgd",
  "optim.lr": 1e-5,
  "optim.warmup_epochs": 1.0,
  "head.out_bn": False,
}


def _start(folder, processes, devices, **values):
  """Starts a run of several processes of several devices each."""
  address = f"127.0.0.1:{_free_port()}"
  several = [
    {"distributed.coordinator": address, "distributed.processes": processes, "distributed.index": i}
    for i in range(processes)
  ]
  return [
    subprocess.Popen(
      resume_test.command(folder, **{**SETTINGS, **values, **(own if processes > 1 else {})}),
      cwd=small.ROOT,
      env=resume_test.environment(devices),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    for own in several
  ]


def _finish(processes):
  outputs = [p.communicate(timeout=900)[0] for p in processes]
  assert [p.returncode for p in processes] == [0] * len(processes), "".join(outputs)
  return outputs


def _check(folder, want, rounding):
  step, state = resume_test.arrays(folder)
  assert step == STEPS
  rows = [{k: np.float32(r[k]) for k in LOGGED} for r in metrics_log.read(folder)]
  tolerance.close((state, rows), want, rounding)


@pytest.mark.slow
def test_two_processes_of_four_devices_equal_one_of_eight(tmp_path):
  _finish(_start(tmp_path / "one", 1, 8))
  outputs = _finish(_start(tmp_path / "two", 2, 4))
  assert outputs[0].count("RESULT ") == 1
  assert "RESULT " not in outputs[1]
  run, start = _run_here(**SETTINGS)
  want, rounding = tolerance.value_and_rounding(run, start)
  for folder in ("one", "two"):
    _check(tmp_path / folder, want, rounding)

  # The same run, cut off by SIGKILL and continued by another number of processes.
  for before, after in (((2, 4), (1, 8)), ((1, 8), (4, 2))):
    folder = tmp_path / f"from_{before[0]}_to_{after[0]}"
    killed = _start(folder, *before)
    saved, end = folder / "checkpoints", time.monotonic() + 600
    while not (saved / "2").exists():
      assert time.monotonic() < end
      time.sleep(0.05)
    for process in killed:
      process.kill()
      process.communicate()
    shutil.rmtree(saved / str(STEPS), ignore_errors=True)  # if the kill came too late
    output = _finish(_start(folder, *after))[0]
    assert f"Resuming {folder} at step 2 of {STEPS}" in output
    _check(folder, want, rounding)


@pytest.mark.slow
def test_a_program_too_large_to_run_in_sequence(tmp_path):
  """XLA runs small programs in sequence on a CPU; their exchanges cannot overtake each other."""
  values = {"encoder.width": 0.125, "data.size": 56, "head.hidden": (256,), "steps": 2}
  values |= {"optim.warmup_epochs": 0.0, "probe.run": False}
  _finish(_start(tmp_path, 2, 1, **values))
