"""`vssl train` with the toy method in the place of a run: little to compile, steps of a known time.

Called as `python -m tests.slow.toy_command FLAGS`, with the flags of `vssl train`.
"""

import dataclasses
import os
import sys
import time

import jax

from tests import toy
from vssl_jax import cli, parallel, results
from vssl_jax.cli import restarts
from vssl_jax.jobs import run
from vssl_jax.training import loop

PACE = 0.1  # seconds per step; JAX tells all processes of a signal within about a second


class _Rows(toy.Source):
  """The rows of this process, one batch after another at a walking pace."""

  def train_batches(self, start=0):
    count, index = jax.process_count(), jax.process_index()
    for batch in super().train_batches(start):
      time.sleep(PACE)
      rows = self.batch_size // count
      yield {k: v[index * rows : (index + 1) * rows] for k, v in batch.items()}


def _method():
  """The toy method; it prints when the step is traced, just before it is compiled."""
  method = toy.method()

  def after_update(params, state, updates):
    if os.environ.get("TOY_TRACING"):
      print("tracing the step", flush=True)
    return method.after_update(params, state, updates)

  return dataclasses.replace(method, after_update=after_update)


def _train(config, workdir, *, allow_config_change, profile):
  """As `jobs.pretrain`, up to the end of training."""
  values = {"steps": config.steps, "log_every": config.log_every, "save.every": config.save.every}
  result = loop.train(
    toy.config(**values),
    workdir,
    _Rows(),
    _method(),
    parallel.make_mesh(),
    allow_config_change=allow_config_change,
    tensorboard=False,
    profile=profile,
  )
  if result.preempted:
    raise loop.stopped(result, f"step {result.steps} of {workdir}")
  return {"steps": result.steps, "sha256": results.tree_hash(jax.device_get(result.state))}


def _supervised(command):
  """As `restarts._run`, with this module in the place of `vssl_jax.main`."""
  return _run([__spec__.name if x == "vssl_jax.main" else x for x in command])


if __name__ == "__main__":
  _run, restarts._run = restarts._run, _supervised
  run._JOBS["pretrain"] = _train
  sys.exit(cli.run("vssl_jax.commands.train"))
