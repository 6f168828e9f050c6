"""Weighted nearest-neighbour classification: a probe of features without any training.

scikit-learn's classifier with the same weights runs on the CPU alone; this runs where the features
are, a tile at a time.
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


def weighted_knn(
  train: np.ndarray | jax.Array,
  labels: np.ndarray,
  queries: np.ndarray | jax.Array,
  *,
  classes: int,
  k: int = 200,
  temperature: float = 0.07,
  chunk: int = 1024,
) -> np.ndarray:
  """Each of a query's k nearest videos votes for its own class with weight exp(cosine / T).

  Wu et al. 2018, section 3.4; the online monitor of PySlowFast's contrastive project. Votes are
  divided by their sum, which leaves their order and cannot overflow.

  Args:
    train: float `[V, F]`, features of the training videos; L2-normalized inside.
    labels: int `[V]`; videos with a negative label are left out.
    queries: float `[Q, F]`.
    classes: C.
    k: neighbours; more than the labelled videos means all of them.
    temperature: T > 0.
    chunk: rows and columns of the similarity matrix that exist at a time.

  Returns:
    float32 `[Q, C]`, shares of the vote; rows sum to 1.

  Raises:
    UserError: no video has a label, a label is not below C, or k or T isn't positive.
  """
  labels = np.asarray(labels)
  known = labels >= 0
  too_few_videos.require_labels(labels, "training", "nearest neighbours")
  if labels.max() >= classes:
    raise UserError(
      f"weighted_knn: a training video has label {labels.max()} but there are {classes} classes"
    )
  if k < 1 or not temperature > 0:
    raise UserError(f"weighted_knn: k and temperature must be positive; got {k} and {temperature}")
  if not known.all():
    train, labels = np.asarray(train)[known], labels[known]
  votes = _votes(
    jnp.asarray(train),
    jnp.asarray(labels, jnp.int32),
    jnp.asarray(queries),
    temperature,
    classes=classes,
    k=min(k, len(labels)),
    chunk=chunk,
  )
  return np.asarray(votes)


@functools.partial(jax.jit, static_argnames=("classes", "k", "chunk"))
def _votes(train, labels, queries, temperature, *, classes, k, chunk):
  cosine, found = tiles.nearest(l2_normalize(queries), l2_normalize(train), k, chunk)
  weight = jax.nn.softmax(cosine / temperature, axis=1)
  row = jnp.arange(len(queries))[:, None]
  return jnp.zeros((len(queries), classes), weight.dtype).at[row, labels[found]].add(weight)


def evaluate(
  bank: np.ndarray,
  bank_label: np.ndarray,
  queries: np.ndarray,
  query_label: np.ndarray,
  *,
  k: int = 200,
  temperature: float = 0.07,
  chunk: int = 1024,
) -> float:
  """Top-1 accuracy of `weighted_knn`, the share of labelled queries that get their class.

  A query whose class the bank lacks counts as wrong; of equal votes the lower class wins.

  Args:
    bank: float `[V, F]`, features of the training videos.
    bank_label: int `[V]`; videos with a negative label are left out, here and below.
    queries: float `[Q, F]`.
    query_label: int `[Q]`.
    k: neighbours, clamped to the bank.
    temperature: of the votes.
    chunk: side of the tiles.

  Returns:
    A fraction in [0, 1].

  Raises:
    UserError: the bank or the queries have no labelled video.
  """
  query_label = np.asarray(query_label)
  known = query_label >= 0
  too_few_videos.require_labels(query_label, "evaluation", "nearest neighbours")
  classes = int(max(np.max(bank_label), query_label.max())) + 1
  scores = weighted_knn(
    bank,
    bank_label,
    np.asarray(queries)[known],
    classes=classes,
    k=k,
    temperature=temperature,
    chunk=chunk,
  )
  return float(np.mean(np.argmax(scores, axis=1) == query_label[known]))
