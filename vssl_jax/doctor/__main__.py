"""`python -m vssl_jax.doctor`, the same as `vssl doctor`; see `vssl_jax.commands.doctor`."""

import sys

from vssl_jax.doctor import examine


def main() -> int:
  """Runs the command, or, where a package that all commands need is broken, the report alone."""
  try:
    from vssl_jax import cli
  except Exception:  # what is broken is in the report
    found = examine.examine()
    print(examine.text(found))
    print(f"error: {examine.verdict(found)}", file=sys.stderr)
    return 2
  return cli.run("vssl_jax.commands.doctor")


if __name__ == "__main__":
  sys.exit(main())
