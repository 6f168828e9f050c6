"""Statistics of embeddings that show a collapse even if the loss curve does not.

All are computed from L2-normalized embeddings in float32. z `[N, V, D]` has V views of each of N
videos.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError
from vssl_jax.ops import tiles
from vssl_jax.ops.sphere import l2_normalize

_HIGHEST = lax.Precision.HIGHEST
# Variance of unit vectors that are equal except for rounding.
_ROUNDING = 1e-12


def alignment(z: jax.Array) -> jax.Array:
  """Mean squared distance between two views of a video, in [0, 4]; smaller means closer.

  Wang & Isola 2020, eq. 1 with α = 2, over all V(V − 1)/2 pairs of views.

  Args:
    z: `[N, V, D]`, V ≥ 2, raw.
  """
  views = z.shape[1]
  if views < 2:
    raise UserError(f"alignment: needs two views or more of each video; got z of shape {z.shape}")
  z = l2_normalize(z)
  # Σ over pairs |z_v − z_w|² = V Σ_v |z_v − mean|².
  around = jnp.sum(jnp.square(z - jnp.mean(z, axis=1, keepdims=True)), axis=(1, 2))
  return 2 * jnp.mean(around) / (views - 1)


def uniformity(x: jax.Array, t: float = 2.0, block_size: int = 512) -> jax.Array:
  """Log of the mean of exp(−t |x_i − x_j|²) over pairs i < j, in [−4t, 0]; smaller = more even.

  Wang & Isola 2020, eq. 2 (with their t = 2), computed in tiles and in the log domain. For large D,
  uniform points on the sphere give −2t = −4; equal points give 0.

  Args:
    x: `[M, D]` raw, M ≥ 2, one view of each video.
    t: inverse width of the kernel.
    block_size: side of a tile; the memory is a few times block_size².
  """
  if x.ndim != 2 or x.shape[0] < 2:
    raise UserError(f"uniformity: needs [M, D] with two rows or more; got {x.shape}")
  x, m = l2_normalize(x), x.shape[0]

  def step(total, rows, cols, mask):
    cosine = jnp.matmul(rows.take(x), cols.take(x).T, precision=_HIGHEST)
    return jnp.logaddexp(total, jax.nn.logsumexp(2 * t * (cosine - 1), where=mask))

  start = lax.full_like(x, -jnp.inf, shape=())
  total = tiles.fold_tiles(step, start, m, block_size=block_size)
  return jnp.minimum(total - jnp.log(m * (m - 1) / 2), 0.0)


def std(x: jax.Array) -> jax.Array:
  """Standard deviation of each dimension over rows, averaged over dimensions.

  1/√D for points spread evenly over the sphere, 0 if all points are equal (SimSiam, Chen & He 2021,
  section 4.1).

  Args:
    x: `[M, D]` raw.
  """
  return jnp.mean(jnp.std(l2_normalize(x), axis=0))


def effective_rank(x: jax.Array) -> jax.Array:
  """The number of dimensions that the embeddings use: exp of the entropy of the singular values.

  Roy & Vetterli 2007, eq. 3, for the centered matrix. Computed from the eigenvalues of its D × D
  Gram matrix (or M × M, if smaller) in float32. Singular values below about 1/300 of the largest
  are rounding errors and count as 0.

  Args:
    x: `[M, D]` raw.

  Returns:
    float32 in [1, min(M − 1, D)]; 0 if all embeddings are equal.
  """
  x = l2_normalize(x)
  x = x - jnp.mean(x, axis=0)
  wide = x.shape[0] < x.shape[1]
  gram = jnp.matmul(x, x.T, precision=_HIGHEST) if wide else jnp.matmul(x.T, x, precision=_HIGHEST)
  squared = jnp.linalg.eigvalsh(gram)
  floor = jnp.maximum(squared.size * jnp.finfo(x.dtype).eps * squared[-1], x.shape[0] * _ROUNDING)
  values = jnp.sqrt(jnp.where(squared > floor, squared, 0.0))
  p = values / jnp.maximum(jnp.sum(values), floor)
  rank = jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0)))
  return jnp.where(squared[-1] > floor, rank, jnp.where(jnp.isnan(squared[-1]), jnp.nan, 0.0))


@functools.partial(jax.jit, static_argnames=("max_videos",))
def summary(z: jax.Array, max_videos: int = 2048) -> dict[str, jax.Array]:
  """All statistics of a batch's embeddings, for logging.

  Args:
    z: `[N, V, D]`, or `[N, D]` for one view, raw, any float type.
    max_videos: with more videos than this, only every k-th row is used, as uniformity costs N² D.

  Returns:
    float32 scalars: `alignment` (V ≥ 2), `uniformity` (mean over views; N ≥ 2), `embedding_std`,
    `embedding_spread` (`embedding_std` times √D: 1 if spread evenly over the sphere, 0 if all are
    equal), `effective_rank`, `effective_rank_share` (of the most that it can be, which is the
    smaller of D and the number of rows less one), `embedding_norm` (mean norm before
    normalization).
  """
  z = z[:, None] if z.ndim == 2 else z
  z = z[:: -(-z.shape[0] // max_videos)]
  n, views, d = z.shape
  rows = z.reshape(n * views, d)
  deviation, rank = std(rows), effective_rank(rows)
  stats = {
    "embedding_std": deviation,
    "embedding_spread": deviation * d**0.5,
    "effective_rank": rank,
    "effective_rank_share": rank / max(1, min(n * views - 1, d)),
    "embedding_norm": jnp.mean(jnp.linalg.norm(rows.astype(jnp.float32), axis=-1)),
  }
  if n > 1:
    stats["uniformity"] = jnp.mean(jnp.stack([uniformity(z[:, v]) for v in range(views)]))
  if views > 1:
    stats["alignment"] = alignment(z)
  return stats


def diagnose(
  stats: Mapping[str, float],
  *,
  least_spread: float = 0.05,
  least_rank: float = 2.0,
  most_share: float = 0.75,
  least_entropy: float = 0.1,
  most_clamped: float = 0.5,
  most_uncertain: float = 4.0,
) -> str | None:
  """Names the collapse that the numbers of `summary` and of a method show, in one line.

  Args:
    stats: numbers by name; unknown names are ignored, missing numbers are not checked.
    least_spread: `embedding_spread` below this means one point (0.05: mean cosine above 0.9975).
    least_rank: `effective_rank` below this means a line or a narrow plane.
    most_share: but not where `effective_rank_share` is at least this, as with two dimensions.
    least_entropy: `prototype_entropy` (nats) below this means one prototype for all clips (0.1: for
      98 % of them).
    most_clamped: `log_variance_at_low` or `log_variance_at_high` (the share of log σ² at that end
      of its clamp) above this means that the variance has collapsed or exploded.
    most_uncertain: `uncertainty` (Σ σ² over dimensions) above this also means an explosion: two
      samples of one video are then further apart than any two points of the unit sphere.

  Returns:
    The cause, or None if there is none.
  """
  get = lambda name, good: float(stats.get(name, good))  # noqa: E731
  spread, rank = get("embedding_spread", 1.0), get("effective_rank", least_rank)
  norm, entropy = get("embedding_norm", 1.0), get("prototype_entropy", least_entropy)
  low, high = get("log_variance_at_low", 0.0), get("log_variance_at_high", 0.0)
  uncertainty = get("uncertainty", 0.0)
  if not all(map(_finite, (spread, rank, norm, entropy, low, high, uncertainty))):
    return "embeddings are not finite: the network has diverged or its input is not finite"
  if norm < 1e-6:
    return f"zero embeddings: mean norm {norm:.2g}; the last layer's output has died"
  if spread < least_spread:
    return (
      f"constant embeddings: every clip maps to nearly one point (spread {spread:.2g} of an even "
      "sphere's); is the target without stop-gradient, or the learning rate too high?"
    )
  if entropy < least_entropy:
    return (
      "one prototype: nearly every clip is nearest to the same prototype (entropy of their usage "
      f"{entropy:.2g} nats); are there too few Sinkhorn iterations, or is epsilon too large?"
    )
  if high > most_clamped or uncertainty > most_uncertain:
    return (
      f"exploded variance: mean Σ σ² {uncertainty:.2g}, {high:.0%} of log σ² at its upper clamp: "
      "noise hides the means; is σ² weighed by its geometric mean, or does it start too high?"
    )
  if low > most_clamped:
    return (
      f"collapsed variance: {low:.0%} of log σ² sits at its lower clamp; is the loss of pairs "
      "nearly 0, beta too small, or are there too few positives besides each video's own pair?"
    )
  if rank < least_rank and get("effective_rank_share", 0.0) < most_share:
    return (
      "dimensional collapse: embeddings vary along two directions at most (effective rank "
      f"{rank:.2f}); are negatives, batch or augmentations too few or too weak?"
    )
  return None


def _finite(x: float) -> bool:
  return abs(x) < float("inf")
