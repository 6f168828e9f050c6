"""`python -m vssl_jax.export`, the same as `vssl export`; see `vssl_jax.commands.export`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("vssl_jax.commands.export"))
