"""What DCC does between epochs: fill gaps in the memory and cluster the whole data set again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from vssl_jax import parallel
from vssl_jax.localization import scores
from vssl_jax.localization.source import SequenceSource
from vssl_jax.losses import dcc as parts
from vssl_jax.methods.base import Batch, Params
from vssl_jax.methods.dcc import pseudo_labels
from vssl_jax.models.bas_net import BasNet
from vssl_jax.ops.kmeans import kmeans, plus_plus

State = Any  # `methods.dcc.method.State`
# (params, state, training split) -> state
Refresh = Callable[[Params, State, SequenceSource], State]


def refill(config: ConfigDict, net: BasNet) -> Refresh:
  """Adds to the memory the videos that were in no batch of the last epoch.

  They are fewer than a batch. Which videos they are and what is stored depends only on the state
  and the parameters, so a resumed run does the same.
  """

  @jax.jit
  def fill(params: Params, state: State, batch: Batch) -> parts.Regions:
    out: Any = net.apply({"params": params}, batch["features"], batch["mask"])
    fresh, _ = pseudo_labels.regions(config.dcc, out, batch, state)
    return parts.remember(state.bank, fresh, batch["video"])

  def refill(params: Params, state: State, source: SequenceSource) -> State:
    left = np.flatnonzero(~np.asarray(state.visited))
    if int(state.epochs) and len(left):
      left = np.resize(left, -(-len(left) // config.batch_size) * config.batch_size)
      for videos in left.reshape(-1, config.batch_size):
        examples = [source.eval_example(int(v)) for v in videos]
        batch: dict[str, Any] = {k: np.stack([e[k] for e in examples]) for k in _given(config)}
        batch |= {"video": videos, "key": pseudo_labels.keys(config.seed, videos)}
        state = state.replace(bank=fill(params, state, batch))
    return state.replace(visited=jnp.zeros_like(state.visited))

  return refill


def recluster(config: ConfigDict, net: BasNet, mesh: Mesh | None = None) -> Refresh:
  """Clusters the snippets of the whole training split again, every `refresh` epochs.

  Args:
    config: `dcc`, `batch_size` and `seed` are read.
    net: the network that computes embeddings and pseudo-labels.
    mesh: the devices over which the snippets are sharded.
  """
  c = config.dcc
  mesh = parallel.make_mesh(jax.local_devices()[:1]) if mesh is None else mesh

  @jax.jit
  def describe(params: Params, batch: Batch) -> dict[str, jax.Array]:
    out: Any = net.apply({"params": params}, batch["features"], batch["mask"])
    classes, pseudo = pseudo_labels.pseudo_labels(c, out, batch, c.labels)
    return {
      "x": pseudo_labels.points(c, out, batch),
      "classes": classes,
      "pseudo": pseudo & (classes >= 0)[:, None, :],
    }

  everywhere = functools.partial(jax.jit, out_shardings=parallel.replicated(mesh))

  @functools.partial(everywhere, static_argnums=3)
  def start(rng: jax.Array, points: jax.Array, mask: jax.Array, count: int) -> jax.Array:
    # Padding is cut off: it depends on the number of devices, and the draw must not.
    return plus_plus(rng, points[:count], pseudo_labels.clusters(c), mask=mask[:count])

  options = {"iterations": c.cluster_iterations, "mesh": mesh, "axis_name": parallel.AXIS}
  cluster = everywhere(functools.partial(kmeans, **options))

  def survey(params: Params, source: SequenceSource) -> Iterator[dict[str, np.ndarray]]:
    for batch in source.eval_batches(config.batch_size):
      given = {k: batch[k] for k in _given(config)}
      rows = scores.gather(
        {**jax.device_get(describe(params, given)), "mask": batch["mask"], "valid": batch["valid"]}
      )
      yield {k: x[rows["valid"]] for k, x in rows.items()}

  def recluster(params: Params, state: State, source: SequenceSource) -> State:
    if int(state.epochs) % c.refresh:
      return state
    local = jax.device_get(params)
    found = list(survey(local, source))
    seen = {k: np.concatenate([rows[k] for rows in found]) for k in found[0]}
    flat = seen["x"].reshape(-1, pseudo_labels.width(c)), seen["mask"].reshape(-1)
    points, mask = (
      parallel.put(mesh, _padded(x, mesh.size), PartitionSpec(parallel.AXIS)) for x in flat
    )
    centers = np.asarray(state.centers)
    if not centers.any():
      centers = start(jax.random.key(config.seed), points, mask, seen["mask"].size)
    clusters = cluster(points, centers, mask=mask)
    labels = np.asarray(clusters.labels)[: seen["mask"].size].reshape(seen["mask"].shape)
    positive = np.zeros((pseudo_labels.clusters(c), c.classes), np.float32)
    v, t, slot = np.nonzero(seen["pseudo"])
    np.add.at(positive, (labels[v, t], seen["classes"][v, slot]), 1)
    counts = np.maximum(np.asarray(clusters.counts), 1)[:, None]
    return state.replace(centers=clusters.centers, shares=jnp.asarray(positive / counts))

  return recluster


def _padded(x: np.ndarray, unit: int) -> np.ndarray:
  """Pads with zeros to a multiple of `unit` rows."""
  return np.concatenate([x, np.zeros((-len(x) % unit, *x.shape[1:]), x.dtype)])


def _given(config: ConfigDict) -> tuple[str, ...]:
  """Names of the batch entries that pseudo-labels are computed from."""
  truth = ("truth",) if config.dcc.pseudo == pseudo_labels.ANNOTATED else ()
  return ("features", "mask", "labels", *truth)
