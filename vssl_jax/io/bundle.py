"""An encoder out of a run folder or an exported folder: what probes and exports start from."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax import export, methods, optim, parallel
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
    UserError: no run, no checkpoint, or none that can be read.
  """
  folder = pathlib.Path(path)
  if (folder / export.CARD).is_file():
    config, variables = export.load_exported(folder)
    config = config_lib.complete(config)
    return config, variables, {"checkpoint": str(folder), **export.load_card(folder)["checkpoint"]}
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
    UserError: no run, no checkpoint, or none that can be read.
  """
  config = config_lib.complete(checkpoints.load_config(folder))
  missing = UserError(f"{folder}: no checkpoint there yet; train it first, or give another folder.")
  if not (folder / checkpoints.FOLDER).is_dir():
    raise missing
  method = methods.load(config.method).build(config, None)
  tx = optim.build(config.optim, lambda step: step)
  mesh = parallel.make_mesh(jax.local_devices()[:1])
  # Shapes tell where to read to; nothing is drawn.
  whole = parallel.replicated(mesh)
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
    jax.eval_shape(lambda: _start(tx, *method.init(jax.random.key(0), method.example(2)))),
  )
  reader = checkpoints.Checkpoints(folder, config.save, read_only=True)
  restored = reader.restore(like)
  reader.close()
  if restored is None:
    raise missing
  return config, method, restored[1]


def save_run(folder: pathlib.Path, config: ConfigDict, params: Any, state: Any) -> None:
  """Writes weights from elsewhere as a run that has made no step: training may go on from them.

  Args:
    folder: of the run, without checkpoints yet.
    config: the run's; its optimiser starts anew.
    params: of `config.method`.
    state: of `config.method`.

  Raises:
    UserError: a run is there already.
  """
  if (folder / checkpoints.FOLDER).exists():
    raise UserError(f"{folder}: holds a run already; give another folder.")
  folder.mkdir(parents=True, exist_ok=True)
  tx = optim.build(config.optim, lambda step: step)
  params, state = jax.tree.map(jnp.asarray, (params, state))
  checkpoints.write_config(folder, config)
  writer = checkpoints.Checkpoints(folder, config.save)
  writer.save(0, _start(tx, params, state))
  writer.close()


def _start(tx: optax.GradientTransformation, params: Any, state: Any) -> step_lib.TrainState:
  """The state before the first step."""
  zero = jnp.zeros((), jnp.int32)
  return step_lib.TrainState(zero, zero, params, state, tx.init(params))
