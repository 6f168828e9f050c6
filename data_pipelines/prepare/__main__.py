"""`python -m data_pipelines.prepare INPUT OUTPUT`, the same as `vssl prepare`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("data_pipelines.prepare.prepare"))
