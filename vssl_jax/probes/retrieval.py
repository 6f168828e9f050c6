"""Nearest-neighbor retrieval: videos of one split query for their class in another split.

scikit-learn's `average_precision_score` takes one query per call and merges equal scores; here
whole blocks of queries are ranked at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from vssl_jax import parallel
from vssl_jax.ops import tiles
from vssl_jax.probes import too_few_videos

RECALLS = (1, 5, 10, 20, 50)


def evaluate(
  bank: np.ndarray,
  bank_label: np.ndarray,
  queries: np.ndarray,
  query_label: np.ndarray,
  *,
  recalls: Sequence[int] = RECALLS,
  mean_average_precision: bool = True,
  block_size: int = 1024,
  share: bool = False,
) -> dict[str, float]:
  """R@k and mAP of cosine neighbors, by the usual protocol: test videos query training videos.

  R@k is the fraction of queries with at least one video of their class among the k nearest. mAP is
  the mean over queries of the average precision of the whole ranked bank. A query whose class is
  missing from the bank counts as 0 in both. If k exceeds the bank, the whole bank is used.

  Args:
    bank: float [N, F], features of the training videos (mean over views).
    bank_label: int [N]; videos with a negative label are left out.
    queries: float [Q, F].
    query_label: int [Q]; videos with a negative label are left out.
    recalls: values of k.
    mean_average_precision: whether to compute mAP, which ranks the whole bank for each query.
    block_size: rows of the similarity matrix that are in memory at a time.
    share: each process takes a part of the queries; all of them call with the same arrays.

  Returns:
    `{"R@1": ..., "mAP": ...}`, fractions in [0, 1].

  Raises:
    UserError: the bank or the queries have no labeled video.
  """
  bank, bank_label = _labeled(bank, bank_label, "training")
  queries, query_label = _labeled(queries, query_label, "evaluation")
  own = parallel.own_share(len(queries)) if share else slice(None)
  queries, query_label = queries[own], query_label[own]
  scored: dict[str, np.ndarray] = {}
  if len(queries):
    k = min(max(recalls), len(bank))
    _, nearest = tiles.nearest(jnp.asarray(queries), jnp.asarray(bank), k, block_size)
    hits = bank_label[np.asarray(nearest)] == query_label[:, None]
    scored = {f"R@{r}": hits[:, :r].any(axis=1) for r in recalls}
    if mean_average_precision:
      scored["mAP"] = np.array(_average_precision(bank, bank_label, queries, query_label))
  scored = parallel.gather_rows(scored) if share else scored
  return {name: float(x.mean()) for name, x in scored.items()}


def _average_precision(
  bank: np.ndarray, bank_label: np.ndarray, queries: np.ndarray, query_label: np.ndarray
) -> np.ndarray:
  """Average precision of each query [Q]: the mean precision at the ranks of its relevant videos."""
  out = []
  block = max(1, (1 << 24) // len(bank))
  for i in range(0, len(queries), block):
    order = np.argsort(-(queries[i : i + block] @ bank.T), axis=1, kind="stable")
    hits = bank_label[order] == query_label[i : i + block, None]
    precision = np.cumsum(hits, axis=1) / np.arange(1, len(bank) + 1)
    out.append((precision * hits).sum(axis=1) / np.maximum(hits.sum(axis=1), 1))
  return np.concatenate(out)


def _labeled(features: np.ndarray, label: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
  too_few_videos.require_labels(label, split, "queries and their bank")
  known = np.asarray(label) >= 0
  x = np.asarray(features, np.float32)[known]
  length = np.linalg.norm(x, axis=1, keepdims=True)
  return x / np.maximum(length, np.finfo(np.float32).tiny), np.asarray(label)[known]
