"""Compares reading training clips from a bucket with reading them from a local folder.

Two clips of 16 frames, stride 2, at 112² are cut from each video, as in training. The bucket is in
a storage server on this machine, whose answers come late by --latency milliseconds; so its CPU time
is in the figures, too.

  python benchmarks/buckets.py --records=DIR --cores=2

The two read the same batches in turn, each from a new start, so that neither reads ahead while the
other is measured. Compare the ratios, not the rates. It needs the packages of the extra `dev`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from typing import Any

_FIRST = 3  # batches; more than are prefetched
ROOT = pathlib.Path(__file__).resolve().parents[1]


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--records", required=True, help="folder of records, from vssl prepare")
  parser.add_argument("--split", default="train")
  parser.add_argument("--kind", choices=("gs", "s3"), default="gs")
  parser.add_argument("--latency", type=float, nargs="+", default=[0.0, 20.0, 100.0])
  parser.add_argument("--size", type=int, default=112)
  parser.add_argument("--batch", type=int, default=8, help="videos per batch, two clips each")
  parser.add_argument("--batches", type=int, default=30, help="batches per round")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--cores", type=int, default=0, help="config.data.threads; 0: one per core")
  parser.add_argument("--json", default="", help="also write the result to this file")
  return parser.parse_args()


def _batches(args: argparse.Namespace, records: str) -> Any:
  from data_pipelines import source
  from vssl_jax import config

  data = config.data()
  data.path, data.train_split = records, args.split
  data.threads = args.cores or len(os.sched_getaffinity(0))
  data.frames, data.stride, data.size = 16, 2, args.size
  return source.load(data, split=args.split, batch_size=args.batch, seed=0).train_batches()


def _rate(args: argparse.Namespace, records: str) -> float:
  """Clips per second over one round; the first batches, which build the pipeline, do not count."""
  batches = _batches(args, records)
  for _ in range(_FIRST):
    next(batches)
  began = time.perf_counter()
  for _ in range(args.batches):
    next(batches)
  rate = 2 * args.batch * args.batches / (time.perf_counter() - began)
  batches.close()
  return rate


def _compare(args: argparse.Namespace, latency: float, port: int) -> dict[str, float]:
  from tests import emulators
  from vssl_jax import files

  server = emulators.serve(args.kind, latency=latency / 1e3, port=port)
  with server as variables, emulators.used(variables):
    address = f"{args.kind}://{emulators.BUCKET}/records"
    files.upload(pathlib.Path(args.records), address)
    sides = {"local": args.records, "bucket": address}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
      for name, records in sides.items():
        rates[name].append(_rate(args, records))
  ratios = [b / a for a, b in zip(rates["local"], rates["bucket"], strict=True)]
  return {
    "latency_ms": latency,
    **{f"{name}_clips_per_second": statistics.median(found) for name, found in rates.items()},
    "ratio": statistics.median(ratios),
    "least": min(ratios),
    "most": max(ratios),
  }


def main() -> None:
  """Prints the table."""
  args = _arguments()
  sys.path.insert(0, str(ROOT))
  from tests import emulators

  port = emulators.free_port()
  rows = [_compare(args, latency, port) for latency in args.latency]
  print(f"{'latency, ms':>12}{'local':>10}{'bucket':>10}  clips/s     bucket / local")
  for row in rows:
    print(
      f"{row['latency_ms']:>12g}{row['local_clips_per_second']:>10.1f}"
      f"{row['bucket_clips_per_second']:>10.1f}{'':>13}{row['ratio']:.2f} "
      f"({row['least']:.2f} to {row['most']:.2f})"
    )
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
  main()
