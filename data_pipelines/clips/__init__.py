"""Makes clips from records: chooses their starts, cuts and batches them, the same on any host."""

from vssl_jax import former

__getattr__ = former.names(__name__)
