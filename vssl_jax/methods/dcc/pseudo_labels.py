"""Pseudo-labels of the snippets of a batch and their confidence, as set by `config.dcc`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import parallel
from vssl_jax.losses import dcc as parts
from vssl_jax.methods.base import Batch
from vssl_jax.models.bas_net import BASE, SUPPRESSED, Activations
from vssl_jax.ops.kmeans import kmeans, plus_plus
from vssl_jax.ops.sphere import l2_normalize

BRANCHES = {"base": BASE, "suppressed": SUPPRESSED}
ANNOTATED = "annotated"  # train with ground truth instead, to measure perfect pseudo-labels
SCALES = ("logits", "softmax")  # of the activation that pseudo-labels are made of
SPACES = ("embedding", "features")  # the spaces in which snippets can be clustered


def clusters_videos(c: ConfigDict) -> bool:
  """Whether the snippets of each video are clustered separately."""
  return denoises(c) and c.cluster_scope == "video"


def clusters_dataset(c: ConfigDict) -> bool:
  """Whether all snippets of the training videos are clustered together."""
  return denoises(c) and c.cluster_scope == "dataset"


def denoises(c: ConfigDict) -> bool:
  """Whether pseudo-labels are weighted by how well their clusters agree with them."""
  return c.contrast != "none" and c.denoise


def clusters(c: ConfigDict) -> int:
  """Number of clusters: K per video, or K times the classes for the whole data set."""
  return c.clusters * (c.classes if c.cluster_scope == "dataset" else 1)


def width(c: ConfigDict) -> int:
  """Width of the vectors that are clustered."""
  return c.width if c.cluster_on == "features" else c.dim


def points(c: ConfigDict, out: Activations, batch: Batch) -> jax.Array:
  """The vectors that are clustered, float32 `[N, T, d]`, unit length, without gradient."""
  x = batch["features"] if c.cluster_on == "features" else out.embedding[BRANCHES[c.embedding]]
  return l2_normalize(lax.stop_gradient(x))


def regions(
  c: ConfigDict, out: Activations, batch: Batch, state: Any, mesh: Mesh | None = None
) -> tuple[parts.Regions, dict[str, jax.Array]]:
  """The denoised regions of a batch, and metrics.

  Args:
    c: `config.dcc`.
    out: output of the network for the batch.
    batch: `mask` bool `[N, T]`, `labels` `[N, C]`, `key` `[N]`.
    state: has `centers` and `shares` if the data set is clustered.
    mesh: the devices that the videos are split over.

  Returns:
    The regions, with L = `c.labels`, and scalars: the share of snippets with the pseudo-label
    action (`pseudo_share`), and the mean of S (`confidence`).
  """
  mask, x = batch["mask"], out.embedding[BRANCHES[c.embedding]]
  classes, pseudo = pseudo_labels(c, out, batch, c.labels)
  trust = jnp.ones(pseudo.shape, jnp.float32)
  if denoises(c):
    trust = confidence(c, out, pseudo, classes, batch, state, mesh)
  real = (classes >= 0)[:, None, :] & mask[..., None]
  count = jnp.maximum(jnp.sum(real), 1)
  watched = {
    "pseudo_share": jnp.sum(pseudo & real) / count,
    "confidence": jnp.sum(jnp.where(real, trust, 0)) / count,
  }
  return parts.pool(x, pseudo, trust, classes, mask, c.regions), watched


def pseudo_labels(
  c: ConfigDict, out: Activations, batch: Batch, most: int
) -> tuple[jax.Array, jax.Array]:
  """The classes of each video `[N, L]`, −1 for none, and their pseudo-labels bool `[N, T, L]`.

  L is `most`; of a video with more labels, only the first L are used. If `config.dcc.pseudo` is
  `annotated`, the pseudo-labels are `truth`, bool `[N, T, C]`, of the batch. A batch without
  `truth`, as outside of training, gets those of the suppression branch.
  """
  classes = parts.slots(batch["labels"], most)
  if c.pseudo == ANNOTATED and "truth" in batch:
    own = parts.at_slots(batch["truth"], classes) & (classes >= 0)[:, None, :]
    return classes, own & batch["mask"][..., None]
  cas = out.clean[BRANCHES.get(c.pseudo, SUPPRESSED)]
  if c.pseudo_of == "softmax":
    cas = jax.nn.softmax(cas, axis=-1)
  return classes, parts.pseudo_labels(parts.at_slots(cas, classes), batch["mask"])


def confidence(
  c: ConfigDict,
  out: Activations,
  pseudo: jax.Array,
  classes: jax.Array,
  batch: Batch,
  state: Any,
  mesh: Mesh | None = None,
) -> jax.Array:
  """The confidence S of each pseudo-label, `[N, T, L]`."""
  mask, x = batch["mask"], points(c, out, batch)
  if clusters_videos(c):
    found = _cluster_videos(c, x, mask, batch["key"], mesh)
    share = parts.shares(found, pseudo, c.clusters)
  else:
    n, t, dim = x.shape
    flat = kmeans(x.reshape(-1, dim), state.centers, iterations=0, mask=mask.reshape(-1))
    found = flat.labels.reshape(n, t)
    share = jnp.moveaxis(state.shares[:, jnp.maximum(classes, 0)], 0, 1)  # [N, K, L]
  return parts.confidence(found, pseudo, share)


def keys(seed: int, videos: jax.Array | np.ndarray) -> jax.Array:
  """One PRNG key per video `[N]`, for use outside of train steps (these have their own keys)."""
  return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(videos)


def _cluster_videos(
  c: ConfigDict, x: jax.Array, mask: jax.Array, keys: jax.Array, mesh: Mesh | None
) -> jax.Array:
  """Cluster number of each snippet, int32 `[N, T]`, −1 in padding, of points `[N, T, d]`.

  Each video is clustered separately, and each device stops when its own videos are done.
  """

  def one(key: jax.Array, x: jax.Array, mask: jax.Array) -> jax.Array:
    centers = plus_plus(jax.random.fold_in(key, 2), x, c.clusters, mask=mask)
    return kmeans(x, centers, iterations=c.cluster_iterations, mask=mask).labels

  every = jax.vmap(one)
  if mesh is not None and mesh.size > 1 and len(x) % mesh.size == 0:
    every = parallel.by_rows(every, mesh)
  return every(keys, x, mask)
