"""`python -m vssl_jax.uncertainty`: see `vssl_jax.uncertainty.analysis`."""

import sys

from vssl_jax.uncertainty.analysis import main

if __name__ == "__main__":
  sys.exit(main())
