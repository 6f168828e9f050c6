"""`python -m vssl_jax.export`: see `vssl_jax.encoder.export`."""

import sys

from vssl_jax.encoder.export import main

if __name__ == "__main__":
  sys.exit(main())
