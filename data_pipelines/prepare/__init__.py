"""Converts videos to records: the command `python -m data_pipelines.prepare`."""

from vssl_jax import former

__getattr__ = former.names(__name__)
