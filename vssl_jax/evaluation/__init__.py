"""Every evaluation protocol from one checkpoint; `python -m vssl_jax.evaluate` runs them."""
