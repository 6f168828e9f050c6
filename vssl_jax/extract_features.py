"""`python -m vssl_jax.extract_features`, as `vssl extract`; see `vssl_jax.commands.extract`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("vssl_jax.commands.extract"))
