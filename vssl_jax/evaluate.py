"""`python -m vssl_jax.evaluate`, the same as `vssl evaluate`; see `vssl_jax.commands.evaluate`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("vssl_jax.commands.evaluate"))
