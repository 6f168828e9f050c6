"""Compares our k-means (Lloyd) with another one from the same centers: time and agreement.

The rival is scikit-learn's or, on any device, the textbook form in JAX (`--rival=direct`): one
N × K matrix of distances per iteration, and a segment sum. All run the same number of iterations
(assign every point, move the centers) and assign once more at the end. On CPU, our points are split
over one device per core, with `kmeans(…, mesh=…)`: one device sums its rows while another
multiplies. The sides are timed alternately and the ratio is the median over rounds. On a GPU, the
output also has lower bounds from the data sheet: the bytes to read the points once per pass, and
the FLOP of the two matrix products.

  python benchmarks/kmeans.py
  python benchmarks/kmeans.py --dim=2048 --block=16384 --rival=direct  # on a GPU
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import time
import warnings
from typing import NamedTuple

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + f" --xla_force_host_platform_device_count={len(os.sched_getaffinity(0))}"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vssl_jax import parallel
from vssl_jax.ops.kmeans import kmeans

# Data sheets (SXM): memory in bytes/s; FLOP/s of float32, and of TF32 dense.
DEVICES = {
  "H200": (4.8e12, 67e12, 495e12),
  "H100": (3.35e12, 67e12, 495e12),
  "A100": (2.0e12, 19.5e12, 156e12),
  "L4": (0.3e12, 30.3e12, 60e12),
}


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--points", type=int, default=150_000)
  parser.add_argument("--dim", type=int, default=512)
  parser.add_argument("--clusters", type=int, default=100)
  parser.add_argument("--iterations", type=int, default=10)
  parser.add_argument("--block", type=int, default=1024, help="points per block")
  parser.add_argument("--precision", choices=["highest", "high", "default"], default="highest")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--rival", choices=["sklearn", "direct", "none"], default="sklearn")
  parser.add_argument(
    "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a busy machine"
  )
  parser.add_argument("--device", default="", help="for the bounds: one of " + ", ".join(DEVICES))
  parser.add_argument("--json", default="", help="also write the result to this file")
  return parser.parse_args()


def _points(args: argparse.Namespace) -> np.ndarray:
  """Draws twice as many Gaussian blobs as clusters, so that ten iterations do not converge."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((args.points, args.dim), np.float32)
  blobs = rng.standard_normal((2 * args.clusters, args.dim), np.float32)
  x += blobs[rng.integers(0, len(blobs), args.points)]
  return x


def _ours(x: np.ndarray, centers: np.ndarray, args: argparse.Namespace):
  mesh = parallel.make_mesh()
  rows = len(x) // mesh.size * mesh.size
  mask = np.ones(len(x), bool)
  if rows < len(x):
    pad = rows + mesh.size - len(x)
    x, mask = np.pad(x, ((0, pad), (0, 0))), np.pad(mask, (0, pad))
  split = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
  x, mask = jax.device_put((x, mask), split)
  options = {"iterations": args.iterations, "block_size": args.block, "tolerance": -1.0}
  options |= {"mesh": mesh, "axis_name": parallel.AXIS, "precision": args.precision}
  run = jax.jit(lambda x, c, m: kmeans(x, c, mask=m, **options)).lower(x, centers, mask).compile()
  return lambda: jax.block_until_ready(run(x, centers, mask)), run.memory_analysis()


class _Found(NamedTuple):
  """The result of a rival, with the names of scikit-learn."""

  labels_: np.ndarray
  inertia_: float


def _direct(x: np.ndarray, centers: np.ndarray, args: argparse.Namespace):
  """The textbook form, which holds all N × K distances."""
  k, precision = len(centers), args.precision

  def assign(x: jax.Array, centers: jax.Array) -> tuple[jax.Array, jax.Array]:
    products = jnp.matmul(x, centers.T, precision=precision)
    gap = jnp.sum(x * x, axis=1)[:, None] - 2 * products + jnp.sum(centers * centers, axis=1)
    return jnp.argmin(gap, axis=1), jnp.min(gap, axis=1)

  @jax.jit
  def lloyd(x: jax.Array, centers: jax.Array) -> tuple[jax.Array, jax.Array]:
    def move(_, centers: jax.Array) -> jax.Array:
      labels, _ = assign(x, centers)
      sums = jax.ops.segment_sum(x, labels, k)
      counts = jax.ops.segment_sum(jnp.ones(len(x)), labels, k)[:, None]
      return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), centers)

    labels, gap = assign(x, jax.lax.fori_loop(0, args.iterations, move, centers))
    return labels, jnp.sum(gap)

  x, centers = jax.device_put((x, centers))

  def run() -> _Found:
    labels, inertia = jax.block_until_ready(lloyd(x, centers))
    return _Found(np.asarray(labels), float(inertia))

  return run


def _sklearn(x: np.ndarray, centers: np.ndarray, args: argparse.Namespace):
  from sklearn.cluster import KMeans

  def run():
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # the warning that it has not converged
      return KMeans(
        args.clusters, init=centers, n_init=1, max_iter=args.iterations, tol=0, algorithm="lloyd"
      ).fit(x)

  return run


def _bounds(args: argparse.Namespace, name: str) -> dict:
  """Lower bounds in ms per iteration from the data sheet: the larger of memory and arithmetic."""
  memory, full, tf32 = DEVICES[name]
  flop = 4 * args.points * args.dim * args.clusters
  size = 4 * args.points * args.dim
  arithmetic = full if args.precision == "highest" else tf32
  return {
    "bound_device": name,
    "bound_memory_ms": 1e3 * size / memory,
    "bound_flop_ms": 1e3 * flop / arithmetic,
    "bound_ms": 1e3 * max(size / memory, flop / arithmetic),
  }


def main() -> None:
  """Prints a table and, last, `RESULT {json}`."""
  args = _arguments()
  clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]
  x = _points(args)
  centers = x[: args.clusters].copy()
  device = jax.devices()[0]
  ours, memory = _ours(x, centers, args)
  sides = {"ours": ours}
  if args.rival != "none":
    sides[args.rival] = {"sklearn": _sklearn, "direct": _direct}[args.rival](x, centers, args)
  results = {name: run() for name, run in sides.items()}
  seconds = {name: [] for name in sides}
  for _ in range(args.rounds):
    for name, run in sides.items():
      start = clock()
      run()
      seconds[name].append(clock() - start)
  result = {k: getattr(args, k) for k in ("points", "dim", "clusters", "iterations", "block")}
  result |= {
    "device": device.device_kind,
    "devices": len(jax.devices()),
    "cores": len(os.sched_getaffinity(0)),
    "machine": platform.machine(),
    "jax": jax.__version__,
    "clock": args.clock,
    "rounds": args.rounds,
    "load": os.getloadavg()[0],
    "seconds": {name: statistics.median(s) for name, s in seconds.items()},
    "ms_per_iteration": 1e3 * statistics.median(seconds["ours"]) / (args.iterations + 1),
    "temp_mb": memory.temp_size_in_bytes / 1e6,
  }
  known = args.device or next((n for n in DEVICES if n in device.device_kind), "")
  if known:
    result |= _bounds(args, known)
  print(f"{device.platform} ({device.device_kind}), {args.points} × {args.dim}, {args.clusters}")
  for name, s in seconds.items():
    print(f"{name:8} median {statistics.median(s):.3f} s {args.clock}, least {min(s):.3f} s")
  if args.rival != "none":
    found, want = results["ours"], results[args.rival]
    ratios = [a / b for a, b in zip(seconds["ours"], seconds[args.rival], strict=True)]
    labels = np.asarray(found.labels)[: len(x)]
    result |= {
      f"time_over_{args.rival}": statistics.median(ratios),
      f"time_over_{args.rival}_range": [min(ratios), max(ratios)],
      "labels_differ": int((labels != want.labels_).sum()),
      "inertia_differs": abs(float(found.inertia) / want.inertia_ - 1),
    }
    print(f"ours / {args.rival}: {result[f'time_over_{args.rival}']:.2f}×")
  print("RESULT", json.dumps(result))
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  sys.exit(main())
