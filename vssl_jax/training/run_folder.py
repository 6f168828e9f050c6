"""A run folder opened for reading, or written with weights from elsewhere."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vssl_jax import methods, parallel, results
from vssl_jax.errors import UserError
from vssl_jax.methods.base import Method
from vssl_jax.training import checkpoints, optim
from vssl_jax.training import step as step_lib

LAST, BEST = "last", "best"  # which checkpoint, where it is not a step


def load_state(
  folder: pathlib.Path, which: str | int = LAST
) -> tuple[ConfigDict, Method, step_lib.TrainState]:
  """The whole train state of one of a run's checkpoints, on one device.

  Args:
    folder: of the run.
    which: "last" (the newest undamaged one), "best" (by the run's `config.save.best`), or a step.

  Returns:
    The run's config, its method, and the state.

  Raises:
    UserError: no run, no such checkpoint, none that can be read, or NaN or infinity in it.
  """
  with open_run(folder) as run:
    step, state = choose(run, folder, which)
  whose = {"params": state.params, "state": state.method}
  require_finite(whose, folder / checkpoints.FOLDER / str(step))
  return run.config, run.method, state


def choose(run: Run, folder: pathlib.Path, which: str | int) -> tuple[int, step_lib.TrainState]:
  """One of an open run's checkpoints, with its step; see `load_state`."""
  kept = f"there are steps {', '.join(map(str, run.reader.steps))}"
  if which == LAST:
    found = run.reader.restore(run.like)
  elif which == BEST:
    metric = run.config.save.best
    if not metric:
      raise UserError(
        f"--which=best: {folder} was trained without config.save.best; {kept}: give --which=last "
        "or a step."
      )
    found = run.reader.best(run.like)
    if found is None:
      raise UserError(f"--which=best: no checkpoint of {folder} has {metric!r}; {kept}.")
  else:
    if not str(which).isdigit():
      raise UserError(f"--which={which}: give last, best or a step; {kept}.")
    step = int(which)
    if step not in run.reader.steps:
      raise UserError(f"--which={which}: {folder} has no checkpoint of that step; {kept}.")
    found = step, run.reader.read(step, run.like)
  assert found is not None  # `open_run` has seen a checkpoint
  return found


def require_finite(tree: Any, where: pathlib.Path) -> None:
  """Checks that no array of a tree, read from `where`, holds NaN or infinity.

  Raises:
    UserError: one does; names it.
  """
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    if jnp.issubdtype(x.dtype, jnp.floating) and not jnp.isfinite(x).all():
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      raise UserError(
        f"{where}: {name} holds NaN or infinity, which everything computed with it would be; take "
        "an earlier checkpoint, or train again with a smaller config.optim.lr."
      )


class Run(NamedTuple):
  """A run folder open for reading.

  Attributes:
    config: the run's, with fields that later versions added at their defaults.
    method: of the config, on one device.
    reader: its checkpoints, one at least.
    like: shapes of a checkpoint, to read it by.
  """

  config: ConfigDict
  method: Method
  reader: checkpoints.Checkpoints
  like: step_lib.TrainState


@contextlib.contextmanager
def open_run(folder: pathlib.Path) -> Iterator[Run]:
  """Opens a run's checkpoints, which a training may be writing to at this moment.

  Raises:
    UserError: no run, or no checkpoint.
  """
  config = methods.complete(checkpoints.load_config(folder))
  method = methods.load(config.method).build(config, None)
  tx = optim.build(config.optim, jnp.asarray)
  # Shapes tell where to read to; nothing is drawn.
  whole = parallel.replicated(parallel.make_mesh(jax.local_devices()[:1]))
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
    jax.eval_shape(lambda: _start(tx, *method.init(jax.random.key(0), method.example(2)))),
  )
  missing = UserError(f"{folder}: no checkpoint there yet; train it first, or give another folder.")
  if not (folder / checkpoints.FOLDER).is_dir():
    raise missing
  reader = checkpoints.Checkpoints(folder, config.save, read_only=True)
  try:
    if not reader.steps:
      raise missing
    yield Run(config, method, reader, like)
  finally:
    reader.close()


def save_run(
  folder: pathlib.Path,
  config: ConfigDict,
  params: Any,
  state: Any,
  *,
  beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
  """Writes weights from elsewhere as a run that has made no step: training may go on from them.

  Args:
    folder: of the run, missing or empty; appears whole or not at all.
    config: the run's; its optimizer starts anew.
    params: of `config.method`.
    state: of `config.method`.
    beside: other JSON files of the folder, by name.

  Raises:
    UserError: a run or something else is there already.
  """
  folder = pathlib.Path(folder)
  if (folder / checkpoints.FOLDER).exists():
    raise UserError(f"{folder}: holds a run already; give another folder.")
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(f"{folder}: is there and not an empty folder; give another.")
  tx = optim.build(config.optim, jnp.asarray)
  params, state = jax.tree.map(jnp.asarray, (params, state))
  folder = folder.absolute()
  partial = folder.with_name(f".tmp-{os.getpid()}-{folder.name}")
  partial.mkdir(parents=True)
  try:
    checkpoints.write_config(partial, config)
    for name, facts in (beside or {}).items():
      results.write_json(facts, partial / name)
    writer = checkpoints.Checkpoints(partial, config.save)
    writer.save(0, _start(tx, params, state))
    writer.close()
    os.replace(partial, folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _start(tx: optax.GradientTransformation, params: Any, state: Any) -> step_lib.TrainState:
  """The state before the first step."""
  zero = jnp.zeros((), jnp.int32)
  return step_lib.TrainState(zero, zero, params, state, tx.init(params))
