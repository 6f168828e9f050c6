"""Temporal action localization, for any method: annotations, proposals, scores, timelines."""

from vssl_jax import former

__getattr__ = former.names(__name__)
