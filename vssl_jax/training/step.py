"""One optimization step of any method: the train state and the jitted function that advances it."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.methods.base import Batch, Method, Metrics, value_and_grad
from vssl_jax.ops import step_keys
from vssl_jax.training import optim
from vssl_jax.training.optim import Schedule

EMBEDDINGS = "embeddings"
STATISTICS = "batch_statistics"  # 0, or NaN if a running statistic of batch norm is not finite
_STATISTICS = ("mean", "var")  # names of the variables of a batch norm


class TrainState(flax.struct.PyTreeNode):
  """The complete state of a run: what a checkpoint stores and what step k + 1 depends on.

  Attributes:
    step: number of batches consumed, int32; it determines the data position and random draws.
    updates: number of optimizer updates applied, int32; it determines the schedules.
    params: the method's parameters.
    method: the method's state.
    optim: the optimizer's state.
  """

  step: jax.Array
  updates: jax.Array
  params: Any
  method: Any
  optim: optax.OptState


class Program(NamedTuple):
  """The train step of a config, and what belongs to it.

  Attributes:
    tx: the optimizer.
    advance: the step, see `make_step`.
    total: number of steps of the run.
    schedule: arguments of `optim.learning_rate`, in order.
  """

  tx: optax.GradientTransformation
  advance: jax.stages.Wrapped
  total: int
  schedule: tuple[ConfigDict, int, int, float, int]


def assemble(config: ConfigDict, method: Method, mesh: Mesh, steps_per_epoch: int) -> Program:
  """The train step that a config describes.

  Args:
    config: resolved.
    method: the method of the config, built for the mesh.
    mesh: the devices.
    steps_per_epoch: the number of batches in the training split.

  Raises:
    UserError: the batch does not divide among the devices, or the run ends before its first update.
  """
  if config.accumulate < 1:
    raise UserError(f"config.accumulate is {config.accumulate}: it must be at least 1.")
  parallel.check_batch(config.batch_size, config.accumulate, mesh)
  total = config_lib.total_steps(config, steps_per_epoch)
  if method.frozen_steps >= total:
    raise UserError(
      f"the run has {total} steps, and {config.method} updates nothing in its first "
      f"{method.frozen_steps}: make config.epochs larger, or make the queue that is filled first "
      "smaller."
    )
  warmup = config.optim.warmup_epochs * steps_per_epoch
  schedule = (config.optim, config.batch_size, total - method.frozen_steps, warmup, steps_per_epoch)
  rate = optim.learning_rate(*schedule)
  tx = optim.build(config.optim, rate)
  advance = make_step(method, tx, rate, seed=config.seed, accumulate=config.accumulate, mesh=mesh)
  return Program(tx, advance, total, schedule)


def init(
  method: Method, tx: optax.GradientTransformation, seed: int, mesh: Mesh, batch_size: int
) -> TrainState:
  """The state before the first step, placed on the mesh; its values are the same for any mesh."""
  return initializer(method, tx, seed, mesh, batch_size)()


def initializer(
  method: Method, tx: optax.GradientTransformation, seed: int, mesh: Mesh, batch_size: int
) -> jax.stages.Wrapped:
  """The jitted function without arguments that `init` calls."""

  def create() -> TrainState:
    params, state = method.init(jax.random.key(seed), method.example(min(2, batch_size)))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, zero, params, state, tx.init(params))

  layout = _layout(method, mesh)
  return jax.jit(create, out_shardings=layout, compiler_options=parallel.run_once(mesh))


def abstract(
  method: Method, tx: optax.GradientTransformation, mesh: Mesh, batch_size: int
) -> tuple[TrainState, Batch]:
  """Shapes, dtypes and shardings of a state and a batch, to compile the step for any mesh."""

  def create() -> TrainState:
    params, state = method.init(jax.random.key(0), method.example(2))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, zero, params, state, tx.init(params))

  def place(sharding: NamedSharding, part: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), part)

  state = jax.tree.map(place, _layout(method, mesh), jax.eval_shape(create))
  row = jax.ShapeDtypeStruct((), jnp.int32)
  one = {**method.batch_spec, "label": row, "video": row}
  rows = parallel.split(mesh)
  batch: Any = {
    k: jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype, sharding=rows) for k, x in one.items()
  }
  return state, batch


def _layout(method: Method, mesh: Mesh) -> TrainState:
  """Shardings: everything replicated, except where the method's `state_spec` says otherwise."""
  whole: Any = parallel.replicated(mesh)  # as a tree prefix, it applies to a whole subtree
  return TrainState(whole, whole, whole, parallel.shardings(mesh, method.state_spec), whole)


def _select(mask: Any, new: Any, old: Any) -> Any:
  """`new` where the mask is true, else `old`; the mask is a boolean or a tree of booleans."""
  if isinstance(mask, (bool, jax.Array)):
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), new, old)
  return jax.tree.map(lambda g, a, b: jnp.where(g, a, b), mask, new, old)


def _whole_tree(mask: Any, params: Any) -> Any:
  """Expands a mask given for subtrees of the parameters to one value per parameter."""
  return jax.tree.map(lambda g, part: jax.tree.map(lambda _: g, part), mask, params)


def _statistics(state: Any) -> jax.Array | None:
  """0 if all running statistics of batch norm are finite, else NaN; None if there are none.

  In training, a batch is normalized by its own statistics: a running one that overflowed shows in
  no loss, and makes every later evaluation NaN.
  """
  flat = jax.tree_util.tree_leaves_with_path(state)
  own = [x for path, x in flat if path and getattr(path[-1], "key", "") in _STATISTICS]
  return sum((jnp.sum(x * 0, dtype=jnp.float32) for x in own), jnp.zeros(())) if own else None


def make_step(
  method: Method,
  tx: optax.GradientTransformation,
  rate: Schedule,
  *,
  seed: int,
  accumulate: int,
  mesh: Mesh,
) -> jax.stages.Wrapped:
  """The jitted train step.

  Args:
    method: the method to train.
    tx: the optimizer.
    rate: learning rate as a function of the update, only for the log; `tx` applies its own.
    seed: seed of all random draws.
    accumulate: micro-batches per step.
    mesh: devices that hold the state; batches are split along its axis.

  Returns:
    A jitted function (state, batch) -> (state, metrics). Metrics are float32 scalars (and
    `embeddings`), among them `loss`, `grad_norm`, `update_norm`, `param_norm` and `lr`, and
    `STATISTICS` if the method's state has running statistics of batch norm.
  """
  grad_fn = value_and_grad(method, accumulate)

  def advance(train: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    n = batch["video"].shape[0]
    rng, keys = step_keys.step_keys(seed, train.step, n)
    batch = {**batch, "key": keys}
    (loss, (state, metrics)), grads = grad_fn(train.params, train.method, batch, rng, train.step)

    mask = method.update_mask(train.method, train.step) if method.update_mask else True
    whole = isinstance(mask, (bool, jax.Array))
    if not whole:
      mask = _whole_tree(mask, train.params)
      grads = _select(mask, grads, jax.tree.map(jnp.zeros_like, grads))
    updates, optim = tx.update(grads, train.optim, train.params)
    if not whole:
      updates = _select(mask, updates, jax.tree.map(jnp.zeros_like, updates))
      # The momentum of frozen parameters does not change. Adam's count still increases: after a
      # long freeze the first updates are up to six times as large as those of a new Adam (b1 0.9,
      # b2 0.999).
      slots = optax.tree_utils.tree_map_params(
        tx, lambda _, g: g, optim, mask, transform_non_params=lambda _: True
      )
      optim = jax.tree.map(lambda g, a, b: jnp.where(g, a, b), slots, optim, train.optim)
    params = optax.apply_updates(train.params, updates)
    moved_params, moved_state = method.after_update(params, state, train.updates + 1)
    if mask is not True:
      moved_params = _select(mask, moved_params, train.params)
    if whole and mask is not True:
      moved_state = _select(mask, moved_state, state)
      optim = _select(mask, optim, train.optim)
    updated = jnp.asarray(mask, jnp.int32) if whole else jnp.ones((), jnp.int32)

    metrics = {
      **metrics,
      "loss": loss,
      "grad_norm": optax.tree_utils.tree_norm(grads),
      "update_norm": optax.tree_utils.tree_norm(updates) * updated,
      "param_norm": optax.tree_utils.tree_norm(moved_params),
      "lr": rate(train.updates),
    }
    if (statistics := _statistics(moved_state)) is not None:
      metrics[STATISTICS] = statistics
    scalars = {k: v.astype(jnp.float32) for k, v in metrics.items()}
    new = TrainState(train.step + 1, train.updates + updated, moved_params, moved_state, optim)
    return new, scalars

  layout = _layout(method, mesh)
  return jax.jit(
    advance,
    in_shardings=(layout, parallel.split(mesh)),
    out_shardings=(layout, parallel.replicated(mesh)),
    # No donation on CPU: while a checkpoint is written, host arrays may alias device buffers.
    donate_argnums=() if parallel.platform(mesh) == "cpu" else (0,),
  )
