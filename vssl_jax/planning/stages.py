"""What else a run computes than its train step, to be compiled for a machine: its stages.

Each stage is the program that the run itself calls, with the sizes of Kinetics-400 where the config
does not tell them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from vssl_jax import methods, models, parallel
from vssl_jax.errors import UserError
from vssl_jax.evaluation import classifier, options
from vssl_jax.methods.base import Method
from vssl_jax.ops import softmax_regression
from vssl_jax.planning.machines import Machine
from vssl_jax.probes import knn, views
from vssl_jax.training import step as step_lib
from vssl_jax.training import stored
from vssl_jax.training.step import TrainState

TRAIN, INIT, RESTORE = "train", "init", "restore"
LINEAR_PROBE, FINETUNE = "linear_probe", "finetune"
STEPS = (LINEAR_PROBE, FINETUNE)  # train steps of other methods
STAGES = (TRAIN, INIT, RESTORE, *STEPS, "features", "knn", "logistic")
CLASSES = 400  # of Kinetics-400
QUERIES = 20_000  # videos of its validation split


class Stage(NamedTuple):
  """A program to compile.

  Attributes:
    function: a function that `jax.jit` returned.
    arguments: their shapes, dtypes and shardings.
    work: what one call computes, in words.
    clips: encoded in one call; 0 if none.
    devices: number of devices of one program.
    programs: equal programs that run at the same time, on other devices.
  """

  function: Any
  arguments: tuple[Any, ...]
  work: str
  clips: int
  devices: int
  programs: int = 1


def build(name: str, config: ConfigDict, machine: Machine, videos: int) -> Stage:
  """A stage other than the train steps, which `plan.plan` compiles.

  Args:
    name: one of `STAGES`.
    config: resolved.
    machine: see `machines.find`.
    videos: number of training videos.

  Raises:
    UserError: the config has no encoder of clips.
  """
  require_encoder(name, config, machine.mesh)
  if name == "features":
    return _features(config, machine)
  width = models.build_encoder(config.encoder, machine.mesh).features_dim
  if name == "knn":
    return _knn(config, machine, videos, width)
  arguments = softmax_regression.abstract(machine.mesh, videos, width, CLASSES)
  return Stage(
    softmax_regression.programs(machine.mesh).fit,
    arguments,
    f"logistic regression, {videos:,} videos x {width:,} features, {CLASSES} classes: one "
    "iteration, its line search with one step",
    0,
    machine.devices,
  )


def require_encoder(name: str, config: ConfigDict, mesh: Mesh) -> None:
  """Checks that a config has an encoder of clips.

  Raises:
    UserError: it has none.
  """
  if methods.build(config, mesh).encoder is None:
    raise UserError(
      f"--stage={name}: {config.method} has no encoder of clips; only {TRAIN}, {INIT} and "
      f"{RESTORE} can be planned."
    )


def step_config(name: str, config: ConfigDict) -> ConfigDict:
  """The config of a train step of `STEPS`, with Kinetics-400's classes."""
  if name == LINEAR_PROBE:
    found = classifier.linear_config(config, CLASSES)
  else:
    defaults = options.Options()
    found = options.finetuning(config, CLASSES, defaults, defaults.epochs)
  with found.unlocked():
    found.name = config.name
  return found


def of_state(
  name: str,
  config: ConfigDict,
  method: Method,
  tx: optax.GradientTransformation,
  state: TrainState,
  mesh: Mesh,
) -> tuple[Stage, dict[str, int]]:
  """The stages `init` and `restore`.

  Restoring needs no program to move arrays: each host reads from storage what its own devices hold,
  however many devices wrote it. What is compiled is the check of what was read.

  Args:
    name: `INIT` or `RESTORE`.
    config: resolved.
    method: its method.
    tx: its optimizer.
    state: shapes, dtypes and shardings of the state.
    mesh: all devices.

  Returns:
    The stage; and `checkpoint_bytes`, the size of the state, and `device_bytes`, what a device
    holds of it.
  """
  # Keys have no size of their own here; they are a few bytes.
  leaves = [x for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
  each = (math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
  sizes = {"checkpoint_bytes": sum(x.size * x.dtype.itemsize for x in leaves)}
  sizes["device_bytes"] = sum(each)
  if name == INIT:
    function = step_lib.initializer(method, tx, config.seed, mesh, config.batch_size)
    return Stage(function, (), f"the first state, {len(leaves)} arrays", 0, mesh.size), sizes
  work = f"check of a checkpoint of {len(leaves)} arrays, each read onto the devices that hold it"
  return Stage(stored.digest, (state,), work, 0, mesh.size), sizes


def _local(machine: Machine) -> tuple[Mesh, int]:
  """A mesh on which a process computes alone, and how many of them the machine has."""
  devices = list(machine.mesh.devices.flat)
  own = [d for d in devices if d.process_index == devices[0].process_index]
  mesh = parallel.local_meshes(own, machine.hosts)[0]
  return mesh, len(devices) // mesh.size


def _features(config: ConfigDict, machine: Machine) -> Stage:
  """The call of `probes.features.forward`, with the views of `config.data.eval`."""
  mesh, programs = _local(machine)
  encoder, e = models.build_encoder(config.encoder, mesh), config.data.eval
  # As many views as with all devices in one process.
  chunk = -(-e.batch_size // machine.devices) * mesh.size
  shape = (e.frames, e.size, e.size, config.data.channels)
  one = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  found = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), one)
  clips = jax.ShapeDtypeStruct((chunk, *shape), jnp.uint8, sharding=parallel.split(mesh))
  function = jax.jit(views.feature_fn(encoder, config), out_shardings=parallel.split(mesh))
  clips_of_all = chunk * programs
  work = f"features of {clips_of_all:,} views of {e.frames} x {e.size} x {e.size}"
  arguments = (_placed(found, parallel.replicated(mesh)), clips)
  return Stage(function, arguments, work, clips_of_all, mesh.size, programs)


def _knn(config: ConfigDict, machine: Machine, videos: int, width: int) -> Stage:
  """The call of `probes.knn.weighted_knn`, on a process's devices and for its share of queries."""
  here, programs = _local(machine)
  share, k = -(-QUERIES // machine.devices), min(config.knn.k, videos)  # of a device
  queries = jax.ShapeDtypeStruct((share * here.size, width), jnp.float32)
  whole = parallel.replicated(here)
  bank = _placed(
    (
      jax.ShapeDtypeStruct((videos, width), jnp.float32),
      jax.ShapeDtypeStruct((videos,), jnp.int32),
    ),
    whole,
  )
  temperature = _placed(jax.ShapeDtypeStruct((), jnp.float32), whole)
  function = knn.votes(here, classes=CLASSES, k=k, chunk=knn.CHUNK)
  work = f"{k} nearest neighbors of {QUERIES:,} among {videos:,} videos, {width:,} features"
  arguments = (*bank, _placed(queries, parallel.split(here)), temperature)
  return Stage(function, arguments, work, 0, here.size, programs)


def _placed(tree: Any, sharding: NamedSharding) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
