"""Loads data on the host; only this package imports TensorFlow, and only when a source needs it."""

from vssl_jax import former

__getattr__ = former.names(__name__)
