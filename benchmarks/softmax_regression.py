"""Compares our logistic regression on devices with scikit-learn's: time, objective, agreement.

Both minimize Σ_i log-loss_i + ‖W‖² / (2C) for ascending C, each fit from the one before, as a probe
does to choose C. scikit-learn computes in float64 and stops early at its default tolerance, while
ours goes on; with `--tolerance=1e-6` both come about as near to the minimum. The features
are those of a made-up network: correlated, rectified and standardized. On CPU our rows are on one
device, whose products use all cores. The sides take turns, and the ratio is the median over rounds.
Compiling is timed apart, as it happens once for all fits.

  python benchmarks/softmax_regression.py --clock=cpu --threads=1  # on a busy machine
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

import jax
import numpy as np

from vssl_jax import parallel
from vssl_jax.ops import softmax_regression


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rows", type=int, default=5000)
  parser.add_argument("--dim", type=int, default=128)
  parser.add_argument("--classes", type=int, default=20)
  parser.add_argument("--strengths", type=float, nargs="+", default=[1e-3, 1e-2, 1e-1, 1.0])
  parser.add_argument("--tolerance", type=float, default=1e-4, help="of scikit-learn")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--threads", type=int, default=0, help="of scikit-learn; 0: all cores")
  parser.add_argument(
    "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a busy machine"
  )
  parser.add_argument("--json", default="", help="also write the result to this file")
  return parser.parse_args()


def _features(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
  """Classes that overlap, in directions of unequal variance, behind a rectifier."""
  rng = np.random.default_rng(0)
  scale = 1 / np.sqrt(1 + np.arange(args.dim))
  label = rng.integers(0, args.classes, args.rows)
  x = 0.3 * (rng.standard_normal((args.classes, args.dim)) * scale)[label]
  x += rng.standard_normal((args.rows, args.dim)) * scale
  turn = np.linalg.qr(rng.standard_normal((args.dim, args.dim)))[0]
  x = np.maximum(x @ turn * np.sqrt(args.dim) / 4 + 0.3, 0)
  return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32), label


def _objective(x: np.ndarray, label: np.ndarray, fitted: tuple, strength: float) -> float:
  weights, bias = fitted
  z = x.astype(np.float64) @ weights + bias
  z -= z.max(axis=1, keepdims=True)
  loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(x)), label]
  return float(loss.sum() + np.square(weights).sum() / (2 * strength))


def _ours(x: np.ndarray, label: np.ndarray, args: argparse.Namespace) -> list[tuple]:
  mesh = parallel.make_mesh(jax.devices()[:1] if jax.default_backend() == "cpu" else None)
  rows = softmax_regression.Rows(x, label, classes=args.classes, mesh=mesh)
  fit, found = None, []
  for strength in args.strengths:
    fit = rows.fit(strength, start=fit)
    found.append((*rows.coefficients(fit), int(fit.iterations)))
  return found


def _sklearn(x: np.ndarray, label: np.ndarray, args: argparse.Namespace) -> list[tuple]:
  import threadpoolctl
  from sklearn.linear_model import LogisticRegression

  model = LogisticRegression(max_iter=9999, tol=args.tolerance, warm_start=True)
  found, x = [], x.astype(np.float64)
  for strength in args.strengths:
    model.set_params(C=strength)
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(args.threads or None):
      warnings.simplefilter("ignore")  # the warning that it has not converged
      model.fit(x, label)
    found.append((model.coef_.T.copy(), model.intercept_.copy(), int(model.n_iter_[0])))
  return found


def main() -> None:
  """Prints a table and, last, `RESULT {json}`."""
  args = _arguments()
  clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]
  x, label = _features(args)
  sides = {"ours": _ours, "sklearn": _sklearn}
  start = clock()
  found = {"ours": _ours(x, label, args)}
  first = clock() - start
  seconds: dict[str, list[float]] = {name: [] for name in sides}
  for _ in range(args.rounds):
    for name, run in sides.items():
      start = clock()
      found[name] = run(x, label, args)
      seconds[name].append(clock() - start)
  ratios = [b / a for a, b in zip(seconds["ours"], seconds["sklearn"], strict=True)]
  median = {name: statistics.median(s) for name, s in seconds.items()}
  objective = {
    name: [
      _objective(x, label, fit[:2], c) for fit, c in zip(found[name], args.strengths, strict=True)
    ]
    for name in sides
  }
  told = ("rows", "dim", "classes", "strengths", "clock", "rounds", "threads", "tolerance")
  result = {k: getattr(args, k) for k in told}
  result |= {
    "device": jax.devices()[0].device_kind,
    "cores": len(os.sched_getaffinity(0)),
    "machine": platform.machine(),
    "jax": jax.__version__,
    "load": os.getloadavg()[0],
    "seconds": median,
    "compile_seconds": first - median["ours"],
    "iterations": {name: [fit[2] for fit in fits] for name, fits in found.items()},
    "sklearn_over_ours": statistics.median(ratios),
    "sklearn_over_ours_range": [min(ratios), max(ratios)],
    # Positive: scikit-learn's is larger, so less of the minimum is reached.
    "objective_above_ours": [
      b / a - 1 for a, b in zip(objective["ours"], objective["sklearn"], strict=True)
    ],
  }
  print(f"{result['device']}, {args.rows} × {args.dim}, {args.classes} classes, {args.clock} time")
  for name in sides:
    print(f"{name:8} median {median[name]:.2f} s, iterations {result['iterations'][name]}")
  print(f"compiling {result['compile_seconds']:.1f} s")
  print(f"scikit-learn / ours: {result['sklearn_over_ours']:.1f}×")
  print("RESULT", json.dumps(result))
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  sys.exit(main())
