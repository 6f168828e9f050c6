"""Weights of other frameworks into ours, and ours into theirs; see `vssl_jax.weights.convert`."""
