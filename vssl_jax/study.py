"""`python -m vssl_jax.study`, the same as `vssl study`; see `vssl_jax.commands.study`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("vssl_jax.commands.study"))
