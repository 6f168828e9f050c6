"""`vssl plan`: the flags of `vssl_jax.plan`."""

from __future__ import annotations

import argparse

from vssl_jax.cli import arguments
from vssl_jax.errors import UserError

DESCRIPTION = """\
Plans a run for TPUs or GPUs without having them: compiles the real train step for them.

The table says whether the step fits into the memory of a chip, how much it computes, reads and
exchanges between devices, and from these how long a step and the run take at best. TPUs need the
package libtpu, which the extra `plan` brings; GPUs need JAX's CUDA plugin, but no GPU. A recipe
takes 2 to 30 minutes to compile. --stage compiles what comes before and after training instead.
"""
EXAMPLES = """\
vssl plan --config=cvrl:k400 --topology=v5e:8x8
vssl plan --config=rho_byol:k400 --topology=v5p:4x4x4,h100:8 --output=plan.json
vssl plan --config=cvrl:k400 --topology=h100:8 --fit
"""


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl plan", DESCRIPTION, EXAMPLES, config=True)
  p.add_argument(
    "--topology",
    type=arguments.listed(),
    required=True,
    metavar="NAME,…",
    help="machines: v4, v5e, v5p, v6e or tpu7x with the shape of the slice, h100 or h200 with the "
    "number of GPUs; such as v5e:8x8, v5p:4x4x4, h100:8",
  )
  p.add_argument(
    "--videos",
    type=int,
    default=240_000,
    metavar="N",
    help="training videos, for the length of the run (default: 240,000, those of Kinetics-400)",
  )
  p.add_argument(
    "--stage",
    default="train",
    metavar="NAME",
    help="what to compile: train (default), init, restore, linear_probe, finetune, features, knn "
    "or logistic",
  )
  arguments.switch(p, "fit", "search settings that fit, the fastest first; compiles several times")
  p.add_argument("--output", metavar="FILE", help="also write the plans as JSON")
  return p


def run(args: argparse.Namespace) -> int:
  """Prints the table."""
  if args.config is None:
    raise UserError("--config is missing: e.g. --config=cvrl:k400")
  from vssl_jax.planning.report import table
  from vssl_jax.planning.run import plan

  options = {"videos": args.videos, "fit": args.fit, "stage": args.stage, "output": args.output}
  plans = plan(args.config, args.topology, **options)
  print(table(plans))
  return 0
