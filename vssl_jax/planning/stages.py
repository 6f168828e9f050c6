"""What else a run computes than its train step, to be compiled for a machine: its stages.

Each stage is the program that the run itself calls, with the sizes of Kinetics-400 where the config
does not tell them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from vssl_jax import methods, models, parallel
from vssl_jax.errors import UserError
from vssl_jax.evaluation import classifier
from vssl_jax.ops import softmax_regression
from vssl_jax.planning.machines import Machine
from vssl_jax.probes import knn, views

TRAIN = "train"
LINEAR_PROBE = "linear_probe"
STAGES = (TRAIN, LINEAR_PROBE, "features", "knn", "logistic")
CLASSES = 400  # of Kinetics-400
QUERIES = 20_000  # videos of its validation split


class Stage(NamedTuple):
  """A program to compile.

  Attributes:
    function: a function that `jax.jit` returned.
    arguments: their shapes, dtypes and shardings.
    work: what one call computes, in words.
    clips: encoded in one call; 0 if none.
    devices: number of devices that it runs on.
  """

  function: Any
  arguments: tuple[Any, ...]
  work: str
  clips: int
  devices: int


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
    return _features(config, machine.mesh)
  width = models.build_encoder(config.encoder, machine.mesh).features_dim
  if name == "knn":
    return _knn(config, machine.mesh, videos, width)
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
      f"--stage={name}: {config.method} has no encoder of clips; only --stage={TRAIN} can be "
      "planned."
    )


def probing(config: ConfigDict) -> ConfigDict:
  """The config of the linear probe's train step, with Kinetics-400's classes."""
  probe = classifier.linear_config(config, CLASSES)
  with probe.unlocked():
    probe.name = config.name
  return probe


def _features(config: ConfigDict, mesh: Mesh) -> Stage:
  """The call of `probes.features.forward`, with the views of `config.data.eval`."""
  encoder, e = models.build_encoder(config.encoder, mesh), config.data.eval
  chunk = -(-e.batch_size // mesh.size) * mesh.size
  shape = (e.frames, e.size, e.size, config.data.channels)
  one = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  found = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), one)
  clips = jax.ShapeDtypeStruct((chunk, *shape), jnp.uint8, sharding=parallel.split(mesh))
  function = jax.jit(views.feature_fn(encoder, config), out_shardings=parallel.split(mesh))
  work = f"features of {chunk:,} views of {e.frames} x {e.size} x {e.size}"
  arguments = (_placed(found, parallel.replicated(mesh)), clips)
  return Stage(function, arguments, work, chunk, mesh.size)


def _knn(config: ConfigDict, mesh: Mesh, videos: int, width: int) -> Stage:
  """The call of `probes.knn.weighted_knn`, on the devices of one machine."""
  k = min(config.knn.k, videos)
  first = mesh.devices.flat[0].process_index
  here = parallel.make_mesh([d for d in mesh.devices.flat if d.process_index == first])
  queries = jax.ShapeDtypeStruct((-(-QUERIES // here.size) * here.size, width), jnp.float32)
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
  return Stage(function, arguments, work, 0, here.size)


def _placed(tree: Any, sharding: NamedSharding) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
