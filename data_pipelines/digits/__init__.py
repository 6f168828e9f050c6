"""The built-in data set: videos of handwritten digits, made in seconds without a download."""

from vssl_jax import former

__getattr__ = former.names(__name__)
