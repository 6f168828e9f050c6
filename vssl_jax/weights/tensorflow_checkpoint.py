"""Reads the variables of a TensorFlow checkpoint."""

from __future__ import annotations

import os

import numpy as np

from data_pipelines import optional
from vssl_jax.errors import UserError, brief


def read_variables(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """The variables of a TensorFlow checkpoint, by their names in its object graph.

  Args:
    path: the checkpoint's prefix (`ckpt-71488`), its `.index` file, or a folder with a `checkpoint`
      file.

  Raises:
    UserError: there is no checkpoint at this path, or TensorFlow is not installed.
  """
  tf = optional.require("tensorflow", f"{path}: a TensorFlow checkpoint")
  prefix = os.fspath(path).removesuffix(".index")
  if os.path.isdir(prefix):
    prefix = tf.train.latest_checkpoint(prefix) or prefix
  try:
    reader = tf.train.load_checkpoint(prefix)
  except Exception as e:
    raise UserError(f"{path}: not a TensorFlow checkpoint ({brief(e)[:200]}).") from None
  names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
  return {name: np.asarray(reader.get_tensor(name)) for name in names}
