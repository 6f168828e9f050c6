"""Converts PySlowFast's contrastive models: heads, momentum encoder, queue, prototypes.

Two things are stored differently but compute the same. In PySlowFast a hidden layer before batch
norm has no bias: when reading, our bias is zero; when writing, it is subtracted from the running
mean. PySlowFast's SwAV queue has its newest row first; ours is a ring, read from the oldest row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vssl_jax import methods
from vssl_jax.errors import UserError
from vssl_jax.methods import momentum, rho_byol, rho_moco, rho_simclr, rho_swav
from vssl_jax.ops.queue import Queue
from vssl_jax.weights import converted
from vssl_jax.weights.table import TORCH, Ledger, Tensors, Variables, write

METHODS = {"moco": "rho_moco", "byol": "rho_byol", "simclr": "rho_simclr", "swav": "rho_swav"}
BESIDE_ENCODER = (
  "backbone.head.*",
  "backbone_hist.*",
  "queue_x",
  "ptr",
  "iter",
  "swav_prototypes.weight",
  "queue_swav",
)
# BYOL registers a queue that it never reads, and its momentum network a predictor.
UNUSED = {"byol": ("queue_x", "ptr", "backbone_hist.head.predictors.*")}
PROJECTION, PREDICTOR = "head.projection", "head.predictors.0"
Network = Callable[[str], Variables]  # reads the encoder whose names start with a prefix


def mlp_names(prefix: str, layers: int, bn: bool) -> dict[str, str]:
  """Our names in a `ProjectionHead` with `layers` hidden layers -> names in their MLPHead."""
  if not layers:
    return {"out": prefix}
  step = 3 if bn else 2  # linear, batch norm if any, ReLU
  names = {f"dense_{i}": f"{prefix}.projection.{step * i}" for i in range(layers)}
  if bn:
    names |= {f"norm_{i}": f"{prefix}.projection.{step * i + 1}" for i in range(layers)}
  return names | {"out": f"{prefix}.projection.{step * layers}"}


def config(
  tensors: Tensors, cfg: Mapping[str, Any], name: str, encoder: dict[str, Any], where: str
) -> ConfigDict:
  """The config of our method for a PySlowFast model, with heads of the same widths.

  Raises:
    UserError: we have no such method.
  """
  theirs = cfg.get("CONTRASTIVE", {})
  kind = theirs.get("TYPE") or _kind(tensors)
  if kind not in METHODS:
    raise UserError(
      f"{where}: a contrastive model of type {kind!r}; only {', '.join(METHODS)} can be converted. "
      "Give --encoder_only to convert only its backbone."
    )
  method = METHODS[kind]
  c = converted.config(method, name, encoder)
  (c.head.hidden, c.head.out, c.head.bn) = _mlp(tensors, f"backbone.{PROJECTION}", where)
  c.head.bn_momentum = 0.9
  c.data.clips = max(2, cfg.get("DATA", {}).get("TRAIN_CROP_NUM_TEMPORAL", 2))
  own = c[method]
  own.temperature = theirs.get("T", own.temperature)
  if kind in ("moco", "byol"):
    own.momentum = theirs.get("MOMENTUM", own.momentum)
    own.anneal = theirs.get("MOMENTUM_ANNEALING", own.anneal)
    own.sequential = theirs.get("SEQUENTIAL", own.sequential)
    own.queries = "sum" if own.sequential else "mean"
  if kind == "moco":
    own.queue = len(tensors.get("queue_x", np.zeros(own.queue)))
    own.enqueue = "all" if theirs.get("MOCO_MULTI_VIEW_QUEUE", True) else "first"
  if kind == "byol":
    own.predictor = _mlp(tensors, f"backbone.{PREDICTOR}", where)[0]
  if kind == "swav":
    own.prototypes = len(tensors.get("swav_prototypes.weight", np.zeros(own.prototypes)))
    own.queue = tensors["queue_swav"].shape[1] if "queue_swav" in tensors else 0
  _optimizer(c, cfg.get("SOLVER", {}), kind)
  return c


def _kind(tensors: Tensors) -> str:
  if any(k.startswith(f"backbone.{PREDICTOR}.") for k in tensors):
    return "byol"
  return (
    "swav"
    if "swav_prototypes.weight" in tensors
    else "moco"
    if "queue_x" in tensors
    else ("simclr")
  )


def _mlp(tensors: Tensors, prefix: str, where: str) -> tuple[tuple[int, ...], int, bool]:
  """Returns the hidden widths, the output width, and whether there is batch norm."""
  pattern = re.compile(re.escape(prefix) + r"\.(?:projection\.(\d+)\.)?weight")
  found = sorted((int(m[1] or 0), k) for k in tensors if (m := pattern.fullmatch(k)))
  dense = [tensors[k].shape[0] for _, k in found if tensors[k].ndim == 2]
  if not dense:
    raise UserError(
      f"{where}: has no {prefix}.*: give --encoder_only to convert only its backbone."
    )
  return tuple(dense[:-1]), dense[-1], len(dense) < len(found)


def _optimizer(c: ConfigDict, solver: Mapping[str, Any], kind: str) -> None:
  lars = solver.get("LARS_ON", kind != "moco")
  o = c.optim
  o.name = "lars" if lars else solver.get("OPTIMIZING_METHOD", "sgd")
  for ours, theirs in (
    ("lr", "BASE_LR"),
    ("momentum", "MOMENTUM"),
    ("nesterov", "NESTEROV"),
    ("weight_decay", "WEIGHT_DECAY"),
    ("warmup_epochs", "WARMUP_EPOCHS"),
    ("warmup_lr", "WARMUP_START_LR"),
  ):
    o[ours] = type(o[ours])(solver.get(theirs, o[ours]))
  c.epochs = float(solver.get("MAX_EPOCH", c.epochs))


def read(c: ConfigDict, ledger: Ledger, encoder: Variables, network: Network) -> tuple[Any, Any]:
  """Reads (params, state) of `config.method`.

  Args:
    c: the result of `config`.
    ledger: the arrays of the file.
    encoder: the online encoder, already read.
    network: reads the encoder whose names start with a prefix.
  """
  kind = next(k for k, v in METHODS.items() if v == c.method)
  ledger.leave((*UNUSED.get(kind, ()), "iter"))
  method = methods.load(c.method).build(c, None)
  like = jax.eval_shape(lambda: method.init(jax.random.key(0), method.example(2)))
  shapes, state = like
  names = mlp_names(PROJECTION, len(c.head.hidden), c.head.bn)

  def mlp(prefix: str, part: str, names: Mapping[str, str]) -> Variables:
    own = {"params": shapes[part], "batch_stats": state.stats[part]}
    zero = {f"params/{k}/bias" for k in names if k.startswith("dense")} if c.head.bn else ()
    return ledger.network(own, {k: prefix + v for k, v in names.items()}, TORCH, zero)

  parts = {"encoder": encoder, "head": mlp("backbone.", "head", names)}
  if kind == "byol":
    hidden = len(c.rho_byol.predictor)
    parts["predictor"] = mlp("backbone.", "predictor", mlp_names(PREDICTOR, hidden, c.head.bn))
  params, stats = _split(parts)
  if kind in ("moco", "byol"):
    theirs = {"encoder": network("backbone_hist."), "head": mlp("backbone_hist.", "head", names)}
    target = momentum.Target(*_split(theirs))
  if kind == "moco":
    return params, rho_moco.State(stats, target, _queue(ledger, state.queue))
  if kind == "byol":
    return params, rho_byol.State(stats, target)
  if kind == "simclr":
    return params, rho_simclr.State(stats)
  prototypes = ledger.array("swav_prototypes.weight", (c.rho_swav.prototypes, c.head.out))
  params["prototypes"] = {"kernel": np.ascontiguousarray(prototypes.T)}
  return params, rho_swav.State(stats, _swav_queues(ledger, state.queues))


def _split(parts: Mapping[str, Variables]) -> tuple[dict[str, Any], dict[str, Any]]:
  params = {k: v["params"] for k, v in parts.items()}
  return params, {k: v["batch_stats"] for k, v in parts.items()}


def _queue(ledger: Ledger, like: Queue) -> Queue:
  items = ledger.array("queue_x", like.items.shape)
  pointer = ledger.array("ptr", (1,), integer=True)[0]
  # Keys have unit length; rows with another length are initial noise and were never written.
  filled = np.sum(np.abs(np.linalg.norm(items, axis=1) - 1) < 1e-3)
  return Queue(jnp.asarray(items), jnp.int32(pointer), jnp.int32(filled))


def _swav_queues(ledger: Ledger, like: Queue | None) -> Queue | None:
  if like is None:
    return None
  items = ledger.array("queue_swav", like.items.shape)
  filled = np.sum(np.any(items != 0, axis=2), axis=1).astype(np.int32)
  pointers = jnp.zeros(len(items), jnp.int32)
  return Queue(jnp.asarray(items[:, ::-1]), pointers, jnp.asarray(filled))


def to_theirs(
  c: ConfigDict, whole: tuple[Any, Any], network: Callable[[Variables, str], Tensors]
) -> Tensors:
  """Converts (params, state) of one of our ρ-methods to the tensors of a ContrastiveModel.

  Args:
    c: the run's config.
    whole: (params, state), as `read` returns them.
    network: writes an encoder with names that start with a prefix.
  """
  if c.head.get("out_bn", False):
    raise UserError("config.head.out_bn is True: PySlowFast's projections have no such batch norm.")
  params, state = jax.device_get(whole)
  hidden = len(c.head.hidden)

  def parts(params: Any, stats: Any, prefix: str) -> Tensors:
    encoder = {"params": params["encoder"], "batch_stats": stats["encoder"]}
    out = network(encoder, prefix)
    for part, names in (
      ("head", mlp_names(prefix + PROJECTION, hidden, c.head.bn)),
      ("predictor", _predictor_names(c, prefix)),
    ):
      if part in params:
        out |= _mlp_to_theirs({"params": params[part], "batch_stats": stats[part]}, names)
    return out

  tensors = parts(params, state.stats, "backbone.")
  target = getattr(state, "target", None)
  if target is not None:
    # PySlowFast's momentum network also has a predictor, which nothing reads.
    beside = {k: v for k, v in params.items() if k == "predictor"}
    beside_stats = {k: v for k, v in state.stats.items() if k == "predictor"}
    tensors |= parts(
      {**target.params, **beside}, {**target.stats, **beside_stats}, "backbone_hist."
    )
    # With 0, PySlowFast's first step would overwrite the momentum network by the online network.
    tensors["iter"] = np.ones(1, np.int64)
  if c.method == "rho_moco":
    tensors["queue_x"] = np.asarray(state.queue.items, np.float32)
    tensors["ptr"] = np.asarray([state.queue.pointer], np.int64)
  if c.method == "rho_swav":
    kernel = np.asarray(params["prototypes"]["kernel"], np.float32)
    tensors["swav_prototypes.weight"] = np.ascontiguousarray(kernel.T)
    if state.queues is not None:
      queues = map(Queue, state.queues.items, state.queues.pointer, state.queues.filled)
      tensors["queue_swav"] = np.stack([_newest_first(queue) for queue in queues])
  return tensors


def _predictor_names(c: ConfigDict, prefix: str) -> dict[str, str]:
  hidden = len(c.rho_byol.predictor) if c.method == "rho_byol" else 0
  return mlp_names(prefix + PREDICTOR, hidden, c.head.bn)


def _mlp_to_theirs(variables: Variables, names: Mapping[str, str]) -> Tensors:
  params = variables["params"]
  stats = {k: dict(v) for k, v in variables["batch_stats"].items()}
  skip = set()
  for norm in stats:
    dense = norm.replace("norm", "dense")
    stats[norm]["mean"] = stats[norm]["mean"] - params[dense]["bias"]
    skip.add(f"params/{dense}/bias")
  return write({"params": params, "batch_stats": stats}, names, TORCH, skip)


def _newest_first(queue: Queue) -> np.ndarray:
  size = len(queue.items)
  order = (int(queue.pointer) - 1 - np.arange(size)) % size
  items = np.asarray(queue.items, np.float32)[order]
  items[int(queue.filled) :] = 0
  return items


def cfg(c: ConfigDict) -> dict[str, Any]:
  """The fields of PySlowFast's config for the method and its heads.

  Raises:
    UserError: the hidden layers of the heads differ in width, which PySlowFast does not support.
  """
  kind = next(k for k, v in METHODS.items() if v == c.method)
  own = c[c.method]
  predictor = tuple(own.predictor) if kind == "byol" else ()
  widths = {*c.head.hidden, *predictor}
  if len(widths) > 1:
    raise UserError(
      f"config.head.hidden = {tuple(c.head.hidden)} and predictor {predictor}: in PySlowFast all "
      "hidden layers of the heads have one width."
    )
  out = {
    "TYPE": kind,
    "T": own.temperature,
    "DIM": c.head.out,
    "MLP_DIM": max(widths, default=c.head.out),
    "NUM_MLP_LAYERS": len(c.head.hidden) + 1,
    "BN_MLP": bool(c.head.bn),
    "PREDICTOR_DEPTHS": [len(predictor) + 1] if kind == "byol" else [],
  }
  if kind in ("moco", "byol"):
    out |= {
      "MOMENTUM": own.momentum,
      "MOMENTUM_ANNEALING": own.anneal,
      "SEQUENTIAL": own.sequential,
    }
  if kind == "moco":
    out |= {"QUEUE_LEN": own.queue, "MOCO_MULTI_VIEW_QUEUE": own.enqueue == "all"}
  if kind == "swav":
    out["SWAV_QEUE_LEN"] = own.queue
  return {"CONTRASTIVE": out}
