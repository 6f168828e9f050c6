"""`python -m data_pipelines.untrimmed --output=DIR`: see `data_pipelines.untrimmed.simulated`."""

import sys

from vssl_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run("data_pipelines.untrimmed.simulated"))
