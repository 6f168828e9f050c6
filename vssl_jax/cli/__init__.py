"""The command line: `vssl`, the `python -m` form of each command, and what commands share."""

from vssl_jax.cli.program import main, run

__all__ = ["main", "run"]
