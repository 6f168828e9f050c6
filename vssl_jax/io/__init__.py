"""The former place of checkpoints and metrics, now `vssl_jax.training`."""

from vssl_jax import former

__getattr__ = former.names(__name__)
