"""Optimisers and learning-rate schedule as the papers' code computes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vssl_jax.errors import UserError

Params = Any
Schedule = Callable[[jax.Array | int], jax.Array]


def is_kernel(path: tuple[Any, ...], _: Any = None) -> bool:
  """Whether a parameter's own name is `kernel`: what weight decay applies to."""
  return str(getattr(path[-1], "key", path[-1])) == "kernel"


def kernels(params: Params) -> Params:
  """A tree of booleans, true at kernels; batch-norm parameters and biases are false."""
  return jax.tree_util.tree_map_with_path(is_kernel, params)


def peak_lr(config: ConfigDict, batch_size: int) -> float:
  """The linear scaling rule, `lr · batch_size / lr_batch`."""
  return config.lr * batch_size / config.lr_batch


def schedule(peak: float, total: int, warmup: float, final: float = 0.0) -> Schedule:
  """Half-cosine over all updates with a linear warm-up that meets it.

  The cosine is not restarted after the warm-up: both codes (TF Garden's CVRL, PySlowFast)
  warm up linearly from 0 to the cosine's value at the end of the warm-up.

  Args:
    peak: the cosine's value at update 0.
    total: updates over the whole run.
    warmup: updates of the warm-up.
    final: share of `peak` left at the end.

  Returns:
    A function from the update's number to the learning rate, float32.
  """

  def cosine(step: jax.Array | float) -> jax.Array:
    t = jnp.clip(jnp.asarray(step, jnp.float32) / max(total, 1), 0.0, 1.0)
    return peak * (final + (1 - final) * 0.5 * (1 + jnp.cos(math.pi * t)))

  def rate(step: jax.Array | int) -> jax.Array:
    ramp = jnp.asarray(step, jnp.float32) / max(warmup, 1.0)
    return jnp.where(step < warmup, ramp * cosine(warmup), cosine(step))

  return rate


def scale_by_trust(
  weight_decay: float, coefficient: float = 1e-3, epsilon: float = 1e-8
) -> optax.GradientTransformation:
  """LARS's layer-wise rate with the weight decay inside, for tensors of two or more axes.

  g ← (g + wd·w) · c·‖w‖ / (‖g‖ + wd·‖w‖ + ε), as PySlowFast computes it; batch-norm
  parameters, biases and other one-dimensional ones pass unchanged, without decay. The
  learning rate comes after the momentum, unlike `optax.lars`.
  """

  def update(updates: Params, state: optax.EmptyState, params: Params) -> tuple[Params, Any]:
    def one(g: jax.Array, w: jax.Array) -> jax.Array:
      if w.ndim < 2:
        return g
      wn, gn = jnp.linalg.norm(w.astype(jnp.float32)), jnp.linalg.norm(g.astype(jnp.float32))
      ratio = coefficient * wn / (gn + weight_decay * wn + epsilon)
      ratio = jnp.where((wn > 0) & (gn > 0), ratio, 1.0)
      return (g + weight_decay * w) * ratio

    return jax.tree.map(one, updates, params), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def build(config: ConfigDict, rate: Schedule) -> optax.GradientTransformation:
  """The optimiser named by `config.optim`, driven by `rate` of its own update count.

  Raises:
    UserError: an unknown name or a value out of range.
  """
  for field in ("lr", "weight_decay", "warmup_epochs", "clip_norm"):
    if config[field] < 0:
      raise UserError(f"config.optim.{field} is {config[field]}: it must not be negative.")
  clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
  decay = optax.add_decayed_weights(config.weight_decay, mask=kernels)
  momentum = optax.trace(config.momentum, nesterov=config.nesterov)
  chains = {
    "sgd": [decay, momentum],
    "lars": [scale_by_trust(config.weight_decay), momentum],
    "adamw": [optax.scale_by_adam(b1=config.momentum), decay],
  }
  if config.name not in chains:
    raise UserError(f"config.optim.name is {config.name!r}: choose one of {', '.join(chains)}.")
  return optax.chain(*clip, *chains[config.name], optax.scale_by_learning_rate(rate))
