"""Exports an encoder in ONNX, for onnxruntime and whatever else reads it, without this library.

Its input and output are those of `encoder.program`:

  session = onnxruntime.InferenceSession("encoder.onnx")
  (features,) = session.run(None, {"clips": clips})
"""

from __future__ import annotations

import contextlib
import logging
import os
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from vssl_jax import files
from vssl_jax.encoder.encoder import Encoder, build
from vssl_jax.encoder.program import portable
from vssl_jax.errors import UserError, brief

ONNX = "encoder.onnx"
TOLERANCE = 1e-4  # of the largest feature, or of 1 if all are smaller
_LARGEST = 2**31  # bytes of a file, which protocol buffers limit
_LEAVE_OUT = "leave onnx out of --formats"
_CHECKED = (1, 3)  # clips per call


def exporters() -> tuple[Any, Any]:
  """The modules that are needed to write ONNX and to check it: `jax2onnx` and `onnxruntime`.

  Raises:
    UserError: one is not installed.
  """
  try:
    import jax2onnx
    import onnxruntime
  except ImportError as e:
    install = files.extras.install("onnx")
    raise UserError(
      f"ONNX needs packages that are not installed ({brief(e)[:100]}): {install}, or {_LEAVE_OUT}."
    ) from None
  return jax2onnx, onnxruntime


def save_onnx(file: str | os.PathLike[str], encoder: Encoder) -> None:
  """Writes the encoder in ONNX, in float32, with preprocessing and weights inside.

  The file is written only if onnxruntime gives the features of `encoder` for random clips.

  Args:
    file: path of the file to write.
    encoder: an encoder from `vssl_jax.load`; clips have its `clip_shape`.

  Raises:
    UserError: a package is not installed, or the encoder cannot be written in ONNX: it has an
      operation that jax2onnx does not know, or is larger than a file of ONNX may be.
  """
  jax2onnx, onnxruntime = exporters()
  encoder = _float32(encoder)
  apply, params = portable(encoder)
  count = sum(x.nbytes for x in jax.tree.leaves(params))
  if count >= _LARGEST:
    raise UserError(f"its weights have {count:,} bytes, too many for a file of ONNX: {_LEAVE_OUT}.")
  (rows,) = jax.export.symbolic_shape("N")
  clips = jax.ShapeDtypeStruct((rows, *encoder.clip_shape), jnp.uint8)
  try:
    with _symbolic_padding():
      made = jax2onnx.to_onnx(
        lambda x: apply(params, x), [clips], input_names=["clips"], output_names=["features"]
      )
      content = made.SerializeToString()
  except Exception as e:  # of any operation that it does not know
    why = f"{type(e).__name__}: {brief(e)[:200]}"
    raise UserError(f"this encoder cannot be written in ONNX ({why}): {_LEAVE_OUT}.") from None
  _check(onnxruntime, content, encoder)
  files.write_atomic(file, content)


def _float32(encoder: Encoder) -> Encoder:
  """The same encoder with float32 activations: onnxruntime has few operations in bfloat16."""
  config = encoder.config.copy_and_resolve_references()
  with config.unlocked():
    config.encoder.dtype = "float32"
  return build(config, encoder.params, encoder.info)


@contextlib.contextmanager
def _symbolic_padding() -> Iterator[None]:
  """Lets jax2onnx pad arrays of a dimension that is not known; up to 0.17 it asks for a number.

  It also warns of types that it leaves to be inferred, hundreds of times.
  """
  import onnx_ir
  from jax2onnx.plugins.jax.lax import pad

  def shape(dims: Any) -> Any:
    return onnx_ir.Shape([d if isinstance(d, int) else str(d) for d in dims])

  log = logging.getLogger("onnx_ir")
  before, level = pad.ir, log.level
  log.setLevel(logging.ERROR)
  pad.ir = types.SimpleNamespace(**{**vars(onnx_ir), "Shape": shape})
  try:
    yield
  finally:
    pad.ir = before
    log.setLevel(level)


def _check(onnxruntime: Any, content: bytes, encoder: Encoder) -> None:
  """Compares the features of random clips.

  Raises:
    UserError: they differ, or onnxruntime cannot run the program.
  """
  rng = np.random.default_rng(0)
  try:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of every shape that it infers itself
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for n in _CHECKED:
      clips = rng.integers(0, 256, (n, *encoder.clip_shape), dtype=np.uint8)
      (found,) = session.run(None, {"clips": clips})
      want = np.asarray(encoder.apply(encoder.params, clips))
      apart = float(np.max(np.abs(found - want))) if found.shape == want.shape else np.inf
      if not apart <= TOLERANCE * max(1.0, float(np.max(np.abs(want)))):
        raise UserError(
          f"onnxruntime's features of random clips differ by {apart:.2g} from the encoder's, so "
          f"nothing was written: {_LEAVE_OUT}."
        )
  except UserError:
    raise
  except Exception as e:
    raise UserError(
      f"onnxruntime cannot run what jax2onnx wrote ({brief(e)[:200]}): {_LEAVE_OUT}."
    ) from None
