"""BaS-Net: class activations over time, with and without background suppressed by a filter.

Lee et al., "Background Suppression Network for Weakly-supervised Temporal Action Localization"
(AAAI 2020), as in its released code. For features X of T steps:

  filter   w = sigmoid(conv1(lrelu(conv1(X)))) in (0, 1)
  trunk    E = lrelu(conv3(lrelu(conv3(·)))), for X (base branch) and for w ⊙ X (suppression branch)
  classes  CAS = conv1(dropout(E)), without bias; C actions, then the background

Both branches have the same weights. In the first layer they also share the matrix products: a
convolution is Σ_k shift_k(X W_k), and shift_k((w ⊙ X) W_k) = shift_k(w ⊙ (X W_k)).

DCC (CVPR 2022) adds one layer on E, which gives the embedding of a snippet.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from vssl_jax.models.layers import product

BASE, SUPPRESSED = 0, 1  # indices of the branches
PARTS = ("filter1", "filter2", "conv1", "conv2", "classifier", "projection")  # parameter names
_SLOPE = 0.01
# Uniform in ±1 / √fan_in.
_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Activations(NamedTuple):
  """Outputs of the network for N videos; float32, 0 where the mask is False.

  Attributes:
    attention: `[N, T]`, w in (0, 1).
    cas: `[2, N, T, C + 1]`, logits of base and suppression branch; with dropout in training.
    clean: the same as `cas`, without dropout and without gradient.
    embedding: `[2, N, T, d]`.
    trunk: `[2, N, T, F]`, E, in the dtype of the products, and not 0 in padding.
  """

  attention: jax.Array
  cas: jax.Array
  clean: jax.Array
  embedding: jax.Array
  trunk: jax.Array


class BasNet(nn.Module):
  """The network.

  Attributes:
    classes: C, without the background.
    hidden: channels of the trunk.
    filter: channels of the filter.
    dim: d, width of the embedding.
    dropout: rate in [0, 1).
    dtype: dtype of the matrix products; parameters and results are float32.
    reduce_dtype: dtype in which devices add up gradients.
  """

  classes: int
  hidden: int = 2048
  filter: int = 512
  dim: int = 512
  dropout: float = 0.7
  dtype: DTypeLike = jnp.float32
  reduce_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, features: jax.Array, mask: jax.Array, keys: jax.Array | None = None
  ) -> Activations:
    """Activations of features `[N, T, D]`, float.

    Args:
      features: one feature vector per step; values where the mask is False are ignored.
      mask: bool `[N, T]`, True for the first steps of a video, False for padding.
      keys: one PRNG key per video `[N]`, for dropout; None for no dropout.
    """
    inside = mask[..., None]
    x = jnp.where(inside, features, 0).astype(self.dtype)
    attention = self._filter(x) * mask
    add = functools.partial(product.add, reduce_dtype=self.reduce_dtype)
    taps = functools.partial(Taps, self.hidden, dtype=self.dtype, reduce_dtype=self.reduce_dtype)
    products, bias = taps(name="conv1")(x)
    w = attention[..., None].astype(self.dtype)
    # Videos are the first axis until the end: they are split over devices, and an axis that is
    # merged with another stays split only if it is the first of the two.
    both = jnp.stack([shifted(products), shifted([w * p for p in products])], axis=1)
    # Padding is set to zero before each layer, as beyond the ends of a video.
    both = jnp.where(inside[:, None], _activate(add(both, bias)), 0)
    n, t = mask.shape
    products, bias = taps(name="conv2")(both.reshape(2 * n, t, -1))
    trunk = _activate(add(shifted(products), bias)).reshape(n, 2, t, self.hidden)

    classifier = self._dense(self.classes + 1, "classifier", use_bias=False)
    clean = lax.stop_gradient(_flat(classifier, trunk))
    cas = _flat(classifier, trunk if keys is None else _dropout(trunk, keys, self.dropout))
    embedding = _flat(self._dense(self.dim, "projection"), trunk)
    cas, clean, embedding = (
      jnp.where(inside, part.swapaxes(0, 1).astype(jnp.float32), 0)
      for part in (cas, clean, embedding)
    )
    return Activations(attention, cas, clean, embedding, trunk.swapaxes(0, 1))

  def _dense(self, width: int, name: str, use_bias: bool = True) -> product.Dense:
    return product.Dense(
      width,
      use_bias,
      dtype=self.dtype,
      reduce_dtype=self.reduce_dtype,
      kernel_init=_init,
      name=name,
    )

  def _filter(self, x: jax.Array) -> jax.Array:
    hidden = _activate(_flat(self._dense(self.filter, "filter1"), x))
    logit = _flat(self._dense(1, "filter2"), hidden)[..., 0]
    return jax.nn.sigmoid(logit.astype(jnp.float32))


class Taps(nn.Module):
  """The products X W_k of a convolution over time, K arrays `[N, T, F]`, and its bias `[F]`.

  `shifted` shifts each product by its tap and adds them, which gives the convolution. The kernel is
  `[K, D, F]`.
  """

  features: int
  width: int = 3
  dtype: DTypeLike = jnp.float32
  reduce_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """Products and bias for x `[N, T, D]`."""
    shape = (self.width, x.shape[-1], self.features)
    kernel = self.param("kernel", _init, shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    times = functools.partial(product.matmul, reduce_dtype=self.reduce_dtype)
    return [_flat(functools.partial(times, w=w), x.astype(self.dtype)) for w in kernel], bias


def shifted(products: list[jax.Array]) -> jax.Array:
  """Σ_k products_k[t + k − K // 2], zeros beyond the ends; `[N, T, F]`."""
  t, half = products[0].shape[1], len(products) // 2
  total = products[half]
  for k, p in enumerate(products):
    if k < half:
      total = total + jnp.pad(p, ((0, 0), (half - k, 0), (0, 0)))[:, :t]
    elif k > half:
      total = total + jnp.pad(p, ((0, 0), (0, k - half), (0, 0)))[:, k - half :]
  return total


def _flat(apply: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """Applies a layer to `[..., D]` with all leading axes merged into one.

  On a CPU this halves the time of the gradient: with several leading axes the gradient of the
  kernel is not a plain matrix product.
  """
  y = apply(x.reshape(-1, x.shape[-1]))
  return y.reshape(*x.shape[:-1], y.shape[-1])


def _activate(x: jax.Array) -> jax.Array:
  return nn.leaky_relu(x, _SLOPE)


def _dropout(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
  """Inverted dropout on `[N, 2, T, F]`, drawn per branch and video from the keys of the videos."""

  def draw(key: jax.Array) -> jax.Array:
    return jax.random.bernoulli(jax.random.fold_in(key, 1), 1 - rate, x.shape[1:])

  keep = jax.vmap(draw)(keys)
  return jnp.where(keep, x / (1 - rate), 0)


def top_mean(cas: jax.Array, mask: jax.Array, share: int = 8) -> jax.Array:
  """The score of a video for each class: the mean of its k largest activations, k = ⌊n / share⌋.

  Args:
    cas: float32 `[..., N, T, C]`.
    mask: bool `[N, T]`; n is the number of True entries of a video, and k is at least 1.
    share: 8 in BaS-Net, which gives k = 93 for T = 750.

  Returns:
    `[..., N, C]`.
  """
  most = top_count(mask.shape[1], share)
  count = top_count(jnp.sum(mask, axis=1), share)  # [N]
  hidden = jnp.where(mask[..., None], cas, -jnp.inf)
  # A sort stays split over the devices that hold the videos; `lax.top_k` would gather them.
  best = -jnp.sort(-jnp.swapaxes(hidden, -1, -2), axis=-1)[..., :most]  # [..., N, C, k]
  used = jnp.arange(most) < count[:, None]
  return jnp.sum(jnp.where(used[:, None, :], best, 0), axis=-1) / count[:, None]


@overload
def top_count(steps: int, share: int = 8) -> int: ...
@overload
def top_count(steps: jax.Array, share: int = 8) -> jax.Array: ...
def top_count(steps: int | jax.Array, share: int = 8) -> int | jax.Array:
  """The number k of activations that `top_mean` averages; at least 1."""
  return max(steps // share, 1) if isinstance(steps, int) else jnp.maximum(steps // share, 1)
