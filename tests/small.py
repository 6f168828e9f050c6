"""The shipped configs shrunk until a step takes milliseconds."""

import importlib.util
import os
import pathlib

import av
import jax
import numpy as np
import pytest

from vssl_jax import cli, methods, models, parallel
from vssl_jax.training import loop, metrics_log, sources

ROOT = pathlib.Path(__file__).resolve().parent.parent


def load(file, variant=""):
  """`get_config(variant)` of a file under configs/."""
  return module(file).get_config(variant)


def module(file):
  """A file under configs/ as a module."""
  path = ROOT / "configs" / file
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def overrides(batch_size=8, frames=4, size=16):
  """Dotted values that shrink any pre-training config onto synthetic clips."""
  return {
    "batch_size": batch_size,
    "steps": 4,
    "log_every": 2,
    "save.every": 2,
    "data.source": "synthetic",
    "data.path": "",
    "data.frames": frames,
    "data.stride": 1,
    "data.size": size,
    "data.synthetic.videos": 24,
    "data.synthetic.eval_videos": 8,
    "data.synthetic.length": 12,
    "data.synthetic.classes": 2,
    "data.eval.clips": 2,
    "data.eval.crops": 1,
    "data.eval.frames": frames,
    "data.eval.stride": 1,
    "data.eval.resize": size,
    "data.eval.size": size,
    "data.eval.batch_size": 8,
    "encoder.depth": 18,
    "encoder.width": 0.0625,
    "encoder.dtype": "float32",
    "head.hidden": (16,),
    "head.out": 8,
    "probe.calibrate": 1,
    "probe.epochs": 1.0,
    "probe.batch_size": 8,
    "probe.frames": frames,
    "probe.stride": 1,
    "probe.size": size,
    "optim.lr": 0.1,
    "optim.lr_batch": batch_size,
    "optim.warmup_epochs": 0.0,
    "probe.warmup_epochs": 0.0,
  }


def shrink(config, **values):
  """The config at toy size; further `values` by dotted names."""
  config.update_from_flattened_dict({**overrides(), **values})
  return config


def flags(**values):
  """The same as command-line flags of `main`."""
  return [
    f"--config.{k}={v!r}" if isinstance(v, tuple) else f"--config.{k}={v}"
    for k, v in {**overrides(), **values}.items()
  ]


def xla_flags(devices=1):
  """XLA's flags for another process: the user's own, without the eight devices of the tests."""
  count = "--xla_force_host_platform_device_count"
  own = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(count)]
  return " ".join(own + [f"{count}={devices}"] * (devices > 1))


def vssl(*argv):
  """The exit code of a `vssl` command line, run in this process."""
  return cli.main([str(x) for x in argv])


def write_videos(folder, classes="ab"):
  """Eight short videos of noise, of classes in turn; returns the folder."""
  rng = np.random.default_rng(0)
  for i in range(8):
    path = folder / classes[i % len(classes)] / f"{i}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
      stream = container.add_stream("mpeg4", rate=10)
      stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
      for _ in range(12):
        pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
      container.mux(stream.encode())
  return folder


def init(method):
  """A method's parameters and state, compiled in haste: random draws are slow to optimize."""
  create = jax.jit(
    lambda: method.init(jax.random.key(0), method.example(2)),
    compiler_options={"xla_backend_optimization_level": 0},
  )
  return create()


def weights(config, seed=0):
  """Random variables of an encoder, without compiling what draws its own."""
  network = models.build_encoder(config.encoder)
  shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 2, 8, 8, 3), np.float32))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: 0.2 * rng.random(x.shape, np.float32), shapes)


def flat(tree, prefix=""):
  """Values of a config by dotted names."""
  if hasattr(tree, "to_dict"):
    tree = tree.to_dict()
  found = {}
  for k, v in tree.items():
    found |= flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v}
  return found


def changes(base, changed):
  """Dotted names in which two configs differ, but for their names; both have the same fields."""
  old, new = flat(base), flat(changed)
  assert old.keys() == new.keys()
  return {k for k, v in new.items() if old[k] != v} - {"name"}


class Dies:
  """A source that breaks at batch `at`, as a machine would."""

  def __init__(self, source, at):
    self.source, self.at = source, at

  def __getattr__(self, name):
    return getattr(self.source, name)

  def train_batches(self, start=0):
    for k, batch in enumerate(self.source.train_batches(start), start):
      if k == self.at:
        raise InterruptedError
      yield batch


def rows(workdir):
  """A run's metrics without those that clocks decide."""
  timed = ("_per_second", "input_wait", "eta_seconds")
  return [{k: v for k, v in r.items() if not k.endswith(timed)} for r in metrics_log.read(workdir)]


def cut_and_resumed(config, folder):
  """Trains a config whole, and broken at batch 3 and resumed; checks that both are equal.

  Bit for bit, which one program on one machine promises; its numbers differ on another processor.

  Returns:
    The whole run's `train.Result`; its folder is `folder / "whole"`.
  """
  source = sources.load_source(config, "train")
  config = methods.resolve(config, source)
  mesh = parallel.make_mesh(jax.devices()[:1])
  method = methods.load(config.method).build(config, mesh)

  def run(name, source):
    return loop.train(config, folder / name, source, method, mesh, tensorboard=False)

  whole = run("whole", source)
  with pytest.raises(InterruptedError):
    run("cut", Dies(source, 3))
  resumed = run("cut", source)
  assert whole.steps == resumed.steps == config.steps
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((whole.state, resumed.state)))
  assert rows(folder / "whole") == rows(folder / "cut")
  return whole
