"""Compares one ρ-BYOL update with PySlowFast's ContrastiveModel: clips/s in one run.

An update is: ρ = 2 clips of each video, already on the device, through Slow-R50 with projector and
predictor, the keys of the momentum network, the gradient, LARS, the momentum update. PySlowFast
runs its own code, `contrastive_forward` and `construct_optimizer`, with the file of its BYOL
recipe, in sequential mode (the recipe's) and in parallel mode; ours runs in both modes too. Neither
side augments. The sides are timed alternately and ratios are medians over rounds, so that other
work on the machine affects all of them equally.

`--rival` is a checkout of github.com/facebookresearch/SlowFast; PyTorch, fvcore, iopath, yacs and
simplejson must be installed. Its imports of detectron2 and pytorchvideo, which these runs never
call, get empty modules. On a GPU both sides run bfloat16, PySlowFast's under autocast.

  python benchmarks/byol_step.py --rival=path/to/SlowFast
  python benchmarks/byol_step.py --rival=path/to/SlowFast --size=224 --batch=32   # on a GPU
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import rho_setup

from vssl_jax import augment, methods, parallel
from vssl_jax.training import optim
from vssl_jax.training import step as step_lib

RECIPE = "configs/contrastive_ssl/BYOL_SlowR50_8x8.yaml"
CLIPS = 2


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  rho_setup.add_arguments(parser)
  parser.set_defaults(encoder="slow", depth=50, width=1.0, size=64, batch=4)
  parser.add_argument("--rival", required=True, help="a checkout of PySlowFast")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument(
    "--steps", type=int, default=0, help="steps per round; default 1 on CPU, else 10"
  )
  args = parser.parse_args()
  if (args.encoder, args.depth, args.width) != ("slow", 50, 1.0):
    parser.error("the rival's recipe is Slow-R50: do not set --encoder, --depth or --width")
  return args


class Ours:
  """The method's compiled step, with LARS."""

  def __init__(self, args: argparse.Namespace, clips: np.ndarray, sequential: bool):
    config = rho_setup.config("rho_byol", CLIPS, args, sequential=sequential)
    augment.presets.none(config.augment)
    config.head.hidden, config.head.out, config.rho_byol.predictor = (4096,), 256, (4096,)
    config.optim.name, config.optim.weight_decay = "lars", 1e-6
    mesh = parallel.make_mesh(jax.devices()[:1])
    method = methods.load("rho_byol").build(config, mesh)

    def rate(_):
      return jnp.float32(1e-3)

    tx = optim.build(config.optim, rate)
    self.state = step_lib.init(method, tx, 0, mesh, args.batch)
    rows = np.arange(args.batch, dtype=np.int32)
    self.batch = parallel.put_batch(mesh, {"clips": clips, "label": rows, "video": rows})
    self.advance = step_lib.make_step(method, tx, rate, seed=0, accumulate=1, mesh=mesh)

  def run(self, steps: int) -> None:
    """Runs `steps` steps and waits for the last."""
    for _ in range(steps):
      self.state, _ = self.advance(self.state, self.batch)
    jax.block_until_ready(self.state)


def _module(name: str, path: pathlib.Path | None = None, **contents) -> None:
  module = types.ModuleType(name)
  module.__path__ = [] if path is None else [str(path)]
  module.__dict__.update(contents)
  sys.modules[name] = module


def _import(root: pathlib.Path):
  """Imports only PySlowFast's config, contrastive code and optimizer, without unused dependencies.

  The `__init__` of its package imports all models, and with them torchvision and more. An empty
  package in its place makes it possible to import only these three modules.
  """
  import torch

  silent = types.SimpleNamespace(**dict.fromkeys(("info", "warning", "error"), lambda *_: None))
  alone = {f"get_{k}": lambda: 1 for k in ("world_size", "local_size")}
  alone |= {f"get_{k}": lambda: 0 for k in ("rank", "local_rank")}
  sys.path.insert(0, str(root))
  for part in ("models", "utils"):
    _module(f"slowfast.{part}", root / "slowfast" / part)
  _module("slowfast.utils.logging", get_logger=lambda _: silent)
  _module("slowfast.utils.distributed", **alone)
  for name, contents in {
    "detectron2": {},
    "detectron2.layers": {"ROIAlign": None},
    "pytorchvideo": {},
    "pytorchvideo.layers": {},
    "pytorchvideo.layers.distributed": dict.fromkeys(("cat_all_gather", "get_local_rank")),
    "pytorchvideo.layers.batch_norm": dict.fromkeys(
      ("NaiveSyncBatchNorm1d", "NaiveSyncBatchNorm3d")
    ),
    "pytorchvideo.layers.swish": {"Swish": torch.nn.SiLU},
    "pytorchvideo.losses": {},
    "pytorchvideo.losses.soft_target_cross_entropy": {"SoftTargetCrossEntropyLoss": dict},
  }.items():
    _module(name, **contents)
  if not torch.cuda.is_available():  # PySlowFast always calls `.cuda()`
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self
  from slowfast.config.defaults import get_cfg
  from slowfast.models import contrastive, optimizer

  return torch, get_cfg(), contrastive, optimizer


class Theirs:
  """PySlowFast's model, optimizer and the body of its training loop."""

  def __init__(self, args: argparse.Namespace, clips: np.ndarray, sequential: bool):
    root = pathlib.Path(args.rival)
    torch, cfg, self.contrastive, optimizer = _import(root)
    cfg.merge_from_file(str(root / RECIPE))
    cfg.BN.NORM_TYPE, cfg.BN.NUM_SYNC_DEVICES, cfg.NUM_GPUS = "batchnorm", 1, 1
    cfg.TRAIN.BATCH_SIZE, cfg.CONTRASTIVE.SEQUENTIAL = args.batch, sequential
    cfg.DATA.TRAIN_CROP_SIZE = cfg.DATA.TEST_CROP_SIZE = args.size
    cfg.DATA.NUM_FRAMES = args.frames
    self.torch, self.cfg = torch, cfg
    self.device = "cuda" if torch.cuda.is_available() else "cpu"
    self.autocast = torch.autocast(self.device, torch.bfloat16, args.dtype == "bfloat16")
    self.model = self.contrastive.ContrastiveModel(cfg).to(self.device).train()
    self.optimizer = optimizer.construct_optimizer(self.model, cfg)
    optimizer.set_lr(self.optimizer, 1e-3)
    x = torch.tensor(clips.transpose(1, 0, 5, 2, 3, 4), device=self.device)
    self.inputs = [[(clip.float() / 255.0 - 0.45) / 0.225] for clip in x]
    self.index = torch.arange(args.batch, device=self.device)
    self.time = torch.zeros(args.batch, CLIPS, 2, device=self.device)
    self.scaler = types.SimpleNamespace(scale=lambda loss: loss)

  def run(self, steps: int) -> None:
    """Runs `steps` steps and waits for the last."""
    for _ in range(steps):
      self.optimizer.zero_grad()
      with self.autocast:
        _, _, loss, backward = self.contrastive.contrastive_forward(
          self.model, self.cfg, self.inputs, self.index, self.time, 0.0, self.scaler
        )
      if backward:
        loss.backward()
      self.optimizer.step()
    if self.device == "cuda":
      self.torch.cuda.synchronize()


def main() -> None:
  """Prints the table and a RESULT line."""
  args = _arguments()
  cpu = jax.default_backend() == "cpu"
  args.dtype = args.dtype or ("float32" if cpu else "bfloat16")
  steps = args.steps or (1 if cpu else 10)
  shape = (args.batch, CLIPS, args.frames, args.size, args.size, 3)
  clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  sides = {
    f"{name}, {mode}": side(args, clips, mode == "sequential")
    for mode in ("sequential", "parallel")
    for name, side in (("PySlowFast", Theirs), ("ours", Ours))
  }
  for side in sides.values():
    side.run(1)
  seconds: dict[str, list[float]] = {name: [] for name in sides}
  for _ in range(args.rounds):
    for name, side in sides.items():
      began = time.perf_counter()
      side.run(steps)
      seconds[name].append(time.perf_counter() - began)
  table = {}
  print(f"{'':24}{'clips/s':>10}{'of PySlowFast':>16}")
  for name, times in seconds.items():
    rival = seconds[f"PySlowFast, {name.partition(', ')[2]}"]
    ratio = statistics.median(a / b for a, b in zip(rival, times, strict=True))
    rate = CLIPS * args.batch * steps / statistics.median(times)
    table[name] = {"clips_per_second": rate, "ratio": ratio}
    print(f"{name:24}{rate:10.2f}{ratio:16.2f}")
  device = jax.devices()[0].device_kind
  line = json.dumps({"device": device, **vars(args), "rows": table}, sort_keys=True)
  if args.json:
    pathlib.Path(args.json).write_text(line + "\n", encoding="utf-8")
  print(f"RESULT {line}")


if __name__ == "__main__":
  main()
