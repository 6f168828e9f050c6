"""Compares one CVRL training step with the same network in PyTorch: clips/s in one run.

A step is: the clips of two views, already on the device, through R3D with batch norm and the
projection head, InfoNCE, the gradient, SGD with momentum and weight decay. Both sides start from
the same parameters, and the first loss and gradients are compared before timing. The sides are
timed alternately, and the ratio is the median over rounds, so that other work on the machine
affects both equally.

On CPU, PyTorch runs float32 in channels_last_3d, its faster layout (`--rival_layout=contiguous` for
the other). On a GPU both run bfloat16, PyTorch under autocast, channels_last_3d and torch.compile.

  python benchmarks/train_step.py                                  # R3D-18 at a quarter width
  python benchmarks/train_step.py --width=1 --batch=16
  python benchmarks/train_step.py --depth=50 --frames=16 --size=224 --batch=32   # on a GPU
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

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave GPU memory for PyTorch

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vssl_jax.losses import info_nce
from vssl_jax.models import cost
from vssl_jax.models.heads import ProjectionHead
from vssl_jax.models.r3d import DEPTHS, R3D, TEMPORAL

TEMPERATURE = 0.1
LR, MOMENTUM, DECAY = 0.1, 0.9, 1e-4
# Dense bfloat16 peaks from the vendors' data sheets, FLOP/s (the SXM variant if there are several).
PEAKS = {
  "H200": 989e12,
  "H100": 989e12,
  "A100": 312e12,
  "V100": 125e12,
  "L40S": 362e12,
  "L4": 121e12,
}


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--depth", type=int, default=18, choices=DEPTHS)
  parser.add_argument("--width", type=float, default=0.25)
  parser.add_argument("--frames", type=int, default=8)
  parser.add_argument("--size", type=int, default=56)
  parser.add_argument("--batch", type=int, default=64, help="videos per batch, two clips each")
  parser.add_argument(
    "--hidden", type=int, nargs="*", default=[256], help="hidden widths of the head"
  )
  parser.add_argument("--out", type=int, default=64)
  parser.add_argument(
    "--dtype", choices=["float32", "bfloat16"], help="default: float32 on CPU, else bfloat16"
  )
  parser.add_argument("--conv", default="auto", help="lowering of our convolutions")
  parser.add_argument("--remat", action="store_true")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument(
    "--steps", type=int, default=0, help="steps per round; default 1 on CPU, else 20"
  )
  parser.add_argument("--rival", choices=["torch", "none"], default="torch")
  parser.add_argument("--rival_layout", choices=["last", "contiguous"], default="last")
  parser.add_argument("--rival_compile", choices=["auto", "yes", "no"], default="auto")
  parser.add_argument(
    "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a busy machine"
  )
  parser.add_argument(
    "--peak_tflops", type=float, default=0, help="peak of this device, if unknown, to print the MFU"
  )
  parser.add_argument("--json", default="", help="also write the result to this file")
  return parser.parse_args()


class Ours:
  """Our step in JAX; holds parameters, batch statistics and the optimizer's state."""

  def __init__(self, args: argparse.Namespace, clips: np.ndarray):
    dtype = jnp.dtype(args.dtype)
    # PyTorch supports symmetric padding without a copy; for us it costs the same as SAME.
    self.encoder = R3D(
      args.depth, args.width, dtype, padding="symmetric", conv=args.conv, remat=args.remat
    )
    self.head = ProjectionHead(tuple(args.hidden), args.out, 0.9, dtype=dtype)
    self.clips = jnp.asarray(clips)
    self.tx = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(LR, MOMENTUM))
    create = jax.jit(self._create, compiler_options={"xla_backend_optimization_level": 0})
    self.variables = create(jax.random.key(0))
    self.opt_state = self.tx.init(self.variables["params"])
    self.compiled = jax.jit(self._step).lower(self.variables, self.opt_state, self.clips).compile()

  def _create(self, rng):
    clips = jnp.zeros((2, *self.clips.shape[1:]))
    parts = {"encoder": self.encoder.init(rng, clips)}
    parts["head"] = self.head.init(rng, jnp.zeros((2, self.encoder.features_dim)))
    return {c: {k: v[c] for k, v in parts.items()} for c in ("params", "batch_stats")}

  def _loss(self, params, stats, clips):
    moved, x = {}, clips
    for name, module in (("encoder", self.encoder), ("head", self.head)):
      variables = {"params": params[name], "batch_stats": stats[name]}
      x, state = module.apply(variables, x, train=True, mutable=["batch_stats"])
      moved[name] = state["batch_stats"]
    half = x.shape[0] // 2
    return info_nce(x[:half], x[half:], TEMPERATURE)[0], moved

  def _step(self, variables, opt_state, clips):
    params = variables["params"]
    (loss, stats), grads = jax.value_and_grad(self._loss, has_aux=True)(
      params, variables["batch_stats"], clips
    )
    updates, opt_state = self.tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return {"params": params, "batch_stats": stats}, opt_state, loss, grads["encoder"]

  def first(self) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and the encoder's gradients at the initial parameters."""
    *_, loss, grads = self.compiled(self.variables, self.opt_state, self.clips)
    return float(loss), {k: np.asarray(v, np.float32) for k, v in _kernels(grads).items()}

  def run(self, steps: int) -> None:
    """Runs `steps` training steps and waits for the last."""
    for _ in range(steps):
      self.variables, self.opt_state, loss, _ = self.compiled(
        self.variables, self.opt_state, self.clips
      )
    jax.block_until_ready((self.variables, loss))


def _kernels(tree) -> dict[str, np.ndarray]:
  """Convolution kernels by path (`stem_conv`, `res2_0.conv_a`), in PyTorch's axis order."""
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    ".".join(k.key for k in path[:-1]): np.asarray(v).transpose(4, 3, 0, 1, 2)
    for path, v in flat
    if v.ndim == 5
  }


def _torch_encoder(torch, depth: int, width: float):
  """The same R3D in PyTorch, with our module names."""
  nn, functional = torch.nn, torch.nn.functional

  def conv(inputs, outputs, kernel, strides=(1, 1, 1)):
    padding = tuple(k // 2 for k in kernel)
    return nn.Conv3d(inputs, outputs, kernel, strides, padding, bias=False)

  class Block(nn.Module):
    def __init__(self, inputs, channels, t, stride, bottleneck):
      super().__init__()
      strides, outputs = (1, stride, stride), channels * (4 if bottleneck else 1)
      if bottleneck:
        self.conv_a = conv(inputs, channels, (t, 1, 1))
        self.conv_b = conv(channels, channels, (1, 3, 3), strides)
        self.conv_c = conv(channels, outputs, (1, 1, 1))
        self.norm_c = nn.BatchNorm3d(outputs)
      else:
        self.conv_a = conv(inputs, channels, (t, 3, 3), strides)
        self.conv_b = conv(channels, channels, (1, 3, 3))
      self.norm_a, self.norm_b = nn.BatchNorm3d(channels), nn.BatchNorm3d(channels)
      self.bottleneck, self.projects = bottleneck, inputs != outputs
      if self.projects:
        self.conv_shortcut = conv(inputs, outputs, (1, 1, 1), strides)
        self.norm_shortcut = nn.BatchNorm3d(outputs)

    def forward(self, x):
      y = functional.relu(self.norm_a(self.conv_a(x)))
      y = self.norm_b(self.conv_b(y))
      if self.bottleneck:
        y = self.norm_c(self.conv_c(functional.relu(y)))
      return functional.relu(
        y + (self.norm_shortcut(self.conv_shortcut(x)) if self.projects else x)
      )

  class Encoder(nn.Module):
    def __init__(self):
      super().__init__()
      stem = inputs = round(64 * width)
      self.stem_conv = conv(3, stem, (5, 7, 7), (2, 2, 2))
      self.stem_norm = nn.BatchNorm3d(stem)
      counts, bottleneck = DEPTHS[depth]
      self.blocks = []
      for stage, (count, t) in enumerate(zip(counts, TEMPORAL, strict=True)):
        for i in range(count):
          channels, name = stem * 2**stage, f"res{stage + 2}_{i}"
          block = Block(inputs, channels, t, 2 if stage and i == 0 else 1, bottleneck)
          self.add_module(name, block)
          self.blocks.append(name)
          inputs = channels * (4 if bottleneck else 1)
      self.features_dim = inputs

    def forward(self, x):
      x = functional.relu(self.stem_norm(self.stem_conv(x)))
      x = functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
      for name in self.blocks:
        x = getattr(self, name)(x)
      return x.float().mean((2, 3, 4))

  return Encoder()


class Rival:
  """The step in PyTorch, starting from our parameters."""

  def __init__(self, torch, args: argparse.Namespace, clips: np.ndarray, params):
    self.torch, self.device = torch, "cuda" if jax.default_backend() == "gpu" else "cpu"
    torch.set_num_threads(_cores())
    torch.backends.cudnn.benchmark = True
    self.autocast = torch.autocast(self.device, torch.bfloat16, args.dtype == "bfloat16")
    layout = torch.channels_last_3d if args.rival_layout == "last" else torch.contiguous_format
    encoder, layers = _torch_encoder(torch, args.depth, args.width), []
    inputs = encoder.features_dim
    for width in args.hidden:
      layers += [torch.nn.Linear(inputs, width), torch.nn.BatchNorm1d(width), torch.nn.ReLU()]
      inputs = width
    self.network = torch.nn.Sequential(encoder, *layers, torch.nn.Linear(inputs, args.out))
    with torch.no_grad():
      named = dict(encoder.named_parameters())
      for name, kernel in _kernels(params["encoder"]).items():
        named[f"{name}.weight"].copy_(torch.tensor(kernel))
      dense = [f"dense_{i}" for i in range(len(args.hidden))] + ["out"]
      linear = [m for m in self.network if isinstance(m, torch.nn.Linear)]
      for name, module in zip(dense, linear, strict=True):
        module.weight.copy_(torch.tensor(np.asarray(params["head"][name]["kernel"]).T))
        module.bias.zero_()
    self.encoder = encoder
    self.network = self.network.to(self.device, memory_format=layout)
    self.clips = torch.tensor(clips.transpose(0, 4, 1, 2, 3)).to(self.device, memory_format=layout)
    self.optimizer = torch.optim.SGD(
      self.network.parameters(), LR, MOMENTUM, weight_decay=DECAY, foreach=True
    )
    compiles = args.rival_compile == "yes" or (
      args.rival_compile == "auto" and self.device == "cuda"
    )
    self.forward = torch.compile(self.network) if compiles else self.network

  def _gradient(self):
    functional = self.torch.nn.functional
    self.optimizer.zero_grad()
    with self.autocast:
      z = self.forward(self.clips)
    z = functional.normalize(z.float())
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-float("inf"))
    half = len(z) // 2
    target = self.torch.arange(len(z), device=z.device).roll(half)
    loss = functional.cross_entropy(logits, target)
    loss.backward()
    return loss

  def first(self) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and the encoder's gradients at the initial parameters."""
    loss = self._gradient()
    named = self.encoder.named_parameters()
    grads = {k.removesuffix(".weight"): v.grad for k, v in named if v.ndim == 5}
    return loss.item(), {k: v.float().cpu().numpy() for k, v in grads.items()}

  def run(self, steps: int) -> None:
    """Runs `steps` training steps and waits for the last."""
    for _ in range(steps):
      self._gradient()
      self.optimizer.step()
    if self.device == "cuda":
      self.torch.cuda.synchronize()


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _rival(args: argparse.Namespace, clips: np.ndarray, params) -> Rival | None:
  """The PyTorch side; if it cannot run, prints the reason in one line and returns None."""
  if args.rival == "none":
    return None
  try:
    import torch
  except ImportError:
    print("PyTorch is not installed, so only ours runs: pip install torch to compare.")
    return None
  if jax.default_backend() == "gpu" and not torch.cuda.is_available():
    print("This PyTorch has no CUDA, so ours runs alone: install a CUDA build to compare.")
    return None
  return Rival(torch, args, clips, params)


def _agreement(ours, theirs) -> dict[str, float]:
  """Relative differences of the first loss and of the kernels' gradients, by norm."""
  (loss, grads), (loss2, grads2) = ours, theirs
  difference = sum(np.square(grads[k] - grads2[k]).sum() for k in grads)
  norm = sum(np.square(v).sum() for v in grads2.values())
  return {"loss": abs(loss - loss2) / loss2, "gradient": float(np.sqrt(difference / norm))}


def _time(sides: dict, rounds: int, steps: int, clock) -> dict[str, list[float]]:
  """Seconds per step of each side and round; the sides alternate."""
  seconds = {name: [] for name in sides}
  for side in sides.values():
    side.run(1)
  for _ in range(rounds):
    for name, side in sides.items():
      start = clock()
      side.run(steps)
      seconds[name].append((clock() - start) / steps)
  return seconds


def main() -> None:
  """Prints a table and, last, `RESULT {json}`."""
  args = _arguments()
  gpu = jax.default_backend() != "cpu"
  args.dtype = args.dtype or ("bfloat16" if gpu else "float32")
  args.steps = args.steps or (20 if gpu else 1)
  count, shape = 2 * args.batch, (args.frames, args.size, args.size, 3)
  clips = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)

  ours = Ours(args, clips)
  one = cost.count(ours.encoder, shape)
  head = cost.count(ours.head, (ours.encoder.features_dim,))
  flops = 3 * 2 * (one.macs + head.macs)  # forward, and two products as large backward
  device = jax.devices()[0].device_kind
  peak = args.peak_tflops * 1e12
  if not peak and args.dtype == "bfloat16":
    peak = next((v for k, v in PEAKS.items() if k in device), 0)
  result = {
    **{k: v for k, v in vars(args).items() if k not in ("json", "peak_tflops")},
    "device": device,
    "cores": _cores(),
    "machine": platform.machine(),
    "jax": jax.__version__,
    "clips": count,
    "parameters": one.parameters + head.parameters,
    "gmacs_per_clip": one.macs / 1e9,
    "temp_mb": round(ours.compiled.memory_analysis().temp_size_in_bytes / 1e6, 1),
  }
  print(
    f"{device}, R3D-{args.depth} × {args.width:g}, {count} clips of {args.frames} × {args.size}²,"
    f" {args.dtype}: {one.parameters:,} parameters, {one.macs / 1e9:.3f} GMACs a clip"
  )
  sides = {"ours": ours}
  if rival := _rival(args, clips, ours.variables["params"]):
    sides["torch"] = rival
    result["torch_version"] = rival.torch.__version__
    result["agreement"] = _agreement(ours.first(), rival.first())
    print(
      "first step, relative difference: loss {loss:.1e}, gradient {gradient:.1e}".format(
        **result["agreement"]
      )
    )
  clock = time.perf_counter if args.clock == "wall" else time.process_time
  seconds = _time(sides, args.rounds, args.steps, clock)
  for name, times in seconds.items():
    median = statistics.median(times)
    side = result[f"{name}_speed"] = {
      "seconds_median": median,
      "seconds_min": min(times),
      "clips_per_second": count / median,
      "tflops": flops * count / median / 1e12,
    }
    line = f"{name:6} {1e3 * median:9.1f} ms a step {side['clips_per_second']:9.1f} clips/s"
    line += f" {side['tflops']:8.3f} TFLOP/s"
    if peak:
      side["mfu"] = side["tflops"] * 1e12 / peak
      line += f"  MFU {100 * side['mfu']:.1f} %"
    print(line, flush=True)
  if "torch" in seconds:
    pairs = zip(seconds["torch"], seconds["ours"], strict=True)
    result["speed_over_torch"] = statistics.median(x / y for x, y in pairs)
    print(f"ours / torch: {result['speed_over_torch']:.2f} × (median of {args.rounds} rounds)")
  print("RESULT", json.dumps(result))
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  sys.exit(main())
