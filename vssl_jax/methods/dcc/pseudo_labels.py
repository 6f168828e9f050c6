"""Pseudo-labels of a batch's snippets and how far each is believed, as `config.dcc` has them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from vssl_jax.losses import dcc as parts
from vssl_jax.methods.base import Batch
from vssl_jax.models.bas_net import BASE, SUPPRESSED, Activations
from vssl_jax.ops.kmeans import kmeans, plus_plus
from vssl_jax.ops.sphere import l2_normalize

BRANCHES = {"base": BASE, "suppressed": SUPPRESSED}
ANNOTATED = "annotated"  # pseudo-labels that are true in training: what better ones could bring
SPACES = ("embedding", "features")  # in which snippets are clustered


def clusters_videos(c: ConfigDict) -> bool:
  """Whether each video's snippets are clustered on their own."""
  return denoises(c) and c.cluster_scope == "video"


def clusters_dataset(c: ConfigDict) -> bool:
  """Whether all snippets of the training videos are clustered together."""
  return denoises(c) and c.cluster_scope == "dataset"


def denoises(c: ConfigDict) -> bool:
  """Whether pseudo-labels are believed by their clusters, and not as they are."""
  return c.contrast != "none" and c.denoise


def clusters(c: ConfigDict) -> int:
  """K: of each video, or of the whole data set, where they have to tell its classes apart."""
  return c.clusters * (c.classes if c.cluster_scope == "dataset" else 1)


def width(c: ConfigDict) -> int:
  """Width of what is clustered."""
  return c.width if c.cluster_on == "features" else c.dim


def points(c: ConfigDict, out: Activations, batch: Batch) -> jax.Array:
  """What is clustered, float32 `[N, T, d]` of length 1, without gradient."""
  x = batch["features"] if c.cluster_on == "features" else out.embedding[BRANCHES[c.embedding]]
  return l2_normalize(lax.stop_gradient(x))


def regions(
  c: ConfigDict, out: Activations, batch: Batch, state: Any
) -> tuple[parts.Regions, dict[str, jax.Array]]:
  """A batch's denoised regions, and what is to be watched of them.

  Args:
    c: `config.dcc`.
    out: the network's, of the batch.
    batch: `mask` bool `[N, T]`, `labels` `[N, C]`, `key` `[N]`.
    state: with `centers` and `shares` where the data set is clustered.

  Returns:
    The regions, L = `c.labels`, and scalars: the share of snippets that are pseudo-labelled as
    action (`pseudo_share`), and the mean of S (`confidence`).
  """
  mask, x = batch["mask"], out.embedding[BRANCHES[c.embedding]]
  classes, pseudo = pseudo_labels(c, out, batch, c.labels)
  trust = jnp.ones(pseudo.shape, jnp.float32)
  if denoises(c):
    trust = confidence(c, out, pseudo, classes, batch, state)
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
  """Each video's classes `[N, L]`, −1 for none, and their pseudo-labels bool `[N, T, L]`.

  L is `most`; of a video with more labels than that, the first count. Where `config.dcc.pseudo` is
  `annotated` they are `truth` bool `[N, T, C]` of the batch; where it has none, as outside of
  training, the suppression branch's.
  """
  classes = parts.slots(batch["labels"], most)
  if c.pseudo == ANNOTATED and "truth" in batch:
    own = parts.at_slots(batch["truth"], classes) & (classes >= 0)[:, None, :]
    return classes, own & batch["mask"][..., None]
  cas = parts.at_slots(out.clean[BRANCHES.get(c.pseudo, SUPPRESSED)], classes)
  return classes, parts.pseudo_labels(cas, batch["mask"])


def confidence(
  c: ConfigDict, out: Activations, pseudo: jax.Array, classes: jax.Array, batch: Batch, state: Any
) -> jax.Array:
  """What each pseudo-label is believed, `[N, T, L]`: S."""
  mask, x = batch["mask"], points(c, out, batch)
  if clusters_videos(c):
    found = _cluster_videos(c, x, mask, batch["key"])
    share = parts.shares(found, pseudo, c.clusters)
  else:
    n, t, dim = x.shape
    flat = kmeans(x.reshape(-1, dim), state.centers, iterations=0, mask=mask.reshape(-1))
    found = flat.labels.reshape(n, t)
    share = jnp.moveaxis(state.shares[:, jnp.maximum(classes, 0)], 0, 1)  # [N, K, L]
  return parts.confidence(found, pseudo, share)


def keys(seed: int, videos: jax.Array | np.ndarray) -> jax.Array:
  """A key for each video `[N]` outside of the steps, which give keys of their own."""
  return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(videos)


def _cluster_videos(c: ConfigDict, x: jax.Array, mask: jax.Array, keys: jax.Array) -> jax.Array:
  """Each video's clusters int32 `[N, T]`, −1 in padding, of points `[N, T, d]`."""

  def one(key: jax.Array, x: jax.Array, mask: jax.Array) -> jax.Array:
    centers = plus_plus(jax.random.fold_in(key, 2), x, c.clusters, mask=mask)
    return kmeans(x, centers, iterations=c.cluster_iterations, mask=mask).labels

  return jax.vmap(one)(keys, x, mask)
