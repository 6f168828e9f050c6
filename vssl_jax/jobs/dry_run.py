"""Describes what a config would run: parameters, FLOPs, bytes, devices."""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax import methods, models
from vssl_jax.evaluation import classifier
from vssl_jax.jobs import linear_probe, pretrain
from vssl_jax.models import cost


def describe(config: ConfigDict) -> str:
  """The resolved config, exact parameter counts, cost per clip and the devices.

  A linear probe is described as the classifier that it trains. If the number of classes is only
  known from data that is missing, two classes are assumed. The encoder is that of
  `config.checkpoint` if one is given.

  Raises:
    UserError: a field is impossible, the checkpoint cannot be read, or the method takes none.
  """
  if config.job == "linear_probe":
    if config.checkpoint:
      config = linear_probe.load(config)[0]
    config = classifier.linear_config(config, 2)
  notes = methods.notes(config)
  config, method = pretrain.build(methods.resolve(config, None), None)
  params, state = jax.eval_shape(method.init, jax.random.key(0), method.example(2))
  if method.encoder is None:
    return "\n".join(
      [
        config_lib.to_json(config),
        f"parameters: {cost.parameters(params):,}; state: {cost.parameters(state):,} numbers",
        _devices(),
      ]
    )
  own = cost.parameters(method.encoder(params, state)["params"])
  total = cost.parameters(params) + (own if "encoder" not in params else 0)  # a frozen encoder
  d = config.data
  encoder = models.build_encoder(config.encoder)
  price = cost.count(encoder, (d.frames, d.size, d.size, d.channels))
  lines = [
    config_lib.to_json(config),
    f"parameters: encoder {own:,}, rest of the method {total - own:,}, total {total:,}",
    f"one clip ({d.frames} x {d.size} x {d.size}): {2 * price.macs:,} FLOPs forward "
    f"({price.macs / 1e9:.2f} G multiply-adds), {6 * price.macs:,} to train",
    f"bytes per clip: {d.frames * d.size * d.size * d.channels:,} as uint8 from the host, "
    f"{price.activation_bytes:,} of activations forward",
    _devices(),
    *notes,
  ]
  return "\n".join(lines)


def _devices() -> str:
  return (
    f"devices: {jax.device_count()} x {jax.devices()[0].device_kind} "
    f"({jax.default_backend()}), {jax.process_count()} process(es)"
  )
