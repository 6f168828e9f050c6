"""Inference with a trained BaS-Net: activations, localization scores, and a view of the network."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.localization import scores
from vssl_jax.localization.observe import Look
from vssl_jax.localization.proposals import ProposalSettings, evenly_spaced
from vssl_jax.localization.source import SequenceSource
from vssl_jax.methods.base import Batch, Params
from vssl_jax.methods.dcc import pseudo_labels, report
from vssl_jax.models.bas_net import SUPPRESSED, BasNet, top_mean
from vssl_jax.models.build import DTYPES

Activate = Callable[[Params, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def network(config: ConfigDict) -> BasNet:
  """The network of a resolved config of method dcc."""
  c = config.dcc
  dtypes = DTYPES[c.dtype], DTYPES[config.encoder.reduce_dtype]
  return BasNet(c.classes, c.hidden, c.filter, c.dim, c.dropout, *dtypes)


def activations(config: ConfigDict) -> Activate:
  """(params, features, mask) -> CAS `[N, T, C]` and probabilities `[N, C]`, without background.

  Both are those of the suppression branch.
  """
  net = network(config)

  @jax.jit
  def run(params: Params, features: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    out: Any = net.apply({"params": params}, features, mask)
    cas = out.cas[SUPPRESSED]
    probability = jax.nn.softmax(top_mean(cas, mask, config.dcc.share), axis=-1)
    return cas[..., :-1], probability[..., :-1]

  return run


def localize(
  config: ConfigDict, params: Params, source: SequenceSource, activate: Activate | None = None
) -> dict[str, Any]:
  """Scores of the suppression branch on a split; see `localization.scores.evaluate`.

  Args:
    config: the config of the run.
    params: parameters of the network.
    source: the split.
    activate: the result of an earlier `activations(config)`, to avoid compiling it again.
  """
  found = functools.partial(activate or activations(config), params)
  protocol = config.dcc.protocol
  return scores.evaluate(found, source, protocol=protocol, **options(config))


def options(config: ConfigDict) -> dict[str, Any]:
  """Keyword arguments for `localization.scores.predict`, from `config.dcc.proposals`.

  Raises:
    UserError: a field is out of range.
  """
  p = {k: config.dcc.proposals[k] for k in config.dcc.proposals}
  nms, sigma = p.pop("nms"), p.pop("sigma")
  if not 0 < nms <= 1 or not 0 <= sigma < math.inf:
    raise UserError(
      f"config.dcc.proposals: nms is {nms} and sigma is {sigma}; nms must lie in (0, 1] and sigma "
      "must not be negative."
    )
  p["thresholds"] = tuple(p["thresholds"])
  size = max(config.batch_size // jax.process_count(), 1) * jax.process_count()
  return {"batch_size": size, "settings": ProposalSettings(**p), "nms": nms, "sigma": sigma or None}


def threshold_sets(config: ConfigDict) -> list[tuple[float, ...]]:
  """The sets of thresholds of `config.dcc.threshold_sets`; [] if nothing is to be chosen.

  Raises:
    UserError: an entry is not (first, last, step), or its thresholds are out of range.
  """
  found = []
  for entry in config.dcc.threshold_sets:
    try:
      first, last, step = map(float, entry)
      if not (0 <= first <= last < 1 and step >= 1e-3):
        raise ValueError
    except (TypeError, ValueError):
      raise UserError(
        f"config.dcc.threshold_sets: {entry!r} is not (first, last, step) with 0 ≤ first ≤ last < "
        "1 and a step of at least 0.001."
      ) from None
    found.append(evenly_spaced(first, last, step))
  return found


def look(config: ConfigDict, params: Params, state: Any) -> Look:
  """What the network computes for each step of a video, for pictures and measurements.

  Pseudo-labels need the video-level labels of the split.

  Args:
    config: the config of the run.
    params: parameters of the network.
    state: state of `methods.dcc.method`.

  Returns:
    A function for `localization.observe.observe`. It returns `trust` only if the method denoises,
    and the contrasted embedding only if the method contrasts.
  """
  c, net = config.dcc, network(config)

  @jax.jit
  def see(params: Params, state: Any, batch: Batch) -> dict[str, Any]:
    batch = {**batch, "key": pseudo_labels.keys(config.seed, batch["video"])}
    out: Any = net.apply({"params": params}, batch["features"], batch["mask"])
    # A test video may have more labels than any training video.
    classes, pseudo = pseudo_labels.pseudo_labels(c, out, batch, c.classes)
    branch = pseudo_labels.BRANCHES[c.embedding]
    given, trunk, contrasted = report.SPACES
    spaces = {given: batch["features"], trunk: out.trunk[branch].astype(jnp.float32)}
    if c.contrast != "none":
      spaces[contrasted] = out.embedding[branch]
    seen = {"classes": classes, "pseudo": pseudo, "spaces": spaces}
    if pseudo_labels.denoises(c):
      seen["trust"] = pseudo_labels.confidence(c, out, pseudo, classes, batch, state)
    return {"attention": out.attention, "cas": out.cas[SUPPRESSED][..., :-1], **seen}

  # The memory is not needed here, and it may be sharded over devices of several processes.
  return functools.partial(see, params, jax.device_get(state.replace(bank=None, visited=None)))
