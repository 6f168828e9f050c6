"""Exact gradient accumulation for losses that couple the whole batch.

The mean of micro-batches' InfoNCE losses is not the batch's: each anchor would see only its own
micro-batch's negatives. Caching makes accumulation exact (GradCache, Gao et al. 2021): embed every
micro-batch without keeping activations, take the loss and its gradient at the embeddings, then
embed every micro-batch again and pull that gradient back through it. Memory is that of one
micro-batch's activations and all embeddings, the price one more forward pass.

Batch normalization in `embed` normalizes by the micro-batch, in both passes alike, as it would in
a single pass with statistics over the same groups; its running statistics advance once per
micro-batch, in order.
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

  Equal, to rounding, to `jax.value_and_grad(..., has_aux=True)` of

    embeddings, state = embed(params, state, batch)
    loss(params, state, embeddings, batch)

  wherever `embed` treats rows apart, or in the groups that the micro-batches are: micro-batch i
  is the strided rows i, i + num_micro, i + 2·num_micro, … Strided, so that an axis of rows that
  is sharded over devices stays so: each device embeds its share of every micro-batch. Use under
  `jit` with global arrays, or under `shard_map` with `check_vma=False` and `pmap` with each
  device's own rows.

  Args:
    embed: `(params, state, micro_batch) -> (embeddings, state)`, embeddings any tree of float
      arrays `[n, ...]`, n = N / num_micro. Runs twice a micro-batch, with the same arguments: draw
      random numbers from keys in the batch or the state.
    loss: `(params, state, embeddings, batch) -> (value, (state, metrics))`, embeddings `[N, ...]`
      in the batch's order, the whole batch and the state after the last micro-batch. May use
      parameters directly (predictors, temperatures): their gradient is added.
    params: differentiated.
    state: whatever `embed` and `loss` carry, such as running statistics.
    batch: tree of arrays `[N, ...]`.
    num_micro: micro-batches; 1 is a plain single pass.

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
    # The state goes through its steps again, so that each micro-batch finds what it found before.
    state, total = carry
    rows, pull = rows_and_pull
    _, pull_back, state = jax.vjp(lambda p: embed(p, state, rows), params, has_aux=True)
    return (state, jax.tree.map(jnp.add, total, pull_back(pull)[0])), None

  pulls = jax.tree.map(lambda x: _split(x, num_micro), pulls)
  (_, gradients), _ = lax.scan(backward, (state, direct), (micro, pulls))
  return result, gradients


def _split(x: jax.Array, num_micro: int) -> jax.Array:
  """`[N, ...]` to `[num_micro, N / num_micro, ...]`, micro-batch i of rows i mod num_micro."""
  return jnp.swapaxes(x.reshape(-1, num_micro, *x.shape[1:]), 0, 1)


def _join(x: jax.Array) -> jax.Array:
  """The inverse of `_split`."""
  return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
