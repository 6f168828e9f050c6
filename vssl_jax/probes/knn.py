"""Weighted nearest-neighbor classification: a probe of features without any training.

scikit-learn's classifier with the same weights runs only on the CPU. This one runs on the device of
the features, one tile of the similarity matrix at a time.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.ops import tiles
from vssl_jax.ops.sphere import l2_normalize
from vssl_jax.probes import too_few_videos

CHUNK = 1024  # side of a tile of the similarity matrix


def weighted_knn(
  train: np.ndarray | jax.Array,
  labels: np.ndarray,
  queries: np.ndarray | jax.Array,
  *,
  classes: int,
  k: int = 200,
  temperature: float = 0.07,
  chunk: int = CHUNK,
) -> np.ndarray:
  """Votes of the k nearest videos of each query, each for its class with weight exp(cosine / T).

  Wu et al. 2018, section 3.4; also the online monitor of PySlowFast's contrastive project. Votes
  are normalized by a softmax, which keeps their order and cannot overflow.

  Args:
    train: float `[V, F]`, features of the training videos; L2-normalized inside.
    labels: int `[V]`; videos with a negative label are left out.
    queries: float `[Q, F]`.
    classes: C.
    k: number of neighbors; at most all labeled videos are used.
    temperature: T > 0.
    chunk: rows and columns of the tile of the similarity matrix that is in memory at a time.

  Returns:
    float32 `[Q, C]`, the fraction of the votes for each class; rows sum to 1.

  Raises:
    UserError: no video has a label, a label is not below C, or k or T isn't positive.
  """
  labels = np.asarray(labels)
  known = labels >= 0
  too_few_videos.require_labels(labels, "training", "nearest neighbors")
  if labels.max() >= classes:
    raise UserError(
      f"weighted_knn: a training video has label {labels.max()} but there are {classes} classes"
    )
  if k < 1 or not temperature > 0:
    raise UserError(f"weighted_knn: k and temperature must be positive; got {k} and {temperature}")
  if not known.all():
    train, labels = np.asarray(train)[known], labels[known]
  found = votes(
    jnp.asarray(train),
    jnp.asarray(labels, jnp.int32),
    jnp.asarray(queries),
    temperature,
    classes=classes,
    k=min(k, len(labels)),
    chunk=chunk,
  )
  return np.asarray(found)


@functools.partial(jax.jit, static_argnames=("classes", "k", "chunk"))
def votes(
  train: jax.Array,
  labels: jax.Array,
  queries: jax.Array,
  temperature: float | jax.Array,
  *,
  classes: int,
  k: int,
  chunk: int,
) -> jax.Array:
  """The program of `weighted_knn`, for videos that all have a label; k is at most V."""
  cosine, found = tiles.nearest(l2_normalize(queries), l2_normalize(train), k, chunk)
  weight = jax.nn.softmax(cosine / temperature, axis=1)
  row = jnp.arange(len(queries))[:, None]
  return jnp.zeros((len(queries), classes), weight.dtype).at[row, labels[found]].add(weight)
