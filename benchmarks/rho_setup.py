"""Builds the methods with the same encoder and clip size, for benchmarks that compare them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vssl_jax import methods, recipes
from vssl_jax.methods.base import Method, value_and_grad

QUEUE, PROTOTYPES = 4096, 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for the encoder, the clips and the batch."""
  parser.add_argument("--encoder", default="r3d")
  parser.add_argument("--depth", type=int, default=18)
  parser.add_argument("--width", type=float, default=0.25)
  parser.add_argument("--frames", type=int, default=8)
  parser.add_argument("--size", type=int, default=56)
  parser.add_argument("--batch", type=int, default=8, help="videos per batch")
  parser.add_argument(
    "--dtype", choices=["float32", "bfloat16"], help="default: float32 on CPU, else bfloat16"
  )
  parser.add_argument("--json", default="", help="also write the result to this file")


def config(name: str, clips: int, args: argparse.Namespace, **fields: Any) -> ConfigDict:
  """The config of a method with `clips` clips per video; `fields` are the method's, or `remat`."""
  c = methods.base_config(name)
  recipes.small(c)
  e, d = c.encoder, c.data
  e.name, e.depth, e.width = args.encoder, args.depth, args.width
  e.dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
  e.remat = fields.pop("remat", False)
  d.clips, d.frames, d.size, d.interval.distribution = clips, args.frames, args.size, "independent"
  c.batch_size, c.epochs, c.steps_per_epoch = args.batch, 1.0, 100_000
  if name == "rho_moco":
    c.rho_moco.queue, c.head.bn = QUEUE, False
  if name == "rho_byol":
    c.rho_byol.predictor = c.head.hidden
  if name == "rho_swav":
    c.rho_swav.prototypes = PROTOTYPES
  for key, value in fields.items():
    c[name][key] = value
  return c


def gradient(method: Method, batch_size: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """The function for a step's loss and gradients, and its argument shapes; allocates nothing."""
  fn = value_and_grad(method, 1)

  def step(params: Any, state: Any, batch: Any) -> Any:
    return fn(params, state, batch, jax.random.key(0), jnp.int32(0))

  batch = jax.eval_shape(lambda: method.example(batch_size))
  params, state = jax.eval_shape(method.init, jax.random.key(0), batch)
  return step, (params, state, batch)


def build(name: str, clips: int, args: argparse.Namespace, **fields: Any) -> Method:
  """The method of `config`."""
  return methods.load(name).build(config(name, clips, args, **fields))
