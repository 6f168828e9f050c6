"""`python -m vssl_jax.main`, the same as `vssl train`; see `vssl_jax.commands.train`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("vssl_jax.commands.train"))
