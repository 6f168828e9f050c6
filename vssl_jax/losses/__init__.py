"""Losses: plain functions of embeddings that return `(loss, metrics)`."""

from vssl_jax.losses.info_nce import info_nce

__all__ = ["info_nce"]
