"""`python -m vssl_jax.uncertainty`, the same as `vssl uncertainty`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("vssl_jax.commands.uncertainty"))
