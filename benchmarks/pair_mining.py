"""Compares our distances between all pairs of videos of a batch with the double sum over samples.

Both compute the mean over K × K sample pairs of the diagonal Bhattacharyya distance, in float32 and
highest precision. Both reduce it to what mining needs (each video's nearest distance), so neither
stores N × N. The direct form is the double sum with one logarithm per pair of videos;
`as_written` takes the logarithm for each pair of samples, as in the formula. The forms are timed
alternately; ratios are medians over rounds.

  python benchmarks/pair_mining.py
  python benchmarks/pair_mining.py --sizes 65536 --block=1024 --direct_up_to=0      # on a GPU
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
from jax import lax

from vssl_jax.ops import bhattacharyya, mining

RULE = mining.Rule("top_k", 1)


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048, 8192])
  parser.add_argument("--dim", type=int, default=256)
  parser.add_argument("--samples", type=int, default=8)
  parser.add_argument("--block", type=int, default=128, help="videos per side of a tile")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--direct_up_to", type=int, default=2048, help="largest N of the double sum")
  parser.add_argument("--written_up_to", type=int, default=512, help="of the formula as written")
  parser.add_argument(
    "--rule",
    choices=["none", "quantile", "top_k"],
    default="none",
    help="also time the thresholds of this rule",
  )
  parser.add_argument("--json", default="", help="also write the result to this file")
  return parser.parse_args()


def ours(mean: jax.Array, variance: jax.Array, z: jax.Array, block: int) -> jax.Array:
  """The nearest distance of each video `[N]`, in tiles, each unordered pair once."""
  g = bhattacharyya.gaussians(mean, variance, z)

  def step(nearest, rows, cols, mask):
    apart = jnp.where(mask, RULE.distance(rows.take(g), cols.take(g)), jnp.inf)
    nearest = rows.merge(jnp.minimum, nearest, jnp.min(apart, axis=1))
    return cols.merge(jnp.minimum, nearest, jnp.min(apart, axis=0))

  start = jnp.full(len(z), jnp.inf)
  return mining.fold_pairs(step, start, len(z), None, block)


def direct(variance: jax.Array, z: jax.Array, as_written: bool) -> jax.Array:
  """The same by the double sum, one video against all others at a time."""

  def one(i: jax.Array) -> jax.Array:
    total = variance[i] + variance  # [N, D]
    ratio = variance[i] / variance
    log = 0.25 * jnp.log(0.25 * (ratio + 1 / ratio + 2))
    apart = jnp.square(z[i][None, :, None] - z[:, None])  # [N, K, K, D], never in memory
    if as_written:
      both = jnp.sum(0.25 * apart / total[:, None, None] + log[:, None, None], axis=-1)
      distance = jnp.mean(both, axis=(1, 2))
    else:
      quadratic = jnp.mean(jnp.sum(apart / total[:, None, None], axis=-1), axis=(1, 2))
      distance = 0.25 * quadratic + jnp.sum(log, axis=-1)
    return jnp.min(jnp.where(jnp.arange(len(z)) == i, jnp.inf, distance))

  return lax.map(one, jnp.arange(len(z)))


def _inputs(n: int, args: argparse.Namespace) -> tuple[jax.Array, ...]:
  a, b, c = jax.random.split(jax.random.key(n), 3)
  mean = jax.random.normal(a, (n, args.dim)) / args.dim**0.5
  variance = jnp.exp(0.5 * jax.random.normal(b, (n, args.dim))) / args.dim
  noise = jax.random.normal(c, (n, args.samples, args.dim))
  return mean, variance, mean[:, None] + jnp.sqrt(variance)[:, None] * noise


def _forms(n: int, args: argparse.Namespace) -> dict:
  forms = {"ours": functools.partial(ours, block=args.block)}
  if n <= args.direct_up_to:
    forms["direct"] = lambda m, v, z: direct(v, z, as_written=False)
  if n <= args.written_up_to:
    forms["as_written"] = lambda m, v, z: direct(v, z, as_written=True)
  if args.rule != "none":
    rule = mining.Rule(args.rule, {"quantile": 0.05, "top_k": 5}[args.rule])
    forms[args.rule] = lambda m, v, z: mining.thresholds(
      bhattacharyya.gaussians(m, v, z), rule, block_size=args.block
    )
  return forms


def _measure(n: int, args: argparse.Namespace) -> dict:
  inputs = jax.block_until_ready(_inputs(n, args))
  compiled = {name: jax.jit(f).lower(*inputs).compile() for name, f in _forms(n, args).items()}
  results = {name: jax.block_until_ready(f(*inputs)) for name, f in compiled.items()}
  seconds = {name: [] for name in compiled}
  for _ in range(args.rounds):
    for name, f in compiled.items():
      start = time.perf_counter()
      jax.block_until_ready(f(*inputs))
      seconds[name].append(time.perf_counter() - start)
  row = {"n": n, "load": os.getloadavg()[0]}
  for name, f in compiled.items():
    memory = f.memory_analysis()
    row[name] = {
      "seconds_median": statistics.median(seconds[name]),
      "seconds_min": min(seconds[name]),
      "temp_mb": round(memory.temp_size_in_bytes / 1e6, 1),
      "input_mb": round(memory.argument_size_in_bytes / 1e6, 1),
    }
    if name in ("direct", "as_written"):
      ratios = [x / y for x, y in zip(seconds[name], seconds["ours"], strict=True)]
      row[name]["ours_is_faster"] = statistics.median(ratios)
      row[name]["ours_is_faster_range"] = [min(ratios), max(ratios)]
      apart = jnp.max(jnp.abs(results[name] / results["ours"] - 1))
      row[name]["differs_from_ours"] = float(apart)
  return row


def main() -> None:
  """Prints a table and, last, `RESULT {json}`."""
  args = _arguments()
  device = jax.devices()[0]
  result = {k: getattr(args, k) for k in ("dim", "samples", "block", "rounds")} | {
    "device": device.device_kind,
    "cores": len(os.sched_getaffinity(0)),
    "machine": platform.machine(),
    "jax": jax.__version__,
    "rows": [],
  }
  print(f"{device.platform} ({device.device_kind}), D {args.dim}, K {args.samples}")
  print(f"{'N':>7} {'form':10} {'median s':>9} {'min s':>9} {'temp MB':>9} {'ours ×':>8} differs")
  for n in args.sizes:
    row = _measure(n, args)
    result["rows"].append(row)
    for name, x in row.items():
      if isinstance(x, dict):
        print(
          f"{n:7} {name:10} {x['seconds_median']:9.3f} {x['seconds_min']:9.3f} {x['temp_mb']:9.1f} "
          f"{x.get('ours_is_faster', 1.0):8.1f} {x.get('differs_from_ours', 0.0):.0e}",
          flush=True,
        )
  print("RESULT", json.dumps(result))
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  sys.exit(main())
