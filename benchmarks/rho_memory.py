"""Shows how the memory of a step grows with ρ, the clips per video, by XLA's memory analysis.

Rows are the temporary bytes of one step's loss and gradients, without arguments, results and
optimizer. The step is compiled and not run. MoCo and BYOL are shown in parallel and in sequential
mode, SimCLR and SwAV with and without recomputing the encoder's blocks (remat). The uint8 clips,
which are an argument and not counted, always grow with ρ.

  python benchmarks/rho_memory.py
  python benchmarks/rho_memory.py --encoder=slow --depth=50 --width=1 --size=224 --batch=16
"""

from __future__ import annotations

import argparse
import json
import pathlib

import jax
import rho_setup

ROWS = {
  "ρ-MoCo parallel": ("rho_moco", {}),
  "ρ-MoCo sequential": ("rho_moco", {"sequential": True}),
  "ρ-BYOL parallel": ("rho_byol", {}),
  "ρ-BYOL sequential": ("rho_byol", {"sequential": True}),
  "ρ-SimCLR": ("rho_simclr", {}),
  "ρ-SimCLR remat": ("rho_simclr", {"remat": True}),
  "ρ-SwAV": ("rho_swav", {}),
  "ρ-SwAV remat": ("rho_swav", {"remat": True}),
}


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  rho_setup.add_arguments(parser)
  parser.add_argument("--rho", type=int, nargs="+", default=[2, 3, 4], help="clips, 2 or more")
  parser.add_argument("--rows", nargs="+", default=list(ROWS), help="; ".join(ROWS))
  return parser.parse_args()


def temporary_bytes(name: str, clips: int, args: argparse.Namespace, **fields: object) -> int:
  """XLA's count of temporary bytes for the loss and gradients of one step."""
  step, shapes = rho_setup.gradient(rho_setup.build(name, clips, args, **fields), args.batch)
  # The optimization that is switched off here changes CPU instructions, not buffers.
  options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  compiled = jax.jit(step, compiler_options=options).lower(*shapes).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
  """Prints the table and a RESULT line."""
  args = _arguments()
  device = jax.devices()[0].device_kind
  print(
    f"{args.encoder}-{args.depth} x {args.width}, {args.batch} videos of {args.frames} x "
    f"{args.size}² on {device}: temporary megabytes of a step's loss and gradients"
  )
  print(f"{'':20}" + "".join(f"{f'ρ = {rho}':>10}" for rho in args.rho) + f"{'last/first':>12}")
  table = {}
  for row in args.rows:
    name, fields = ROWS[row]
    table[row] = [temporary_bytes(name, rho, args, **fields) for rho in args.rho]
    cells = "".join(f"{x / 1e6:10.1f}" for x in table[row])
    print(f"{row:20}{cells}{table[row][-1] / table[row][0]:12.2f}", flush=True)
  result = {"device": device, **vars(args), "temporary_bytes": table}
  line = json.dumps(result, ensure_ascii=False, sort_keys=True)
  if args.json:
    pathlib.Path(args.json).write_text(line + "\n", encoding="utf-8")
  print(f"RESULT {line}")


if __name__ == "__main__":
  main()
