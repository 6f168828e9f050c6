"""`python -m vssl_jax.reports`, the same as `vssl report`; see `vssl_jax.commands.report`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("vssl_jax.commands.report"))
