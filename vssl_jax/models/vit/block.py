"""A block of a vision transformer."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vssl_jax.models.layers.attention import Attend
from vssl_jax.models.layers.product import Dense
from vssl_jax.models.vit import rotary

glorot_uniform = nn.initializers.glorot_uniform()
# Which of queries, keys and values have a bias. That of keys changes no output unless they are
# turned, so that VideoMAE has none.
BIASES = {"qv": ("query", "value"), "qkv": ("query", "key", "value"), "none": ()}


class Block(nn.Module):
  """Pre-norm self-attention and MLP.

  Norms and softmax are computed in float32, and rounded to `dtype`.

  Attributes:
    heads: number of heads, which divides the channels.
    mlp: channels inside the MLP, per channel.
    biases: one of `BIASES`.
    epsilon: of the norms.
  """

  heads: int
  dtype: DTypeLike
  reduce_dtype: DTypeLike = jnp.float32
  mlp: float = 4.0
  biases: str = "qv"
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array, train: bool, turns: jax.Array | None = None) -> jax.Array:
    """Maps tokens `[N, L, C]` to the same shape.

    Args:
      x: tokens.
      train: without effect.
      turns: `rotary.turns` of the tokens, `[2, L, C / heads]`; None: queries and keys stay.
    """
    del train
    channels, dtype = x.shape[-1], self.dtype
    shape = (*x.shape[:2], self.heads, channels // self.heads)

    def dense(features: int, name: str, use_bias: bool = True) -> Dense:
      return Dense(
        features,
        use_bias,
        dtype=dtype,
        reduce_dtype=self.reduce_dtype,
        kernel_init=glorot_uniform,
        name=name,
      )

    y = nn.LayerNorm(self.epsilon, dtype=dtype, name="norm_attention")(x)
    q, k, v = (
      dense(channels, name, name in BIASES[self.biases])(y).reshape(shape)
      for name in ("query", "key", "value")
    )
    if turns is not None:
      q, k = rotary.turn(q, turns), rotary.turn(k, turns)
    y = Attend(name="attend")(q, k, v)
    x = x + dense(channels, "out")(y.reshape(x.shape))
    y = nn.LayerNorm(self.epsilon, dtype=dtype, name="norm_mlp")(x)
    y = nn.gelu(dense(round(self.mlp * channels), "mlp_in")(y), approximate=False)
    return x + dense(channels, "mlp_out")(y)
