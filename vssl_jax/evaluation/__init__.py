"""The evaluation protocols for one checkpoint; `python -m vssl_jax.evaluate` runs them."""
