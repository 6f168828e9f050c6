"""The match of two videos as a softmax over the batch's distributions, instead of a threshold.

ProViCo decides each pair by itself, with p = ½ at the distance b / a. Here the distributions of a
batch compete for a video i, as in InfoNCE; m is the match of losses.match without b:

  m(i, j) = K⁻² Σ_kk' exp(−a ‖z_i^k − z_j^k'‖)
  p(j | i) = m(i, j) / (m(i, j) + exp(margin) Σ_n m(i, n)),    n over the negatives of i
  L_soft   = −log p(j | i), for the positives j of i, among them i itself
  L_stoc   = L_soft / (s_i s_j) + ½ (log s_i + log s_j),       averaged over j, then over i

So no distance has to be known beforehand, and negatives push only as far as they compete. The other
positives of a video are neither pulled nor pushed by p(j | i). This form is *ours*.

The K² n N distances of n videos of this device and all N of the batch are computed tile by tile,
again for the gradient, and never all in memory. The n N matches are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.losses import match
from vssl_jax.ops import mining, tiles

AxisName = mining.AxisName
# Takes the place of log m outside of the negatives. Its exponential is 0 beside any match, and
# its difference to one is finite.
_NOTHING = -1e30


def log_match(apart: jax.Array, slope: jax.typing.ArrayLike) -> jax.Array:
  """The logarithm of m from distances between samples, `[..., K, K]` to `[...]`."""
  k = apart.shape[-1] * apart.shape[-2]
  return jax.nn.logsumexp(jnp.negative(slope) * apart, axis=(-2, -1)) - jnp.log(float(k))


def anchor_sum(
  learned: match.Learned,
  own: tuple[jax.Array, jax.Array],
  fixed: match.Fixed,
  rule: mining.Rule,
  *,
  block_size: int,
  axis_name: AxisName | None = None,
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Sum over videos of the mean of L_stoc over their positives, and counts.

  Args:
    learned: samples, uncertainties and a; b is not read. Inside `shard_map` those of this device's
      videos, with an a that varies over the axis.
    own: log m of each video with itself `[n]`, and log s_i s_i of that pair `[n]`.
    fixed: inputs that decide which pairs are positive; `weight` is not read.
    rule: the rule that decides it.
    block_size: videos per side of a tile; a tile holds (K · block_size)² distances.
    axis_name: mesh axis over which the batch is sharded.
    precision: precision of the matrix products.

  Returns:
    The sum over this device's videos, and sums without gradient with the names of `match.STATS`,
    and `right_own`. Positives count as right where p > ½, negatives where they match less than the
    video matches itself. `soft` includes each video's pair with itself, the numbers do not.
  """
  n = learned.samples.shape[0]
  first = 0 if axis_name is None else lax.axis_index(axis_name) * n
  everywhere = lambda x: (  # noqa: E731
    x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)
  )
  samples, scale = everywhere(learned.samples), everywhere(learned.log_scale)
  known = fixed.gaussians, fixed.threshold, fixed.label
  gaussians, threshold, label = mining.gather(known, axis_name)
  videos = samples.shape[0]

  @jax.checkpoint
  def tile(x: jax.Array, y: jax.Array, slope: jax.Array) -> jax.Array:
    return log_match(match.distances(x, y, precision), slope)

  def step(carry, rows: tiles.Block, cols: tiles.Block, mask: jax.Array):
    del mask  # every pair is written, some of them twice
    apart = rule.distance(rows.take(fixed.gaussians), cols.take(gaussians))
    chosen = rule.positive(apart, rows.take(fixed.threshold), cols.take(threshold))
    found = tile(rows.take(learned.samples), cols.take(samples), learned.slope), chosen
    at = rows.start, cols.start
    return jax.tree.map(lambda old, new: lax.dynamic_update_slice(old, new, at), carry, found)

  fill = lambda value, dtype: lax.full_like(  # noqa: E731
    learned.samples, value, dtype, (n, videos)
  )
  start = fill(0, jnp.float32), fill(False, jnp.bool_)
  matches, positive = tiles.fold_tiles(step, start, n, videos, block_size=block_size)

  itself = jnp.arange(videos) == (first + jnp.arange(n))[:, None]
  matches = jnp.where(itself, own[0][:, None], matches)
  pair_scale = jnp.where(itself, own[1][:, None], learned.log_scale[:, None] + scale)
  negative, positive = ~positive & ~itself, positive & ~itself
  against = jnp.where(negative, matches + fixed.margin, _NOTHING)
  against = jax.nn.logsumexp(against, axis=1, keepdims=True)
  soft = jnp.where(negative, 0.0, jax.nn.softplus(against - matches))
  weight = jnp.where(negative, 0.0, 1.0) / jnp.sum(~negative, axis=1, keepdims=True)
  total = jnp.sum(weight * match.stochastic(soft, pair_scale))

  sure = soft < jnp.log(2.0)
  right = jnp.where(negative, matches < own[0][:, None], sure)
  stats = match.count(soft, right, positive, ~itself, weight, fixed.label, label)
  stats["soft"] = jnp.sum(weight * soft)
  stats["right_own"] = jnp.sum(itself & sure, dtype=jnp.float32)
  return total, lax.stop_gradient(stats)
