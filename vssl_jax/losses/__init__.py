"""Losses: plain functions of embeddings. Losses with metrics return `(loss, metrics)`.

BaS-Net, DCC and the match probability consist of several functions each, in the modules `bas_net`,
`dcc` and `match`.
"""

from vssl_jax.losses import bas_net, dcc, match
from vssl_jax.losses.byol import negative_cosine
from vssl_jax.losses.info_nce import info_nce
from vssl_jax.losses.moco import queue_nce
from vssl_jax.losses.multi_nce import multi_nce
from vssl_jax.losses.provico import LossSettings, provico
from vssl_jax.losses.swav import code_cross_entropy, prototype_statistics

__all__ = [
  "LossSettings",
  "bas_net",
  "code_cross_entropy",
  "dcc",
  "info_nce",
  "match",
  "multi_nce",
  "negative_cosine",
  "prototype_statistics",
  "provico",
  "queue_nce",
]
