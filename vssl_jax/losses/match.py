"""The contrastive loss of pairs of Gaussian videos, weighted by uncertainty, computed in tiles.

For videos i, j with K samples each (Oh et al. 2019; Chun et al. 2021; ProViCo, Park et al. 2022):

  p(m | i, j) = K⁻² Σ_kk' s(b − a ‖z_i^k − z_j^k'‖),        s the logistic function, a > 0
  L_soft = −log p for a positive pair, −log(1 − p) for a negative pair
  L_stoc = L_soft / (s_i s_j) + ½ (log s_i + log s_j),      s_i the uncertainty of video i

Since 1 − s(x) = s(−x), both cases are a log-sum-exp of log s(± x), which is exact even for p = 0
and p = 1. With a margin m, a negative pair has b + m instead of b, so that it must be further apart
than a positive pair must be near. `losses.match_softmax` is another form of p.

The K² N² distances are computed by matrix products, tile by tile, and are never all in memory. The
gradient is computed in the forward pass, tile by tile (JAX differentiates each tile). The backward
pass only multiplies it by the cotangent, so both passes use the same positives. The loss of a pair
is symmetric: each device takes its own videos against all gathered videos, and twice the gradient
of its rows is the complete gradient.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.ops import mining
from vssl_jax.ops.bhattacharyya import Gaussians

AxisName = mining.AxisName
# Added to ‖·‖², so that the root has a finite gradient at equal points. A distance of 1e-3 is the
# smallest possible.
_EPSILON = 1e-6
STATS = (
  "positives",
  "negatives",
  "soft",
  "right_positives",
  "right_negatives",
  "labelled_positives",
  "same_positives",
  "same",
)


class Learned(NamedTuple):
  """The inputs of the pair loss that have a gradient.

  Attributes:
    samples: `[N, K, D]`.
    log_scale: log s `[N]`, the uncertainty of each video as one number.
    slope: a > 0.
    offset: b.
  """

  samples: jax.Array
  log_scale: jax.Array
  slope: jax.Array
  offset: jax.Array


class Fixed(NamedTuple):
  """The inputs of the pair loss that have no gradient.

  Attributes:
    gaussians: Gaussians of the videos, to compute the distances.
    threshold: `[N]`, see `ops.mining`.
    label: int32 `[N]`, −1 if unknown; used only for the counts.
    weight: weights of a positive and of a negative pair, `[2]`.
    margin: what is added to b for negative pairs.
  """

  gaussians: Gaussians
  threshold: jax.Array
  label: jax.Array
  weight: jax.Array
  margin: jax.typing.ArrayLike = 0.0


def distances(
  x: jax.Array, y: jax.Array, precision: lax.PrecisionLike = lax.Precision.HIGHEST
) -> jax.Array:
  """√(‖x − y‖² + 1e-6) for all pairs of samples: `[N, K, D]`, `[M, K, D]` to `[N, M, K, K]`."""
  (n, k, d), m = x.shape, y.shape[0]
  x, y = x.reshape(n * k, d), y.reshape(m * k, d)
  squared = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
  squared -= 2 * jnp.matmul(x, y.T, precision=precision)
  root = jnp.sqrt(jnp.maximum(squared, 0.0) + _EPSILON)
  return root.reshape(n, k, m, k).transpose(0, 2, 1, 3)


def nll(
  apart: jax.Array,
  positive: jax.Array,
  slope: jax.Array,
  offset: jax.Array,
  margin: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
  """−log p for positive pairs, −log(1 − p) for negative pairs.

  Args:
    apart: distances between the samples of each pair, `[..., K, K]`.
    positive: bool `[...]`.
    slope: a.
    offset: b of positive pairs.
    margin: b of negative pairs is larger by this.

  Returns:
    `[...]`, ≥ 0.
  """
  x = offset - slope * apart
  x = jax.nn.log_sigmoid(jnp.where(positive[..., None, None], x, -(x + margin)))
  k = apart.shape[-1] * apart.shape[-2]
  return jnp.maximum(jnp.log(float(k)) - jax.nn.logsumexp(x, axis=(-2, -1)), 0.0)


def stochastic(soft: jax.Array, log_scale: jax.Array) -> jax.Array:
  """L_soft / s + ½ log s, where log s = log s_i + log s_j; its minimum over s is at 2 L_soft."""
  return soft * jnp.exp(-log_scale) + 0.5 * log_scale


def pair_sum(
  learned: Learned,
  fixed: Fixed,
  rule: mining.Rule,
  *,
  block_size: int,
  axis_name: AxisName | None = None,
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Sum of weight · L_stoc over ordered pairs of different videos, and counts.

  Args:
    learned: samples, uncertainties, a and b; inside `shard_map` those of this device's rows.
    fixed: inputs that decide which pairs are positive.
    rule: the rule that decides it.
    block_size: videos per side of a tile; a tile holds (K · block_size)² distances.
    axis_name: mesh axis over which the batch is sharded.
    precision: precision of the matrix products.

  Returns:
    The sum over this device's rows, and sums without gradient over the same pairs: `positives` and
    `negatives`, the numbers of pairs; `soft`, the sum of weight · L_soft; `right_positives` and
    `right_negatives`, the numbers of pairs on the correct side of p = ½; `labelled_positives`,
    positives with both labels known; `same_positives`, those of them with equal labels; and `same`,
    all pairs with equal labels.
  """
  if axis_name is not None:
    # Add a zero that varies over the axis, so that JAX sums the gradients of replicated inputs.
    zero = 0.0 * lax.axis_index(axis_name)
    vary = lambda x: x + zero.astype(x.dtype)  # noqa: E731
    learned = learned._replace(slope=vary(learned.slope), offset=vary(learned.offset))
    fixed = fixed._replace(weight=vary(fixed.weight), margin=vary(jnp.float32(fixed.margin)))
  return _pairs(learned, lax.stop_gradient(fixed), rule, block_size, axis_name, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _pairs(learned, fixed, rule, block_size, axis_name, precision):
  return _walk(learned, fixed, rule, block_size, axis_name, precision, gradient=False)[0]


def _forward(learned, fixed, rule, block_size, axis_name, precision):
  return _walk(learned, fixed, rule, block_size, axis_name, precision, gradient=True)


def _backward(rule, block_size, axis_name, precision, gradient, cotangents):
  return jax.tree.map(lambda g: cotangents[0] * g, gradient), None


_pairs.defvjp(_forward, _backward)


def _walk(learned, fixed, rule, block_size, axis_name, precision, gradient):
  """((sum, counts), gradient of the sum over all pairs of the global batch)."""
  half = axis_name is None
  videos = learned.samples.shape[0]
  own = (learned.samples, learned.log_scale), fixed._replace(weight=None, margin=None)
  every = mining.gather(own, axis_name)

  def step(carry, rows, cols, mask):
    (x, y), (fx, fy) = zip(rows.take(own), cols.take(every), strict=True)
    positive = rule.positive(rule.distance(fx.gaussians, fy.gaussians), fx.threshold, fy.threshold)
    weight = jnp.where(mask, jnp.where(positive, fixed.weight[0], fixed.weight[1]), 0.0)

    def tile(x, y, slope, offset):
      soft = nll(distances(x[0], y[0], precision), positive, slope, offset, fixed.margin)
      loss = jnp.sum(weight * stochastic(soft, x[1][:, None] + y[1][None, :]))
      return loss, soft

    arguments = (x, y, learned.slope, learned.offset)
    total, stats, sums = carry
    if gradient:
      (loss, soft), slopes = jax.value_and_grad(tile, (0, 1, 2, 3), has_aux=True)(*arguments)
      by_video, by_scalar = sums
      by_video = rows.merge(_add, by_video, slopes[0])
      if half:
        by_video = cols.merge(_add, by_video, slopes[1])
      sums = by_video, _add(by_scalar, slopes[2:])
    else:
      loss, soft = tile(*arguments)
    right = soft < jnp.log(2.0)
    counted = count(soft, right, positive, mask, weight, fx.label, fy.label)
    return total + loss, _add(stats, counted), sums

  zero = lax.full_like(learned.samples, 0.0, shape=())
  sums = (jax.tree.map(jnp.zeros_like, own[0]), (zero, zero)) if gradient else None
  start = (zero, dict.fromkeys(STATS, zero), sums)
  total, stats, sums = mining.fold_pairs(step, start, videos, axis_name, block_size)
  # Unordered pairs count twice. A video gets the gradient of its rows from its own device, and the
  # same amount from the pairs in which it is a column.
  ordered = 2.0 if half else 1.0
  out = (ordered * total, {name: ordered * x for name, x in stats.items()})
  if sums is None:
    return out, None
  by_video, by_scalar = sums
  by_video = [2.0 * g for g in by_video]
  return out, Learned(*by_video, *(ordered * g for g in by_scalar))


def _add(old, new):
  return jax.tree.map(jnp.add, old, new)


def count(
  soft: jax.Array,
  right: jax.Array,
  positive: jax.Array,
  mask: jax.Array,
  weight: jax.Array,
  label_x: jax.Array,
  label_y: jax.Array,
) -> dict[str, jax.Array]:
  """Sums over the pairs of a tile, with the names of `STATS`.

  Args:
    soft: L_soft `[N, M]`.
    right: bool `[N, M]`, whether the network decides the pair correctly.
    positive: bool `[N, M]`.
    mask: bool `[N, M]`, the pairs to count.
    weight: `[N, M]`, 0 outside of the mask.
    label_x: int `[N]`, −1 if unknown.
    label_y: int `[M]`.
  """
  known = mask & (label_x >= 0)[:, None] & (label_y >= 0)[None, :]
  same = known & (label_x[:, None] == label_y[None, :])
  total = lambda x: jnp.sum(x, dtype=jnp.float32)  # noqa: E731
  return {
    "positives": total(mask & positive),
    "negatives": total(mask & ~positive),
    "soft": total(weight * soft),
    "right_positives": total(mask & positive & right),
    "right_negatives": total(mask & ~positive & right),
    "labelled_positives": total(known & positive),
    "same_positives": total(same & positive),
    "same": total(same),
  }
