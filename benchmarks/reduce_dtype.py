"""What is lost and saved by adding up gradients over devices in bfloat16 instead of float32.

A small network trains in bfloat16 for some steps on virtual CPU devices. Then the gradient of a
step is computed with both settings of `config.encoder.reduce_dtype`. Each is compared with the
gradient of the same network in float32, which shows how much the rest of bfloat16 costs, and with
the other. One program computes them, so that both have the same activations, bit for bit. The
update of SGD is proportional to the gradient. The bytes are those that a device gets from
all-reduces in a step.

CPUs add parts that were rounded to bfloat16 up in float32, and round the sum. Devices that round
after each addition lose more. Without `xla_allow_excess_precision=False` XLA for CPUs would leave
the rounding out. Nothing here depends on the speed of the machine.

  python benchmarks/reduce_dtype.py
  python benchmarks/reduce_dtype.py --method=rho_byol
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

BOTH = ("float32", "bfloat16")
PASS = "spmd-partitioning"  # later passes for CPUs turn exchanges of bfloat16 into float32


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add("--method", default="cvrl", help="a method with an encoder (default: cvrl)")
  add("--devices", type=int, default=8, help="virtual devices (default: 8)")
  add("--steps", type=int, default=10, help="steps before the comparison (default: 10)")
  add("--batches", type=int, default=4, help="gradients that are compared (default: 4)")
  add("--batch", type=int, default=64, help="videos per batch (default: 64)")
  add("--width", type=float, default=0.125, help="of the R3D-18 (default: 0.125)")
  add("--frames", type=int, default=4, help="per clip (default: 4)")
  add("--size", type=int, default=32, help="of the clips, pixels (default: 32)")
  add("--json", help="file for the figures")
  return parser.parse_args()


def config_of(args: argparse.Namespace) -> Any:
  """The method's demo on synthetic clips, with convolutions as on TPUs."""
  from vssl_jax import config_file

  c = config_file.load(f"{args.method}:demo")
  with c.unlocked():
    c.update_from_flattened_dict(
      {
        "batch_size": args.batch,
        "steps": max(args.steps, 1) + args.batches,
        "data.source": "synthetic",
        "data.path": "",
        "data.frames": args.frames,
        "data.stride": 1,
        "data.size": args.size,
        "data.synthetic.videos": 4 * args.batch,
        "encoder.depth": 18,
        "encoder.width": args.width,
        "encoder.conv": "lax",
        "encoder.dtype": "bfloat16",
        "optim.warmup_epochs": 0.0,
      }
    )
  return c


def main() -> None:
  """Prints the figures and a RESULT line."""
  args = _arguments()
  flags = os.environ.get("XLA_FLAGS", "")
  os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={args.devices}".strip()
  import jax

  from vssl_jax import methods, parallel
  from vssl_jax.methods.base import value_and_grad
  from vssl_jax.ops import step_keys
  from vssl_jax.planning import hlo
  from vssl_jax.training import sources
  from vssl_jax.training import step as step_lib

  config, mesh = config_of(args), parallel.make_mesh()
  source = sources.load_source(config, config.data.train_split)
  config = methods.resolve(config, source)

  def variant(**fields: str) -> tuple[Any, Any]:
    c = config.copy_and_resolve_references().unlock()
    c.encoder.update(fields)
    return c, methods.build(c, mesh)

  def gradients_of(*built: Any) -> Any:
    """The gradients of several variants, which share what they compute alike."""

    def gradients(state: Any, batch: Any) -> Any:
      rng, keys = step_keys.step_keys(config.seed, state.step, args.batch)
      rows, every = {**batch, "key": keys}, []
      for method in built:
        _, grads = value_and_grad(method, 1)(state.params, state.method, rows, rng, state.step)
        every.append(grads)
      return every

    whole, rows = parallel.replicated(mesh), parallel.split(mesh)
    precise = {"xla_allow_excess_precision": False}
    return jax.jit(
      gradients, in_shardings=(whole, rows), out_shardings=whole, compiler_options=precise
    )

  _, exact = variant(dtype="float32", reduce_dtype="float32")
  c, method = variant(reduce_dtype="float32")
  _, rounded = variant(reduce_dtype="bfloat16")
  program = step_lib.assemble(c, method, mesh, source.steps_per_epoch)
  state = step_lib.init(method, program.tx, c.seed, mesh, args.batch)
  wanted = {*method.batch_spec, "label", "video"}
  batches = (
    parallel.put_batch(mesh, {k: v for k, v in b.items() if k in wanted})
    for b in source.train_batches(0)
  )
  for _ in range(args.steps):
    state, _ = program.advance(state, next(batches))

  moved = {}
  batch = next(batches)
  for dtype, of_dtype in zip(BOTH, (method, rounded), strict=True):
    with tempfile.TemporaryDirectory() as folder:
      options = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": PASS}
      options["xla_backend_optimization_level"] = 0  # the program is not run
      gradients_of(of_dtype).lower(state, batch).compile(options)
      (file,) = pathlib.Path(folder).glob(f"*after_{PASS}*.txt")
      found = hlo.Program(file.read_text()).collectives()
    moved[dtype] = sum(x.bytes * x.times for x in found if x.kind == "all-reduce")

  gradients = gradients_of(exact, method, rounded)
  rows = []
  for _ in range(args.batches):
    flat = {}
    found = jax.device_get(gradients(state, batch))
    for name, own in zip(("exact", *BOTH), found, strict=True):
      leaves = jax.tree.leaves(own)
      flat[name] = np.concatenate([x.ravel() for x in leaves]).astype(np.float64)
    rows.append(
      {
        f"{a} against {b}": [
          float(np.linalg.norm(flat[a] - flat[b]) / np.linalg.norm(flat[b])),
          1 - float(flat[a] @ flat[b] / np.linalg.norm(flat[a]) / np.linalg.norm(flat[b])),
        ]
        for a, b in (("float32", "exact"), ("bfloat16", "exact"), ("bfloat16", "float32"))
      }
    )
    batch = next(batches)
  outcome: dict[str, Any] = {"method": args.method, "all_reduce_bytes": moved}
  for name in rows[0]:
    error, apart = np.mean([r[name] for r in rows], axis=0)
    outcome[name] = {"relative_error": error, "one_minus_cosine": apart}
    print(f"gradient, {name}: relative error {error:.2e}, 1 - cosine {apart:.2e}")
  print(f"bytes of all-reduces per device and step: {moved}")
  print("RESULT " + json.dumps(outcome))
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(outcome, indent=2), encoding="utf-8")


if __name__ == "__main__":
  main()
