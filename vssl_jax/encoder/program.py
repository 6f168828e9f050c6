"""Exports an encoder with `jax.export` as a program that runs without this library.

It takes uint8 clips `[N, T, H, W, C]`, with any N and the T, H, W and C of the export, and returns
float32 features `[N, F]`. Preprocessing and weights are inside. On CPU, CUDA GPU or TPU:

  program = jax.export.deserialize(open("encoder.jax_export", "rb").read())
  features = program.call(clips)
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from vssl_jax import files
from vssl_jax.encoder.encoder import Encoder, Params, build

PROGRAM = "encoder.jax_export"
PLATFORMS = ("cpu", "cuda", "tpu")


def save_program(file: str | os.PathLike[str], encoder: Encoder) -> None:
  """Writes the encoder as a serialized `jax.export` program: StableHLO with the weights inside.

  JAX guarantees that a program runs on JAX versions up to half a year older or three years newer
  than the version that wrote it.

  Args:
    file: path of the file to write.
    encoder: an encoder from `vssl_jax.load`; clips have its `clip_shape`.
  """
  apply, params = portable(encoder)
  (rows,) = jax.export.symbolic_shape("n")
  clips = jax.ShapeDtypeStruct((rows, *encoder.clip_shape), jnp.uint8)
  program = jax.export.export(jax.jit(lambda x: apply(params, x)), platforms=PLATFORMS)(clips)
  files.write_atomic(file, bytes(program.serialize()))


def portable(encoder: Encoder) -> tuple[Any, Params]:
  """The encoder's function, with convolutions for any device and any N, and its variables."""
  config = encoder.config.copy_and_resolve_references()
  with config.unlocked():
    config.encoder.conv = "fold"
  return build(config, encoder.params, encoder.info).apply, encoder.params
