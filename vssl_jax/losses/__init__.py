"""Losses: plain functions of embeddings. Losses with metrics return `(loss, metrics)`."""

from vssl_jax.losses.byol import negative_cosine
from vssl_jax.losses.info_nce import info_nce
from vssl_jax.losses.moco import queue_nce
from vssl_jax.losses.multi_nce import multi_nce
from vssl_jax.losses.swav import code_cross_entropy, prototype_statistics

__all__ = [
  "code_cross_entropy",
  "info_nce",
  "multi_nce",
  "negative_cosine",
  "prototype_statistics",
  "queue_nce",
]
