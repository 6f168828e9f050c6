"""Run folders: opens one for reading, or writes a new one from given weights."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vssl_jax import files, methods, parallel, results
from vssl_jax.errors import UserError
from vssl_jax.methods.base import Method
from vssl_jax.training import checkpoints, mirror, optim, run_config
from vssl_jax.training import step as step_lib

LAST, BEST = "last", "best"  # names for a checkpoint, besides its step


def load_state(
  folder: pathlib.Path, which: str | int = LAST
) -> tuple[ConfigDict, Method, step_lib.TrainState]:
  """Reads the whole train state from one checkpoint of a run, onto one device.

  Args:
    folder: the run's folder.
    which: "last" (the newest undamaged one), "best" (by the run's `config.save.best`), or a step.

  Returns:
    The run's config, its method, and the state.

  Raises:
    UserError: there is no run or no such checkpoint, none can be read, or it holds NaN or infinity.
  """
  with open_run(folder) as run:
    step, state = choose(run, folder, which)
  weights = {"params": state.params, "state": state.method}
  require_finite(weights, folder / checkpoints.FOLDER / str(step))
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
        f"--which=best: {folder} was trained without config.save.best; give --which=last or a step "
        f"({kept})."
      )
    found = run.reader.best(run.like)
    if found is None:
      raise UserError(f"--which=best: no checkpoint of {folder} has {metric!r}; {kept}.")
  else:
    if not str(which).isdigit():
      raise UserError(f"--which={which}: give last, best or a step; {kept}.")
    step = int(which)
    if step not in run.reader.steps:
      raise UserError(f"--which={which}: {folder} has no checkpoint of this step; {kept}.")
    found = step, run.reader.read(step, run.like)
  assert found is not None  # `open_run` has checked that there is a checkpoint
  return found


def require_finite(tree: Any, where: pathlib.Path) -> None:
  """Checks that no array of a tree that was read from `where` holds NaN or infinity.

  Raises:
    UserError: an array does; the message names it.
  """
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    if jnp.issubdtype(x.dtype, jnp.floating) and not jnp.isfinite(x).all():
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      raise UserError(
        f"{where}: {name} holds NaN or infinity, so every result would be NaN; use an earlier "
        "checkpoint, or train again with a smaller config.optim.lr."
      )


class Run(NamedTuple):
  """A run folder that is open for reading.

  Attributes:
    config: the run's config; fields that were added in later versions have their defaults.
    method: the method of the config, on one device.
    reader: the run's checkpoints, at least one.
    like: shapes and dtypes of the state in a checkpoint, needed to read it.
  """

  config: ConfigDict
  method: Method
  reader: checkpoints.Checkpoints
  like: step_lib.TrainState


@contextlib.contextmanager
def open_run(folder: pathlib.Path) -> Iterator[Run]:
  """Opens the checkpoints of a run; the run may still be training.

  Raises:
    UserError: the folder has no run, or no checkpoint.
  """
  config = methods.from_file(run_config.load_config(folder), folder / run_config.CONFIG)
  method = methods.load(config.method).build(config, None)
  tx = optim.build(config.optim, jnp.asarray)
  # Only the shapes are needed to read a checkpoint; no weights are initialized.
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
  """Writes given weights as a run at step 0, so that training can continue from them.

  Args:
    folder: the run's folder, missing or empty; written completely or not at all.
    config: the run's config; its optimizer starts from its initial state.
    params: parameters of `config.method`.
    state: state of `config.method`.
    beside: other JSON files to write into the folder, by name.

  Raises:
    UserError: the folder already holds a run or something else.
  """
  folder = files.path(folder)
  if (folder / checkpoints.FOLDER).exists():
    raise UserError(f"{folder}: holds a run already; give another folder.")
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(f"{folder}: exists and is not an empty folder; give another folder.")
  tx = optim.build(config.optim, jnp.asarray)
  params, state = jax.tree.map(jnp.asarray, (params, state))
  with files.replacing_folder(folder.absolute(), replace=False) as partial:
    run_config.write_config(partial, config)
    for name, facts in (beside or {}).items():
      results.write_json(facts, partial / name)
    writer = checkpoints.Checkpoints(partial, config.save)
    writer.save(0, _start(tx, params, state))
    writer.close()
  if files.is_remote(folder):
    mirror.mark_complete(folder / checkpoints.FOLDER / "0")


def _start(tx: optax.GradientTransformation, params: Any, state: Any) -> step_lib.TrainState:
  """The state before the first step."""
  zero = jnp.zeros((), jnp.int32)
  return step_lib.TrainState(zero, zero, params, state, tx.init(params))
