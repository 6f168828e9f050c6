"""The shipped configs shrunk until a step takes milliseconds."""

import importlib.util
import pathlib

import jax

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
    "batch_size": batch_size, "steps": 4, "log_every": 2, "save.every": 2,
    "data.source": "synthetic", "data.path": "", "data.frames": frames, "data.stride": 1,
    "data.size": size, "data.synthetic.videos": 24, "data.synthetic.eval_videos": 8,
    "data.synthetic.length": 12, "data.synthetic.classes": 2,
    "data.eval.clips": 2, "data.eval.crops": 1, "data.eval.frames": frames,
    "data.eval.stride": 1, "data.eval.resize": size, "data.eval.size": size,
    "data.eval.batch_size": 8, "encoder.depth": 18, "encoder.width": 0.0625,
    "encoder.dtype": "float32", "head.hidden": (16,), "head.out": 8, "probe.calibrate": 1,
    "probe.epochs": 1.0, "probe.batch_size": 8, "probe.frames": frames, "probe.stride": 1,
    "probe.size": size, "optim.lr": 0.1, "optim.lr_batch": batch_size,
    "optim.warmup_epochs": 0.0, "probe.warmup_epochs": 0.0,
  }  # fmt: skip


def shrink(config, **values):
  """The config at toy size; further `values` by dotted names."""
  config.update_from_flattened_dict({**overrides(), **values})
  return config


def flags(**values):
  """The same as command-line flags of `main`."""
  return [f"--config.{k}={v!r}" if isinstance(v, tuple) else f"--config.{k}={v}"
          for k, v in {**overrides(), **values}.items()]  # fmt: skip


def init(method):
  """A method's parameters and state, compiled in haste: random draws are slow to optimise."""
  create = jax.jit(
    lambda: method.init(jax.random.key(0), method.example(2)),
    compiler_options={"xla_backend_optimization_level": 0},
  )
  return create()
