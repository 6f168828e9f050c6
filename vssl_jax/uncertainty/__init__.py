"""Analyzes the uncertainty of Gaussian embeddings: numbers, pictures and the command."""

from vssl_jax import former

__getattr__ = former.names(__name__)
