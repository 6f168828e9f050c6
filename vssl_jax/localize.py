"""`python -m vssl_jax.localize`: see `vssl_jax.jobs.localize`."""

import sys

from vssl_jax.jobs.localize import main

if __name__ == "__main__":
  sys.exit(main())
