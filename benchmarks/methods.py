"""Compares the training step of each method with CVRL's: clips/s in one run.

A step is complete: augmentation (mild color, as in the small recipes), encoder, loss, gradient,
SGD, momentum network or queue. Input is synthetic and already on the device. All methods have the
same encoder, videos and clips. They are timed alternately and ratios are medians over rounds, so
that other work on the machine affects all of them equally. Forward and backward pass cost about
three forward passes; a momentum network adds a fourth, which gives 0.75 of CVRL's clips/s.

  python benchmarks/methods.py
  python benchmarks/methods.py --encoder=slow --depth=50 --width=1 --size=224 --batch=32  # on a GPU
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import rho_setup

from vssl_jax import methods, parallel, recipes
from vssl_jax.training import optim
from vssl_jax.training import step as step_lib

ROWS = {
  "CVRL": ("cvrl", {}),
  "ρ-SimCLR": ("rho_simclr", {}),
  "ρ-SwAV": ("rho_swav", {}),
  "ρ-MoCo": ("rho_moco", {"wait": False}),
  "ρ-MoCo sequential": ("rho_moco", {"wait": False, "sequential": True}),
  "ρ-BYOL": ("rho_byol", {}),
  "ρ-BYOL sequential": ("rho_byol", {"sequential": True}),
}


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  rho_setup.add_arguments(parser)
  parser.add_argument("--rows", nargs="+", default=list(ROWS), help="; ".join(ROWS))
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument(
    "--steps", type=int, default=0, help="steps per round; default 2 on CPU, else 20"
  )
  parser.add_argument(
    "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a busy machine"
  )
  return parser.parse_args()


class Step:
  """The compiled step of a method, with its state and one batch."""

  def __init__(self, name: str, fields: dict, args: argparse.Namespace):
    config = rho_setup.config(name, 2, args, **fields)
    recipes.mild_color(config)
    mesh = parallel.make_mesh(jax.devices()[:1])
    method = methods.load(name).build(config, mesh)
    tx = optim.build(config.optim, lambda _: jnp.float32(1e-4))
    self.state = step_lib.init(method, tx, 0, mesh, args.batch)
    shape = (args.batch, 2, args.frames, args.size, args.size, 3)
    clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    rows = np.arange(args.batch, dtype=np.int32)
    batch = {"clips": clips, "label": rows, "video": rows}
    self.batch = parallel.put_batch(mesh, batch)
    self.advance = step_lib.make_step(
      method, tx, lambda _: jnp.float32(1e-4), seed=0, accumulate=1, mesh=mesh
    )
    self.run(1)

  def run(self, steps: int) -> None:
    """Runs `steps` steps and waits for the last."""
    for _ in range(steps):
      self.state, _ = self.advance(self.state, self.batch)
    jax.block_until_ready(self.state)


def main() -> None:
  """Prints the table and a RESULT line."""
  args = _arguments()
  steps = args.steps or (2 if jax.default_backend() == "cpu" else 20)
  clock = time.process_time if args.clock == "cpu" else time.perf_counter
  compiled = {}
  for row in args.rows:
    began = time.perf_counter()
    compiled[row] = Step(*ROWS[row], args)
    print(f"{row}: compiled in {time.perf_counter() - began:.0f} s", flush=True)
  seconds: dict[str, list[float]] = {row: [] for row in args.rows}
  for _ in range(args.rounds):
    for row, step in compiled.items():
      began = clock()
      step.run(steps)
      seconds[row].append(clock() - began)
  clips = 2 * args.batch * steps
  first = args.rows[0]
  table = {}
  print(f"{'':20}{'clips/s':>10}{f'of {first}':>14}")
  for row, times in seconds.items():
    ratio = statistics.median(a / b for a, b in zip(seconds[first], times, strict=True))
    table[row] = {"clips_per_second": clips / statistics.median(times), "ratio": ratio}
    print(f"{row:20}{table[row]['clips_per_second']:10.1f}{ratio:14.2f}")
  result = {"device": jax.devices()[0].device_kind, **vars(args), "methods": table}
  line = json.dumps(result, ensure_ascii=False, sort_keys=True)
  if args.json:
    pathlib.Path(args.json).write_text(line + "\n", encoding="utf-8")
  print(f"RESULT {line}")


if __name__ == "__main__":
  main()
