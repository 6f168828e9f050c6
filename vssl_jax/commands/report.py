"""`vssl report`: the flags of `vssl_jax.report`."""

from __future__ import annotations

import argparse

from vssl_jax.cli import arguments

DESCRIPTION = """\
One HTML page that shows runs: what was run, curves, classes, the videos and their neighbors.

RUN is the folder of a run, which may still go on, of an evaluation, or of a localization. With
several, curves are overlaid, and scores and classes are compared. The page is one file that loads
nothing from the network; it is made from what is in the folders, without data or devices. vssl
evaluate writes what the map and the neighbors need. It needs the extra `report`.
"""
EXAMPLES = """\
vssl report runs/mine
vssl report runs/seed0 runs/seed1 runs/other --output=compared.html
vssl report runs/mine --serve
"""


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl report", DESCRIPTION, EXAMPLES)
  p.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or of an evaluation")
  p.add_argument(
    "--output", metavar="FILE", help="the page (default: report.html in the first folder)"
  )
  arguments.switch(p, "serve", "show the page to browsers on this machine, until Ctrl-C")
  p.add_argument("--port", type=int, default=0, help="port of --serve (default: one that is free)")
  return p


def run(args: argparse.Namespace) -> int:
  """Writes the page, and prints its path, or its address on this machine."""
  from vssl_jax.reports import serve
  from vssl_jax.reports.report import report

  path = report(args.runs, args.output)
  print(path, flush=True)
  if args.serve:
    serve.serve(path, args.port)
  return 0
