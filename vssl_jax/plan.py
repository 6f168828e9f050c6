"""`python -m vssl_jax.plan`, the same as `vssl plan`; see `vssl_jax.commands.plan`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("vssl_jax.commands.plan"))
