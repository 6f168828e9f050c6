"""`vssl doctor`: the flags of `vssl_jax.doctor.examine`."""

from __future__ import annotations

import argparse
import sys

from vssl_jax.cli import arguments

DESCRIPTION = """\
Tells what this installation can do: versions, devices, video codecs, folders, and missing extras.

Each line begins with ok; missing, if only the feature that it names needs it; or broken, if every
run does. The exit code is 0 if nothing is broken, and else 2. Extras that are missing do not count,
unless --need names them. No package is changed, and nothing is sent. If a package that vssl itself
needs is missing, use python -m vssl_jax.doctor.
"""
EXAMPLES = """\
vssl doctor
vssl doctor runs /data/records --need=data,report
"""


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl doctor", DESCRIPTION, EXAMPLES)
  p.add_argument("folders", nargs="*", metavar="DIR", help="folders to try to write to, too")
  p.add_argument(
    "--need",
    type=arguments.listed(),
    default=(),
    metavar="EXTRAS",
    help="extras that must be there, such as data,report",
  )
  return p


def run(args: argparse.Namespace) -> int:
  """Prints the report; the exit code tells whether something is broken."""
  from vssl_jax.doctor import examine

  found = examine.examine(args.folders, need=args.need)
  print(examine.text(found))
  if wrong := examine.verdict(found):
    print(f"error: {wrong}", file=sys.stderr)
    return 2
  return 0
