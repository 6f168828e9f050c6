"""Compares block-wise InfoNCE with the dense form and optax.ntxent: time, memory, agreement.

Each row computes the value and the gradients with respect to both views, in float32, at the highest
matmul precision. Memory is XLA's count of temporary bytes, without inputs and outputs.

  python benchmarks/info_nce.py
  python benchmarks/info_nce.py --sizes 1024 8192 --block 1024 --rounds 5 --json result.json
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vssl_jax.losses import info_nce

TEMPERATURE = 0.1


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048, 8192])
  parser.add_argument("--dim", type=int, default=128)
  parser.add_argument("--block", type=int, default=512, help="videos per side of a tile")
  parser.add_argument("--rounds", type=int, default=5, help="timings of each form, alternating")
  parser.add_argument(
    "--memory_size",
    type=int,
    default=65536,
    help="N whose memory is analyzed by compiling without running; 0: none",
  )
  parser.add_argument(
    "--optax_up_to",
    type=int,
    default=512,
    help="largest size for optax.ntxent, whose N² D temporaries are 6 GB at 1,024",
  )
  parser.add_argument("--json", default="", help="also write the result to this file")
  return parser.parse_args()


def _ntxent(a: jax.Array, b: jax.Array) -> tuple[jax.Array, dict]:
  labels = jnp.tile(jnp.arange(a.shape[0]), 2)
  return optax.losses.ntxent(jnp.concatenate([a, b]), labels, TEMPERATURE), {}


def _forms(n: int, args: argparse.Namespace) -> dict:
  forms = {
    "blocked": functools.partial(info_nce, temperature=TEMPERATURE, block_size=args.block),
    "dense": functools.partial(info_nce, temperature=TEMPERATURE),
  }
  if n <= args.optax_up_to:
    forms["optax"] = _ntxent
  return forms


def _compile(form, n: int, dim: int):
  shape = jax.ShapeDtypeStruct((n, dim), jnp.float32)
  return jax.jit(jax.value_and_grad(form, (0, 1), has_aux=True)).lower(shape, shape).compile()


def _megabytes(compiled) -> float:
  return round(compiled.memory_analysis().temp_size_in_bytes / 1e6, 1)


def _disagreement(result, reference) -> float:
  """The largest difference of value and gradients, relative to the reference's largest entry."""
  (loss, _), grads = result
  (want, _), want_grads = reference
  pairs = zip((loss, *grads), (want, *want_grads), strict=True)
  return max(float(np.abs(np.subtract(x, y)).max() / np.abs(y).max()) for x, y in pairs)


def _measure(n: int, args: argparse.Namespace) -> dict:
  a, b = jax.random.normal(jax.random.key(n), (2, n, args.dim))
  b = a + b  # views of one video are similar
  compiled = {name: _compile(form, n, args.dim) for name, form in _forms(n, args).items()}
  results = {name: jax.block_until_ready(f(a, b)) for name, f in compiled.items()}
  seconds = {name: [] for name in compiled}
  for _ in range(args.rounds):
    for name, f in compiled.items():
      start = time.perf_counter()
      jax.block_until_ready(f(a, b))
      seconds[name].append(time.perf_counter() - start)
  row = {"n": n}
  for name, f in compiled.items():
    row[name] = {
      "seconds_median": statistics.median(seconds[name]),
      "seconds_min": min(seconds[name]),
      "temp_mb": _megabytes(f),
      "differs_from_dense": _disagreement(results[name], results["dense"]),
    }
    ratios = [x / y for x, y in zip(seconds["dense"], seconds[name], strict=True)]
    row[name]["speed_over_dense"] = statistics.median(ratios)
  return row


def main() -> None:
  """Prints a table and, last, `RESULT {json}`."""
  args = _arguments()
  device = jax.devices()[0]
  result = {
    "device": device.device_kind,
    "cores": len(os.sched_getaffinity(0)),
    "machine": platform.machine(),
    "jax": jax.__version__,
    "dim": args.dim,
    "block": args.block,
    "rounds": args.rounds,
    "time": [],
  }
  print(f"{device.platform} ({device.device_kind}), D {args.dim}, block {args.block}")
  print(f"{'N':>7} {'form':8} {'median s':>9} {'min s':>9} {'temp MB':>9} {'× dense':>8} differs")
  for n in args.sizes:
    row = _measure(n, args)
    result["time"].append(row)
    for name in ("dense", "blocked", "optax"):
      if name in row:
        x = row[name]
        print(
          f"{n:7} {name:8} {x['seconds_median']:9.3f} {x['seconds_min']:9.3f} {x['temp_mb']:9.1f}"
          f" {x['speed_over_dense']:8.2f} {x['differs_from_dense']:.0e}",
          flush=True,
        )
  if args.memory_size:
    n = args.memory_size
    result["memory"] = {"n": n}
    for name, form in _forms(n, args).items():
      result["memory"][name] = _megabytes(_compile(form, n, args.dim))
      print(f"{n:7} {name:8} {'-':>9} {'-':>9} {result['memory'][name]:9.1f}", flush=True)
  print("RESULT", json.dumps(result))
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  sys.exit(main())
