"""Exports an encoder as a TensorFlow SavedModel, which runs without this library.

Its input and output are those of `encoder.program`. Keep a reference to the loaded model:

  model = tf.saved_model.load("saved_model")
  features = model.features(clips)
"""

from __future__ import annotations

import os
from typing import Any

import jax

from data_pipelines import optional
from vssl_jax import files
from vssl_jax.encoder.encoder import Encoder
from vssl_jax.encoder.program import PLATFORMS, portable
from vssl_jax.errors import UserError

SAVED_MODEL = "saved_model"


def exporters() -> tuple[Any, Any]:
  """The modules that are needed to write a SavedModel: `tensorflow` and `jax2tf`.

  Raises:
    UserError: TensorFlow is not installed, or this version of JAX has no jax2tf.
  """
  leave_out = "leave savedmodel out of --formats"
  tf = optional.require("tensorflow", "a SavedModel", instead=leave_out)
  try:
    from jax.experimental import jax2tf
  except ImportError as e:
    raise UserError(f"a SavedModel needs a JAX with jax2tf ({e}): {leave_out}.") from None
  return tf, jax2tf


def save_model(folder: str | os.PathLike[str], encoder: Encoder) -> None:
  """Writes the encoder as a SavedModel with a function `features` of uint8 clips, for any N.

  Args:
    folder: output folder, written completely or not at all. The weights are the model's variables.
    encoder: an encoder from `vssl_jax.load`; clips have its `clip_shape`.

  Raises:
    UserError: TensorFlow is not installed, or this version of JAX has no jax2tf.
  """
  tf, jax2tf = exporters()
  apply, params = portable(encoder)
  clip_shape = encoder.clip_shape
  convert = jax2tf.convert(
    apply,
    polymorphic_shapes=[None, f"(n, {', '.join(map(str, clip_shape))})"],
    with_gradient=False,
    native_serialization_platforms=PLATFORMS,
  )
  module = tf.Module()
  module.params = jax.tree.map(lambda x: tf.Variable(x, trainable=False), params)

  @tf.function(
    input_signature=[tf.TensorSpec((None, *clip_shape), tf.uint8, "clips")], autograph=False
  )
  def features(clips: Any) -> Any:
    return convert(module.params, clips)

  module.features = features
  with files.replacing_folder(folder) as partial:
    tf.saved_model.save(module, str(partial), signatures={"serving_default": features})
