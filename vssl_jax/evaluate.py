"""`python -m vssl_jax.evaluate`: see `vssl_jax.evaluation.run`."""

import sys

from vssl_jax.evaluation.run import main

if __name__ == "__main__":
  sys.exit(main())
