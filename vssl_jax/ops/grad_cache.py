"""Exact gradient accumulation for losses that couple the whole batch.

The mean InfoNCE loss of micro-batches is not the loss of the whole batch, because each anchor would
only have the negatives of its own micro-batch. Caching makes accumulation exact (GradCache, Gao et
al. 2021): embed every micro-batch without keeping activations; compute the loss of the whole batch
and its gradient with respect to the embeddings; then embed every micro-batch again and propagate
that gradient back to the parameters. The memory holds the activations of one micro-batch and all
embeddings. The price is one more forward pass.

Batch normalization in `embed` normalizes by the micro-batch in both passes, as a single pass with
statistics over the same groups would. Its running statistics are updated once per micro-batch, in
order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError

Tree = Any
Embed = Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]
Loss = Callable[[Tree, Tree, Tree, Tree], tuple[jax.Array, tuple[Tree, Tree]]]


def value_and_grad(
  embed: Embed, loss: Loss, params: Tree, state: Tree, batch: Tree, num_micro: int
) -> tuple[tuple[jax.Array, tuple[Tree, Tree]], Tree]:
  """Loss over the whole batch and its exact gradient, embedding N / num_micro rows at a time.

  The result is, up to rounding, that of `jax.value_and_grad(..., has_aux=True)` for

    embeddings, state = embed(params, state, batch)
    loss(params, state, embeddings, batch)

  if `embed` treats rows independently, or in groups that are the micro-batches. Micro-batch i
  consists of the strided rows i, i + num_micro, i + 2·num_micro, … so that rows which are sharded
  over devices stay where they are: each device embeds its share of every micro-batch. Use it under
  `jit` with global arrays, or with each device's own rows under `pmap` or under `shard_map` with
  `check_vma=False`.

  Args:
    embed: `(params, state, micro_batch) -> (embeddings, state)`; embeddings are any tree of float
      arrays `[n, ...]`, n = N / num_micro. It runs twice per micro-batch with the same arguments,
      so it must draw random numbers from keys in the batch or the state.
    loss: `(params, state, embeddings, batch) -> (value, (state, metrics))`; it gets embeddings
      `[N, ...]` in the order of the batch, the whole batch, and the state after the last
      micro-batch. It may also use parameters directly (predictors, temperatures); their gradient is
      added.
    params: the parameters to differentiate by.
    state: anything that `embed` and `loss` pass on, such as running statistics.
    batch: tree of arrays `[N, ...]`.
    num_micro: number of micro-batches; 1 is a normal single pass.

  Returns:
    `((value, (state, metrics)), gradients)`.

  Raises:
    UserError: num_micro isn't positive or doesn't divide N, or the batch's arrays differ in N.
  """
  rows = {x.shape[0] if x.ndim else 0 for x in jax.tree.leaves(batch)}
  if len(rows) != 1 or num_micro < 1 or next(iter(rows)) % num_micro:
    raise UserError(
      f"gradient accumulation: all arrays of a batch need one number of rows, a multiple of the "
      f"{num_micro} micro-batches; got {sorted(rows)} rows"
    )
  if num_micro == 1:

    def whole(params):
      embeddings, after = embed(params, state, batch)
      return loss(params, after, embeddings, batch)

    return jax.value_and_grad(whole, has_aux=True)(params)

  micro = jax.tree.map(lambda x: _split(x, num_micro), batch)

  def forward(state, rows):
    embeddings, state = embed(params, state, rows)
    return state, embeddings

  after, cached = lax.scan(forward, state, micro)
  embeddings = jax.tree.map(_join, cached)
  value_and_gradients = jax.value_and_grad(loss, argnums=(0, 2), has_aux=True)
  result, (direct, pulls) = value_and_gradients(params, after, embeddings, batch)

  def backward(carry, rows_and_pull):
    # Update the state again as in the first pass, so that each micro-batch gets the same state.
    state, total = carry
    rows, pull = rows_and_pull
    _, pull_back, state = jax.vjp(lambda p: embed(p, state, rows), params, has_aux=True)
    return (state, jax.tree.map(jnp.add, total, pull_back(pull)[0])), None

  pulls = jax.tree.map(lambda x: _split(x, num_micro), pulls)
  (_, gradients), _ = lax.scan(backward, (state, direct), (micro, pulls))
  return result, gradients


def _split(x: jax.Array, num_micro: int) -> jax.Array:
  """`[N, ...]` to `[num_micro, N / num_micro, ...]`; row r goes to micro-batch r mod num_micro."""
  return jnp.swapaxes(x.reshape(-1, num_micro, *x.shape[1:]), 0, 1)


def _join(x: jax.Array) -> jax.Array:
  """The inverse of `_split`."""
  return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
