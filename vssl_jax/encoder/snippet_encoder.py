"""The encoder that slides over videos, and what its features are made from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipelines import pixels
from data_pipelines.videos import decode
from data_pipelines.videos.snippets import SnippetSettings
from vssl_jax import results as results_lib

Checkpoint = str | os.PathLike[str] | tuple[Any, Any, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Made:
  """What features are made from.

  Attributes:
    settings: how snippets are cut.
    width: D, the number of features.
    origin: what the manifest says about encoder and preprocessing.
  """

  settings: SnippetSettings
  width: int
  origin: dict[str, Any]


def settings_of(loaded: tuple[Any, Any, dict[str, Any]], cut: dict[str, Any]) -> SnippetSettings:
  """How snippets are cut: with the checkpoint's channels, and its sizes where `cut` has None.

  Args:
    loaded: what `encoder.load_encoder` returns.
    cut: fields of `SnippetSettings`.

  Raises:
    UserError: impossible settings.
  """
  data = loaded[0].data
  sizes = {"resize": data.eval.resize, "size": data.eval.size}
  given = {k: sizes[k] if v is None else v for k, v in cut.items()}
  return SnippetSettings(
    **given,
    channels=data.channels,
    value_range=pixels.value_range(data.value_range, data.channels),
  )


def build(
  checkpoint: Checkpoint, settings: SnippetSettings, batch_size: int
) -> tuple[Callable[[np.ndarray], np.ndarray], Made]:
  """The encoder of a checkpoint, on JAX's default device.

  Args:
    checkpoint: folder of a run or an export, or what `encoder.load_encoder` returns for it.
    settings: how snippets are cut.
    batch_size: N, snippets per call.

  Returns:
    The function from uint8 `[N, T, H, W, C]` to float32 `[N, D]`, and what its features are made
    from.

  Raises:
    UserError: no such checkpoint.
  """
  import jax

  from vssl_jax import models
  from vssl_jax.encoder import encoder
  from vssl_jax.models import inflate
  from vssl_jax.probes import views as views_lib

  loaded = checkpoint if isinstance(checkpoint, tuple) else encoder.load_encoder(checkpoint)
  config, variables, info = loaded
  digest = results_lib.tree_hash(variables)
  config, variables = inflate.inflated(config, variables)
  apply = jax.jit(views_lib.feature_fn(models.build_encoder(config.encoder), config))
  clips = jax.ShapeDtypeStruct(
    (batch_size, settings.frames, settings.size, settings.size, settings.channels), np.uint8
  )
  width = jax.eval_shape(apply, variables, clips).shape[1]
  variables = jax.device_put(variables)
  a = config.augment
  origin = {
    "encoder_sha256": digest,
    "checkpoint": {k: str(v) if isinstance(v, os.PathLike) else v for k, v in info.items()},
    "encoder": config.encoder.to_dict(),
    "preprocessing": {
      **decode.described(settings),
      "mean": list(a.mean),
      "std": list(a.std),
      "crop": "central square",
      "scale": "0 to 1, minus mean, over std",
    },
  }
  made = Made(settings, width, origin)
  return lambda x: np.asarray(apply(variables, x), np.float32), made
