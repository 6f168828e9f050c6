"""The result of a converter: a config, the variables of its networks, and what was left out."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vssl_jax import augment, methods, models
from vssl_jax.models import stem
from vssl_jax.weights.table import Variables


@dataclasses.dataclass
class Converted:
  """Weights of another framework, converted to ours.

  Attributes:
    config: config of the encoder, its preprocessing and, for a whole method, the method.
    variables: variables of the encoder, `params` and `batch_stats`, as NumPy arrays.
    whole: (params, state) of `config.method` if the file holds the whole method, else None.
    left_out: names of the arrays that were not converted.
    facts: other facts about the file, for the card.
  """

  config: ConfigDict
  variables: Variables
  whole: tuple[Any, Any] | None = None
  left_out: list[str] = dataclasses.field(default_factory=list)
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def config(method: str, name: str, encoder: dict[str, Any]) -> ConfigDict:
  """A config with the given encoder, in float32, and no augmentation, since it is not known."""
  c = methods.base_config(method)
  c.name = name
  c.encoder.update({"dtype": "float32", **encoder})
  augment.presets.none(c.augment)
  return c


def views(
  c: ConfigDict,
  *,
  frames: int,
  stride: int,
  size: int,
  resize: int,
  eval_size: int = 0,
  probe_frames: int = 0,
) -> None:
  """Sets the clip sizes for training, probing and evaluation."""
  c.data.frames, c.data.stride, c.data.size = frames, stride, size
  c.probe.frames, c.probe.stride, c.probe.size = probe_frames or frames, stride, size
  e = c.data.eval
  e.frames, e.stride, e.resize, e.size = frames, stride, resize, eval_size or size


def shapes(c: ConfigDict) -> Variables:
  """The shapes of the variables of the encoder that `config.encoder` describes."""
  encoder = models.build_encoder(c.encoder)
  frames = 2 * (c.encoder.alpha if c.encoder.name == "slowfast" else 1)
  size = tuple(c.encoder.tubelet) if c.encoder.name == "vit" else (frames, 32, 32)
  clip = jax.ShapeDtypeStruct((1, *size, c.data.channels), jnp.float32)
  return jax.eval_shape(encoder.init, jax.random.key(0), clip)


def for_channels(found: Converted, channels: int) -> Converted:
  """The encoder for clips of C channels instead of RGB, without heads; see `stem.adapt`.

  Its input is normalized by one mean and one standard deviation: the means over red, green and
  blue.
  """
  c = found.config.copy_and_resolve_references()
  with c.unlocked():
    c.data.channels = channels
    for field in ("mean", "std"):
      values = c.augment[field]
      c.augment[field] = (sum(values) / len(values),)
  variables = stem.adapt(found.variables, shapes(c), channels)
  left_out = [*found.left_out, *(["heads"] if found.whole is not None else [])]
  facts = {**found.facts, "channels": f"stem changed from 3 to {channels} channels"}
  return dataclasses.replace(
    found, config=c, variables=variables, whole=None, left_out=left_out, facts=facts
  )
