"""The former place of `vssl_jax.methods.dcc.pseudo_quality`."""

from vssl_jax import former

__getattr__ = former.names(__name__)
