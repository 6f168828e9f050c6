"""Bhattacharyya distances between all pairs of diagonal Gaussians.

For N(μ_i, diag σ_i²) and N(μ_j, diag σ_j²) in D dimensions, with s_d = σ_id² + σ_jd²,

  D_B = Σ_d [ λ (μ_id − μ_jd)² / s_d + ½ log s_d − ¼ (log σ_id² + log σ_jd²) − ½ log 2 ]

This is exact for λ = ¼; ProViCo (Park et al., CVPR 2022) leaves λ free. Its mean over the K × K
pairs of samples of two videos needs no double sum. If the K samples of a video have mean m and
variance v, then in each dimension

  K⁻² Σ_k Σ_k' (z_i^k − z_j^k')² = m2_i + m2_j − 2 m_i m_j = (m_i − m_j)² + v_i + v_j,   m2 = m² + v

so the cost is O(N² D), and the last form has no cancellation. Each pair needs one fraction and one
logarithm per dimension. Fractions of four dimensions are added over their common denominator, which
needs one division, and the logarithm of that denominator is the sum of the four logarithms.

`form = "reviewed"` is the one-dimensional formula that a review of the paper prints, with variance
σ² = Σ_d σ_d²: λ ‖·‖² / (σ_i² + σ_j²) + ½ log(…). It equals the formula above for D = 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError

FORMS = ("diagonal", "reviewed")
RANGE = 40.0  # range of log σ² for which products of four variances fit in float32
_SHARED = 4  # dimensions per division and logarithm
_UNROLLED = 16  # dimensions per pass over the tile, so that sums stay in registers


class Gaussians(NamedTuple):
  """N Gaussians, in units of a common standard deviation.

  Attributes:
    mean: `[N, D]`, mean of the distribution or of its samples.
    variance: `[N, D]`, variance of the distribution.
    spread: `[N, D]`, variance of the samples; None without samples.
  """

  mean: jax.Array
  variance: jax.Array
  spread: jax.Array | None = None


def gaussians(
  mean: jax.Array,
  variance: jax.Array,
  samples: jax.Array | None = None,
  *,
  log_unit: jax.typing.ArrayLike | None = None,
) -> Gaussians:
  """Prepares Gaussians for `distance`: scales them to a common unit.

  The distance does not depend on the unit of length. With the typical variance as the unit,
  products of four variances fit in float32 if log σ² is within ±20 of `log_unit`.

  Args:
    mean: `[N, D]`.
    variance: `[N, D]`, positive.
    samples: `[N, K, D]`; if given, distances are averages over the K × K pairs of samples, and
      `mean` is not used.
    log_unit: logarithm of the square of the unit; must be the same for all Gaussians that are
      compared. None takes the mean log σ².
  """
  mean, variance = mean.astype(jnp.float32), variance.astype(jnp.float32)
  log_unit = jnp.mean(jnp.log(variance)) if log_unit is None else log_unit
  scale = jnp.exp(-0.5 * jnp.asarray(log_unit, jnp.float32))
  spread = None
  if samples is not None:
    samples = samples.astype(jnp.float32)
    mean = jnp.mean(samples, axis=1)
    spread = jnp.mean(jnp.square(samples - mean[:, None]), axis=1) * scale**2
  return Gaussians(mean * scale, variance * scale**2, spread)


def distance(x: Gaussians, y: Gaussians, weight: float = 0.25, form: str = "diagonal") -> jax.Array:
  """Distances of all pairs at once; call it on blocks if N × M is too large.

  Args:
    x: N Gaussians.
    y: M Gaussians with the same unit; either both x and y have samples or neither has.
    weight: λ ≥ 0; ¼ is the Bhattacharyya distance.
    form: "diagonal" | "reviewed".

  Returns:
    float32 `[N, M]`, ≥ 0. Without samples, equal distributions have distance 0. With samples, the
    expected distance over independent draws is larger by λ D (in the diagonal form).

  Raises:
    UserError: the widths differ, or there is no such form.
  """
  if form not in FORMS:
    raise UserError(f"distance: form must be one of {', '.join(FORMS)}; got {form!r}")
  if x.mean.ndim != 2 or y.mean.ndim != 2 or x.mean.shape[1] != y.mean.shape[1]:
    raise UserError(
      f"distance: Gaussians must be [N, D] and [M, D]; got {x.mean.shape}, {y.mean.shape}"
    )
  if (x.spread is None) != (y.spread is None):
    raise UserError("distance: either both sides have samples or neither")
  return jnp.maximum(_FORMS[form](x, y, weight), 0.0)


def _diagonal(x: Gaussians, y: Gaussians, weight: float) -> jax.Array:
  zero = lax.full_like(x.mean, 0.0, shape=(x.mean.shape[0], y.mean.shape[0]))
  zero += lax.full_like(y.mean, 0.0, shape=())

  def step(total: tuple, part: tuple[Gaussians, Gaussians]) -> tuple[tuple, None]:
    x, y = part
    quadratic, logarithm = total
    for d in range(0, _UNROLLED, _SHARED):
      top, bottom = _fraction(x, y, d, _SHARED)
      quadratic += top / bottom
      logarithm += jnp.log(bottom)
    return (quadratic, logarithm), None

  (quadratic, logarithm), _ = lax.scan(step, (zero, zero), (_split(x), _split(y)))
  own_x, own_y = (jnp.sum(jnp.log(g.variance) + jnp.log(2.0), axis=1) for g in (x, y))
  return weight * quadratic + 0.5 * logarithm - 0.25 * (own_x[:, None] + own_y[None, :])


def _split(g: Gaussians) -> Gaussians:
  """Reshapes `[N, D]` to `[D / 16, 16, N]`; padding dimensions add nothing to the distance."""
  pad = -g.mean.shape[1] % _UNROLLED

  def one(x: jax.Array, fill: float) -> jax.Array:
    x = jnp.pad(x, ((0, 0), (0, pad)), constant_values=fill)
    return x.T.reshape(-1, _UNROLLED, x.shape[0])

  # Two variances of ½ sum to 1, whose logarithm is 0.
  return Gaussians(
    one(g.mean, 0.0), one(g.variance, 0.5), g.spread if g.spread is None else one(g.spread, 0.0)
  )


def _fraction(x: Gaussians, y: Gaussians, d: int, width: int) -> tuple[jax.Array, jax.Array]:
  """The quadratic term summed over `width` dimensions from d on, as one fraction `[N, M]`."""
  if width == 1:
    bottom = x.variance[d][:, None] + y.variance[d][None, :]
    top = jnp.square(x.mean[d][:, None] - y.mean[d][None, :])
    if x.spread is not None:
      assert y.spread is not None  # both or none, as was checked
      top += x.spread[d][:, None] + y.spread[d][None, :]
    return top, bottom
  half = width // 2
  (a, b), (c, d_) = _fraction(x, y, d, half), _fraction(x, y, d + half, half)
  return a * d_ + c * b, b * d_


def _reviewed(x: Gaussians, y: Gaussians, weight: float) -> jax.Array:
  squared = lambda g: jnp.sum(  # noqa: E731
    jnp.square(g.mean) + (0.0 if g.spread is None else g.spread), axis=1
  )
  cross = jnp.matmul(x.mean, y.mean.T, precision=lax.Precision.HIGHEST)
  apart = squared(x)[:, None] + squared(y)[None, :] - 2 * cross
  own_x, own_y = (jnp.sum(g.variance, axis=1) for g in (x, y))
  total = own_x[:, None] + own_y[None, :]
  ratio = jnp.log(total / 2) - 0.5 * (jnp.log(own_x)[:, None] + jnp.log(own_y)[None, :])
  return weight * jnp.maximum(apart, 0.0) / total + 0.5 * ratio


_FORMS = {"diagonal": _diagonal, "reviewed": _reviewed}
