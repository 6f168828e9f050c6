"""Converts weights from and to other frameworks; see `vssl_jax.weights.convert`."""
