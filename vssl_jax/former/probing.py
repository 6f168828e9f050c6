"""`vssl_jax.probing` as it was: opening the splits of a run."""

from vssl_jax import former

__getattr__ = former.names(__name__)
