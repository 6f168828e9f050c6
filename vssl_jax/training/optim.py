"""Optimizers and the learning-rate schedule, computed as in the papers' released code."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.training import layer_decay

Params = Any
Schedule = Callable[[jax.Array | float], jax.Array]  # from the number of the update


def is_kernel(path: tuple[Any, ...], _: Any = None) -> bool:
  """Whether a parameter's own name is `kernel`; weight decay applies to these."""
  return _name(path) == "kernel"


def kernels(params: Params) -> Params:
  """A tree of booleans, true at kernels; batch-norm parameters and biases are false."""
  return jax.tree_util.tree_map_with_path(is_kernel, params)


def decayed(config: ConfigDict, params: Params) -> Params:
  """A tree of booleans, true for the parameters that `config.optim` applies weight decay to.

  LARS: tensors with two or more axes. Other optimizers: kernels, and with `decay_bias` also the
  biases of layers, which PySlowFast's SGD decays. Never the parameters of batch norm.
  """
  if config.name == "lars":
    return jax.tree.map(lambda w: len(w.shape) >= 2, params)

  # The bias of a normalization has a scale in the same module.
  flat, tree = jax.tree_util.tree_flatten_with_path(params)
  norms = {path[:-1] for path, _ in flat if _name(path) == "scale"}

  def one(path: tuple[Any, ...]) -> bool:
    bias = config.decay_bias and _name(path) == "bias" and path[:-1] not in norms
    return is_kernel(path) or bias

  return jax.tree.unflatten(tree, [one(path) for path, _ in flat])


def _name(path: tuple[Any, ...]) -> str:
  return str(getattr(path[-1], "key", path[-1]))


def peak_lr(config: ConfigDict, batch_size: int) -> float:
  """The linear scaling rule, `lr · batch_size / lr_batch`.

  Raises:
    UserError: `lr_batch` is not positive.
  """
  if not config.lr_batch > 0:
    raise UserError(f"config.optim.lr_batch is {config.lr_batch}: it must be positive.")
  return config.lr * batch_size / config.lr_batch


def schedule(
  peak: float, total: int, warmup: float, final: float = 0.0, start: float = 0.0
) -> Schedule:
  """Half-cosine over all updates, with a linear warm-up that ends on the cosine.

  The cosine does not start after the warm-up, but at update 0. Both reference codes (TF Garden's
  CVRL, PySlowFast) warm up linearly to the cosine's value at the end of the warm-up; TF Garden
  starts from 0.

  Args:
    peak: the cosine's value at update 0.
    total: number of updates of the whole run.
    warmup: number of updates of the warm-up.
    final: final learning rate as a fraction of `peak`.
    start: the learning rate of update 0, if there is a warm-up.

  Returns:
    A function from the number of the update to the learning rate, float32.
  """

  def cosine(step: jax.Array | float) -> jax.Array:
    t = jnp.clip(jnp.asarray(step, jnp.float32) / max(total, 1), 0.0, 1.0)
    return peak * (final + (1 - final) * 0.5 * (1 + jnp.cos(math.pi * t)))

  return _warmed_up(cosine, warmup, start)


def step_schedule(
  peak: float, starts: Sequence[float], shares: Sequence[float], warmup: float, start: float = 0.0
) -> Schedule:
  """A learning rate that is constant between steps, PySlowFast's `steps_with_relative_lrs`.

  Args:
    peak: the learning rate before the first step.
    starts: for each step, the update from which its learning rate holds, increasing.
    shares: the learning rate of each step, as a share of `peak`.
    warmup: number of updates of a linear warm-up, which ends on the rate of that update.
    start: the learning rate of update 0, if there is a warm-up.

  Returns:
    A function from the number of the update to the learning rate, float32.
  """
  rates = jnp.asarray([peak, *(peak * s for s in shares)], jnp.float32)

  def constant(step: jax.Array | float) -> jax.Array:
    # Epochs may be given as decimals, whose products with the length of an epoch are rounded.
    passed = [jnp.asarray(step, jnp.float32) >= s - 1e-3 for s in starts]
    return rates[sum(passed, jnp.int32(0))]

  return _warmed_up(constant, warmup, start)


def _warmed_up(after: Schedule, warmup: float, start: float) -> Schedule:
  def rate(step: jax.Array | float) -> jax.Array:
    ramp = jnp.asarray(step, jnp.float32) / max(warmup, 1.0)
    rising = start + ramp * (after(warmup) - start)
    return jnp.where(step < warmup, rising, after(step))

  return rate


def learning_rate(
  config: ConfigDict, batch_size: int, total: int, warmup: float, epoch: int = 0
) -> Schedule:
  """The schedule that `config.optim` describes.

  Args:
    config: `config.optim`.
    batch_size: videos per update; both the peak and the start of the warm-up scale with it.
    total: number of updates of the whole run.
    warmup: number of updates of the warm-up.
    epoch: number of updates per epoch; needed for steps.

  Raises:
    UserError: the warm-up takes the whole run and starts from 0, the schedule is unknown, or its
      steps are impossible.
  """
  start = config.warmup_lr * batch_size / config.lr_batch
  if warmup >= total and not start:
    raise UserError(
      f"config.optim.warmup_epochs: the warm-up takes {warmup:,.0f} updates and the run has only "
      f"{total:,}; make it shorter, e.g. --config.optim.warmup_epochs=0."
    )
  peak = peak_lr(config, batch_size)
  if config.schedule == "cosine":
    return schedule(peak, total, warmup, config.final_lr, start)
  return step_schedule(peak, *_steps(config, total, epoch), warmup, start)


def _steps(config: ConfigDict, total: int, epoch: int) -> tuple[list[float], list[float]]:
  """The updates at which the learning rate changes, and its shares of the peak from then on."""
  if config.schedule != "steps":
    raise UserError(f"config.optim.schedule is {config.schedule!r}: choose one of cosine, steps.")
  steps = tuple(config.lr_steps)
  if not steps or any(b <= a for a, b in itertools.pairwise((0, *steps))):
    raise UserError(
      f"config.optim.lr_steps is {steps}: give the epochs at which the learning rate changes, "
      "above 0 and increasing, or set config.optim.schedule=cosine."
    )
  if steps[-1] * epoch >= total:
    raise UserError(
      f"config.optim.lr_steps is {steps}: the run ends before epoch {steps[-1]:g}; give earlier "
      "epochs, or make config.epochs larger."
    )
  shares = tuple(config.lr_shares) or tuple(0.1**k for k in range(1, len(steps) + 1))
  if len(shares) != len(steps) or min(shares) < 0:
    raise UserError(
      f"config.optim.lr_shares is {shares}: give one share of the peak, 0 or more, for each of the "
      f"{len(steps)} config.optim.lr_steps."
    )
  return [s * epoch for s in steps], [float(s) for s in shares]


def scale_by_trust(
  weight_decay: float, coefficient: float = 1e-3, epsilon: float = 1e-8
) -> optax.GradientTransformation:
  """LARS's layer-wise rate, with weight decay included, for tensors with two or more axes.

  g ← (g + wd·w) · c·‖w‖ / (‖g‖ + wd·‖w‖ + ε), as PySlowFast computes it. One-dimensional tensors
  (batch-norm parameters, biases) pass unchanged and without decay. So do tensors whose gradient or
  weight has norm zero. Unlike in `optax.lars`, the learning rate is applied after the momentum.
  """

  def update(updates: Params, state: optax.EmptyState, params: Params) -> tuple[Params, Any]:
    def one(g: jax.Array, w: jax.Array) -> jax.Array:
      if w.ndim < 2:
        return g
      wn, gn = jnp.linalg.norm(w.astype(jnp.float32)), jnp.linalg.norm(g.astype(jnp.float32))
      ratio = coefficient * wn / (gn + weight_decay * wn + epsilon)
      return jnp.where((wn > 0) & (gn > 0), (g + weight_decay * w) * ratio, g)

    return jax.tree.map(one, updates, params), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def build(config: ConfigDict, rate: Schedule) -> optax.GradientTransformation:
  """The optimizer that `config.optim` names; its learning rate is `rate(number of updates)`.

  Raises:
    UserError: the name is unknown or a value is out of range.
  """
  for field in ("lr", "weight_decay", "warmup_epochs", "warmup_lr", "clip_norm"):
    if config[field] < 0:
      raise UserError(f"config.optim.{field} is {config[field]}: it must not be negative.")
  if not 0 <= config.momentum < 1 or not config.final_lr >= 0:
    raise UserError(
      f"config.optim: momentum {config.momentum} must lie in [0, 1), final_lr {config.final_lr} "
      "must not be negative."
    )
  clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
  mask = functools.partial(decayed, config)
  decay = optax.add_decayed_weights(config.weight_decay, mask=mask)
  momentum = optax.trace(config.momentum, nesterov=config.nesterov)
  chains = {
    "sgd": [decay, momentum],
    "lars": [scale_by_trust(config.weight_decay), momentum],
    "adamw": [optax.scale_by_adam(b1=config.momentum), decay],
    "adam": [decay, optax.scale_by_adam(b1=config.momentum)],
  }
  if config.name not in chains:
    raise UserError(f"config.optim.name is {config.name!r}: choose one of {', '.join(chains)}.")
  if not 0 < config.layer_decay <= 1:
    raise UserError(f"config.optim.layer_decay is {config.layer_decay}: it must lie in (0, 1].")
  # Layer decay adds nothing to the optimizer's state, so that older runs can still be resumed.
  by_layer = [layer_decay.scale_by_layer(config.layer_decay)] if config.layer_decay < 1 else []
  return optax.chain(*clip, *chains[config.name], *by_layer, optax.scale_by_learning_rate(rate))


def describe(
  config: ConfigDict,
  batch_size: int,
  total: int,
  warmup: float,
  params: Params | None = None,
  *,
  epoch: int = 0,
) -> str:
  """Describes the optimizer with its effective values, printed when a run starts.

  Args:
    config: `config.optim`.
    batch_size: videos per update.
    total: number of updates of the whole run.
    warmup: number of updates of the warm-up.
    params: arrays or their shapes; with None the text counts no parameters.
    epoch: number of updates per epoch; needed for steps.

  Returns:
    Lines without a newline at the end.
  """
  rate = learning_rate(config, batch_size, total, warmup, epoch)
  at = ", ".join(f"{step:g}" for step in config.lr_steps)
  course = "half-cosine" if config.schedule == "cosine" else f"steps at epochs {at}, down"
  momentum = f"momentum {config.momentum:g}{' nesterov' if config.nesterov else ''}"
  kind = f"b1 {config.momentum:g}" if config.name in ("adam", "adamw") else momentum
  clip = f", gradient norm up to {config.clip_norm:g}" if config.clip_norm > 0 else ""
  lines = [
    f"Optimizer {config.name}: {kind}{clip}; {total:,} updates of {batch_size:,} videos",
    f"  learning rate {peak_lr(config, batch_size):.4g} = {config.lr:g} x {batch_size} / "
    f"{config.lr_batch}, {course} to {float(rate(total)):.4g}",
  ]
  if warmup > 0:
    lines.append(
      f"  warm-up over {warmup:,.0f} updates from {float(rate(0)):.4g} to "
      f"{float(rate(math.ceil(warmup))):.4g}"
    )
    if warmup >= total:
      lines.append(
        "  the warm-up is as long as the run, so the rate stays far below its peak: lower "
        "config.optim.warmup_epochs"
      )
  lines.append(f"  weight decay {config.weight_decay:g}{_shares(config, params)}")
  return "\n".join(lines)


def _shares(config: ConfigDict, params: Params | None) -> str:
  if params is None:
    return ""
  mask = jax.tree.leaves(decayed(config, params))
  sizes = [math.prod(w.shape) for w in jax.tree.leaves(params)]
  counts = [
    f"{sum(yes is kept for yes in mask):,} tensors "
    f"({sum(n for n, yes in zip(sizes, mask, strict=True) if yes is kept):,} parameters)"
    for kept in (True, False)
  ]
  if config.name == "lars":
    rest = "batch norm and other one-dimensional tensors, which also get no layer-wise rate"
  else:
    rest = "batch norm and everything that is not a kernel" + " or bias" * config.decay_bias
  return f" on {counts[0]}, none on {counts[1]}: {rest}"
