"""Attention over a sequence, as a layer without parameters, so that `models.cost` can count it."""

from __future__ import annotations

import flax.linen as nn
import jax


class Attend(nn.Module):
  """softmax(q kᵀ / √D) v for each head, the softmax in float32."""

  @nn.compact
  def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Maps queries `[N, L, heads, D]`, keys and values `[N, M, heads, D]` to `[N, L, heads, D]`."""
    return jax.nn.dot_product_attention(q, k, v)
