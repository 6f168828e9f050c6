"""One optimization step of any method: the train state and the jitted function that advances it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vssl_jax import parallel
from vssl_jax.methods.base import Batch, Method, Metrics, value_and_grad
from vssl_jax.ops import step_keys
from vssl_jax.training.optim import Schedule

EMBEDDINGS = "embeddings"


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


def init(
  method: Method, tx: optax.GradientTransformation, seed: int, mesh: Mesh, batch_size: int
) -> TrainState:
  """The state before the first step, placed on the mesh; its values are the same for any mesh."""

  def create() -> TrainState:
    params, state = method.init(jax.random.key(seed), method.example(min(2, batch_size)))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, zero, params, state, tx.init(params))

  # This program runs once: on CPU, optimizing its code takes longer than that saves.
  options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  return jax.jit(create, out_shardings=_layout(method, mesh), compiler_options=options)()


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


def make_step(
  method: Method,
  tx: optax.GradientTransformation,
  rate: Schedule,
  *,
  seed: int,
  accumulate: int,
  mesh: Mesh,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """The jitted train step.

  Args:
    method: the method to train.
    tx: the optimizer.
    rate: learning rate as a function of the update, only for the log; `tx` applies its own.
    seed: seed of all random draws.
    accumulate: micro-batches per step.
    mesh: devices that hold the state; batches are split along its axis.

  Returns:
    (state, batch) -> (state, metrics); metrics are float32 scalars (and `embeddings`), among
    them `loss`, `grad_norm`, `update_norm`, `param_norm` and `lr`.
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
    scalars = {k: v.astype(jnp.float32) for k, v in metrics.items()}
    new = TrainState(train.step + 1, train.updates + updated, moved_params, moved_state, optim)
    return new, scalars

  layout = _layout(method, mesh)
  return jax.jit(
    advance,
    in_shardings=(layout, parallel.split(mesh)),
    out_shardings=(layout, parallel.replicated(mesh)),
    # No donation on CPU: while a checkpoint is written, host arrays may alias device buffers.
    donate_argnums=() if jax.default_backend() == "cpu" else (0,),
  )
