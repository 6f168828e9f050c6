"""Describes what a config would run: parameters, FLOPs, bytes, devices."""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax import methods, models
from vssl_jax.encoder import encoder as encoder_lib
from vssl_jax.evaluation import classifier
from vssl_jax.models import cost


def describe(config: ConfigDict) -> str:
  """The resolved config, exact parameter counts, cost per clip and the devices.

  A linear probe is described as the classifier that it trains. If the number of classes is only
  known from data that is missing, two classes are assumed.
  """
  if config.job == "linear_probe":
    if config.checkpoint:
      trained = encoder_lib.load_encoder(config.checkpoint)[0]
      config = config.copy_and_resolve_references().unlock()
      config.encoder = trained.encoder
    config = classifier.linear_config(config, 2)
  method = methods.build(methods.resolve(config, None))
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
  price = cost.count(encoder, (d.frames, d.size, d.size, 3))
  lines = [
    config_lib.to_json(config),
    f"parameters: encoder {own:,}, rest of the method {total - own:,}, total {total:,}",
    f"one clip ({d.frames} x {d.size} x {d.size}): {2 * price.macs:,} FLOPs forward "
    f"({price.macs / 1e9:.2f} G multiply-adds), {6 * price.macs:,} to train",
    f"bytes per clip: {d.frames * d.size * d.size * 3:,} as uint8 from the host, "
    f"{price.activation_bytes:,} of activations forward",
    _devices(),
  ]
  return "\n".join(lines)


def _devices() -> str:
  return (
    f"devices: {jax.device_count()} x {jax.devices()[0].device_kind} "
    f"({jax.default_backend()}), {jax.process_count()} process(es)"
  )
