"""An encoder out of a run folder or an exported folder: what probes and exports start from."""

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

from vssl_jax import export, methods, optim, parallel, results
from vssl_jax import step as step_lib
from vssl_jax.errors import UserError
from vssl_jax.io import checkpoints
from vssl_jax.methods.base import Method, Variables


def load_encoder(path: str | os.PathLike[str]) -> tuple[ConfigDict, Variables, dict[str, Any]]:
  """The encoder of a run's newest undamaged checkpoint, or of an exported folder.

  Args:
    path: a run folder, as `--workdir` names it, or what `vssl_jax.export` wrote.

  Returns:
    The run's config, with fields that later versions added at their defaults; the encoder's
    variables {params, batch_stats}, on the host; and
    {checkpoint, step}.

  Raises:
    UserError: no run, no checkpoint, none that can be read, or NaN or infinity in it.
  """
  folder = pathlib.Path(path)
  exported, trained = (folder / x for x in (export.CARD, checkpoints.CONFIG))
  if exported.is_file() and trained.is_file():
    raise UserError(
      f"{folder}: holds a run and an exported encoder ({export.CARD}), which may differ; move "
      f"{export.CARD} and {export.WEIGHTS} to a folder of their own."
    )
  if not exported.is_file() and not trained.is_file():
    raise UserError(
      f"{folder}: no {checkpoints.CONFIG} of a run (--workdir of training) and no {export.CARD} of "
      "an exported or converted encoder there."
    )
  if exported.is_file():
    config, variables = export.load_exported(folder)
    _require_finite(variables, folder / export.WEIGHTS)
    config = methods.complete(config)
    return (
      config,
      variables,
      {"checkpoint": str(folder), **export.load_card(folder).get("checkpoint", {})},
    )
  config, method, state = load_state(folder)
  if method.encoder is None:
    raise UserError(f"{folder}: a run of {config.method}, which has no encoder of clips.")
  variables = jax.device_get(method.encoder(state.params, state.method))
  return config, variables, {"checkpoint": str(folder), "step": int(state.step)}


def load_state(folder: pathlib.Path) -> tuple[ConfigDict, Method, step_lib.TrainState]:
  """The whole train state of a run's newest undamaged checkpoint, on one device.

  Returns:
    The run's config, its method, and the state.

  Raises:
    UserError: no run, no checkpoint, none that can be read, or NaN or infinity in it.
  """
  with open_run(folder) as run:
    step, state = run.reader.restore(run.like)
  whose = {"params": state.params, "state": state.method}
  _require_finite(whose, folder / checkpoints.FOLDER / str(step))
  return run.config, run.method, state


def _require_finite(tree: Any, where: pathlib.Path) -> None:
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
  tx = optim.build(config.optim, lambda step: step)
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
    config: the run's; its optimiser starts anew.
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
  tx = optim.build(config.optim, lambda step: step)
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
