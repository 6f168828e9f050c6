"""`python -m vssl_jax.localize`, the same as `vssl localize`; see `vssl_jax.commands.localize`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("vssl_jax.commands.localize"))
