"""A trained BaS-Net at work: activations of the suppression branch, and their scores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from vssl_jax.localization import evaluate
from vssl_jax.localization.proposals import Settings
from vssl_jax.methods.base import Params
from vssl_jax.models.bas_net import SUPPRESSED, BasNet, top_mean
from vssl_jax.models.build import DTYPES

Activate = Callable[[Params, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def activations(config: ConfigDict) -> Activate:
  """(params, features, mask) -> CAS `[N, T, C]` and probabilities `[N, C]` without background."""
  c = config.dcc
  net = BasNet(c.classes, c.hidden, c.filter, c.dim, c.dropout, DTYPES[c.dtype])

  @jax.jit
  def run(params: Params, features: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    cas = net.apply({"params": params}, features, mask).cas[SUPPRESSED]
    probability = jax.nn.softmax(top_mean(cas, mask, c.share), axis=-1)
    return cas[..., :-1], probability[..., :-1]

  return run


def localize(
  config: ConfigDict, params: Params, source: Any, activate: Activate | None = None
) -> dict[str, Any]:
  """The suppression branch's scores on a split: see `localization.evaluate.evaluate`.

  Args:
    config: the run's.
    params: of the network.
    source: the split.
    activate: `activations(config)` of an earlier call, which is compiled.
  """
  found = functools.partial(activate or activations(config), params)
  protocol = config.dcc.protocol
  return evaluate.evaluate(found, source, protocol=protocol, **options(config))


def options(config: ConfigDict) -> dict[str, Any]:
  """What `localization.evaluate.predict` takes, by `config.dcc.proposals`."""
  p = {k: config.dcc.proposals[k] for k in config.dcc.proposals}
  nms, sigma = p.pop("nms"), p.pop("sigma")
  p["thresholds"] = tuple(p["thresholds"])
  size = max(config.batch_size // jax.process_count(), 1) * jax.process_count()
  return {"batch_size": size, "settings": Settings(**p), "nms": nms, "sigma": sigma or None}
