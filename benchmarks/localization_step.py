"""Compares training steps of our BaS-Net and DCC with those of BaSNet-pytorch, in one run.

Sizes are THUMOS14's: 16 videos of T = 750 steps, D = 2048, 20 classes. The rival is a checkout of
github.com/Pilhyeon/BaSNet-pytorch; its network, loss and train step run unchanged (without CUDA,
`.cuda()` does nothing). Both batches are in memory; reading, and the rival's evaluation after every
step, are left out. The sides are timed alternately, so that other work on the machine slows all of
them equally. The ratio is the median over rounds; the machine's load is printed too.

  python benchmarks/localization_step.py --rival=BaSNet-pytorch
  python benchmarks/localization_step.py --steps=96 --width=256 --batch=4 --clock=cpu    # small
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from configs import dcc as recipes
from vssl_jax import methods, parallel
from vssl_jax.training import optim
from vssl_jax.training import step as step_lib

VIDEOS, CLASSES = 200, 20
OURS = {
  "bas_net": {"dcc.contrast": "none"},
  "dcc, not denoised": {"dcc.denoise": False},
  "dcc": {},
}
RIVAL = "BaSNet-pytorch"
_MODULES = ("model", "train")


def _arguments(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rival", default="", help="folder of a BaSNet-pytorch checkout; or none")
  parser.add_argument("--batch", type=int, default=16, help="videos per batch")
  parser.add_argument("--steps", type=int, default=750, help="time steps per video, T")
  parser.add_argument("--width", type=int, default=2048, help="feature width, D")
  parser.add_argument(
    "--hidden", type=int, default=2048, help="width of our trunk; the rival's is 2048"
  )
  parser.add_argument(
    "--dtype", default="float32", choices=["float32", "bfloat16"], help="dtype of our network"
  )
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument(
    "--threads", type=int, default=0, help="threads of the rival; 0: one per core"
  )
  parser.add_argument(
    "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a busy machine"
  )
  parser.add_argument("--json", default="", help="also write the result to this file")
  return parser.parse_args(argv)


def batch(args: argparse.Namespace) -> dict[str, np.ndarray]:
  """Random features; one or two classes per video."""
  rng = np.random.default_rng(0)
  labels = np.zeros((args.batch, CLASSES), np.float32)
  labels[np.arange(args.batch), rng.integers(0, CLASSES, args.batch)] = 1
  labels[::4, 0] = 1
  return {
    "features": rng.random((args.batch, args.steps, args.width), np.float32),
    "mask": np.ones((args.batch, args.steps), bool),
    "labels": labels,
    "video": np.arange(args.batch),
  }


def ours(args: argparse.Namespace, changes: dict[str, Any]) -> Callable[[], float]:
  """Returns a function that trains one step and returns its loss."""
  config = recipes.get_config("thumos14")
  config.update_from_flattened_dict(
    {
      "batch_size": args.batch,
      "data.frames": args.steps,
      "dcc.width": args.width,
      "dcc.hidden": args.hidden,
      "dcc.dtype": args.dtype,
      "dcc.warmup": 0.0,
      "dcc.labels": 3,
      "dcc.videos": VIDEOS,
      "dcc.classes": CLASSES,
      "steps_per_epoch": max(VIDEOS // args.batch, 1),
      **changes,
    }
  )
  mesh = parallel.make_mesh(jax.devices()[:1])
  method = methods.load("dcc").build(config, mesh)
  rate = optim.learning_rate(config.optim, args.batch, config.steps, 0)
  tx = optim.build(config.optim, rate)
  advance = step_lib.make_step(method, tx, rate, seed=0, accumulate=1, mesh=mesh)
  held = [step_lib.init(method, tx, 0, mesh, args.batch)]
  fed = parallel.put_batch(mesh, batch(args))

  def run() -> float:
    held[0], metrics = advance(held[0], fed)
    jax.block_until_ready(held[0])
    return float(metrics["loss"])

  return run


def rival(args: argparse.Namespace) -> Callable[[], float]:
  """Returns the same function for BaSNet-pytorch: one step of its own `train`.

  Raises:
    SystemExit: the folder is not a checkout, or PyTorch is not installed.
  """
  try:
    import torch
  except ImportError:
    sys.exit("PyTorch is not installed, so the rival cannot run: install it or leave out --rival")
  if not all((pathlib.Path(args.rival) / f"{name}.py").is_file() for name in _MODULES):
    sys.exit(f"{args.rival} is no checkout of {RIVAL}: model.py and train.py are not there")
  model, train = (_load(pathlib.Path(args.rival) / f"{name}.py") for name in _MODULES)
  if not torch.cuda.is_available():
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
  torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
  torch.manual_seed(0)
  net = model.BaS_Net(args.width, CLASSES, args.steps)
  net = net.cuda() if torch.cuda.is_available() else net
  optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=5e-4)
  criterion, logger = train.BaS_Net_loss(1e-4), _Logger()
  given = batch(args)
  arrays = [torch.from_numpy(given[name]) for name in ("features", "labels")]
  if torch.cuda.is_available():  # as ours: what is measured is the step
    arrays = [x.cuda() for x in arrays]
  item = (*arrays, 0, 0, 0)

  def run() -> float:
    train.train(net, [item], iter([item]), optimizer, criterion, logger, 0)
    return logger.values["loss_total"]  # `.item()` has waited for the device

  return run


class _Logger:
  """Stores the values that the rival logs."""

  def __init__(self):
    self.values: dict[str, float] = {}

  def log_value(self, key: str, value: float, step: int) -> None:
    """Stores a value."""
    del step
    self.values[key] = value


def _load(path: pathlib.Path) -> Any:
  spec = importlib.util.spec_from_file_location(f"rival_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Seconds a step of each, in turn, and what follows."""
  clock = time.process_time if args.clock == "cpu" else time.perf_counter
  runs = {name: ours(args, changes) for name, changes in OURS.items()}
  if args.rival:
    runs[RIVAL] = rival(args)
  losses = {name: run() for name, run in runs.items()}  # compiles
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(args.rounds):
    for name, run in runs.items():
      began = clock()
      run()
      seconds[name].append(clock() - began)

  def ratio(a: str, b: str) -> float:
    return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

  result = {
    "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
    "cores": len(os.sched_getaffinity(0)),
    "load": os.getloadavg(),
    "clock": args.clock,
    "batch": args.batch,
    "T": args.steps,
    "D": args.width,
    "dtype": args.dtype,
    "loss": losses,
    "steps_per_second": {k: 1 / statistics.median(s) for k, s in seconds.items()},
    "dcc_adds": ratio("dcc", "bas_net") - 1,
    "clustering_adds": ratio("dcc", "bas_net") - ratio("dcc, not denoised", "bas_net"),
  }
  if args.rival:
    result["times_the_rival"] = {name: ratio(RIVAL, name) for name in OURS}
  return result


def main(argv: list[str] | None = None) -> None:
  """Prints a table and one RESULT line."""
  args = _arguments(argv)
  result = measure(args)
  load = ", ".join(f"{x:.1f}" for x in result["load"])
  print(f"{result['device']}, {result['cores']} core(s), load {load}; {args.clock} time")
  for name, rate in result["steps_per_second"].items():
    times = result.get("times_the_rival", {}).get(name)
    print(f"  {name:<18} {rate:8.4f} steps/s" + (f"  {times:.2f} x {RIVAL}" if times else ""))
  print(
    f"  DCC adds {result['dcc_adds']:.1%} to BaS-Net's step, of which clustering "
    f"{result['clustering_adds']:.1%}"
  )
  print("RESULT " + json.dumps(result), flush=True)
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
