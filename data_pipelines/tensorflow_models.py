"""TensorFlow's own files of models: a checkpoint's variables read, a SavedModel written."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from data_pipelines import optional
from vssl_jax.errors import UserError, brief


def read_variables(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """The variables of a TensorFlow checkpoint, by their names in its object graph.

  Args:
    path: the checkpoint's prefix (`ckpt-71488`), its `.index` file, or a folder with a `checkpoint`
      file.

  Raises:
    UserError: no checkpoint there, or TensorFlow is not installed.
  """
  tf = optional.require("tensorflow", f"{path}: a TensorFlow checkpoint")
  prefix = os.fspath(path).removesuffix(".index")
  if os.path.isdir(prefix):
    prefix = tf.train.latest_checkpoint(prefix) or prefix
  try:
    reader = tf.train.load_checkpoint(prefix)
  except Exception as e:
    raise UserError(f"{path}: no TensorFlow checkpoint ({brief(e)[:200]}).") from None
  names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
  return {name: np.asarray(reader.get_tensor(name)) for name in names}


def exporters() -> tuple[Any, Any]:
  """The modules that a SavedModel is written with: `tensorflow` and `jax2tf`.

  Raises:
    UserError: TensorFlow is not installed, or this JAX has no way to it.
  """
  leave_out = "leave savedmodel out of --formats"
  tf = optional.require("tensorflow", "a SavedModel", instead=leave_out)
  try:
    from jax.experimental import jax2tf
  except ImportError as e:
    raise UserError(f"a SavedModel needs a JAX with jax2tf ({e}): {leave_out}.") from None
  return tf, jax2tf


def save_model(
  folder: str | os.PathLike[str],
  apply: Callable[[Any, jax.Array], jax.Array],
  params: Any,
  clip_shape: tuple[int, ...],
  platforms: tuple[str, ...],
) -> None:
  """Writes a SavedModel with a function `features` of uint8 clips `[N, *clip_shape]`, any N.

  Args:
    folder: to write; appears whole or not at all.
    apply: `(params, clips) -> float32 [N, F]`, traced once.
    params: arrays; the model's variables.
    clip_shape: `(T, H, W, 3)`.
    platforms: of `jax.export`, to compile for.

  Raises:
    UserError: TensorFlow is not installed, or this JAX has no way to it.
  """
  tf, jax2tf = exporters()
  convert = jax2tf.convert(
    apply,
    polymorphic_shapes=[None, f"(n, {', '.join(map(str, clip_shape))})"],
    with_gradient=False,
    native_serialization_platforms=platforms,
  )
  module = tf.Module()
  module.params = jax.tree.map(lambda x: tf.Variable(x, trainable=False), params)

  @tf.function(
    input_signature=[tf.TensorSpec((None, *clip_shape), tf.uint8, "clips")], autograph=False
  )
  def features(clips: Any) -> Any:
    return convert(module.params, clips)

  module.features = features
  partial = pathlib.Path(folder).with_name(f".tmp-{os.getpid()}-{pathlib.Path(folder).name}")
  tf.saved_model.save(module, str(partial), signatures={"serving_default": features})
  shutil.rmtree(folder, ignore_errors=True)
  os.replace(partial, folder)
