"""Bhattacharyya distances between all pairs of diagonal Gaussians, a tile at a time.

For N(μ_i, diag σ_i²) and N(μ_j, diag σ_j²) in D dimensions, with s_d = σ_id² + σ_jd²,

  D_B = Σ_d [ λ (μ_id − μ_jd)² / s_d + ½ log s_d − ¼ (log σ_id² + log σ_jd²) − ½ log 2 ]

exactly at λ = ¼; ProViCo (Park et al., CVPR 2022) leaves λ free. Its mean over the K × K pairs of
two videos' samples needs no double sum: samples with mean m and variance v (both over the K) have

  K⁻² Σ_k Σ_k' (z_i^k − z_j^k')² = m2_i + m2_j − 2 m_i m_j = (m_i − m_j)² + v_i + v_j,   m2 = m² + v

in each dimension, so O(N² D) does it, and the last form does not cancel. What depends on a pair is
one fraction and one logarithm a dimension. Fractions of four dimensions share a division (their
denominators' product), and that product the logarithm: a quarter of a logarithm a dimension.

`form = "reviewed"` is the one-dimensional formula as a review of the paper prints it, with
σ² = Σ_d σ_d² for the variance: λ ‖·‖² / (σ_i² + σ_j²) + ½ log(…), equal to the above for D = 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.errors import UserError

FORMS = ("diagonal", "reviewed")
RANGE = 40.0  # of log σ², within which products of four variances are exact
_SHARED = 4  # dimensions a division and a logarithm
_UNROLLED = 16  # dimensions a pass over the tile: sums stay in registers


class Gaussians(NamedTuple):
  """N Gaussians, in units of a common standard deviation.

  Attributes:
    mean: `[N, D]`, of the distribution or of its samples.
    variance: `[N, D]`, of the distribution.
    spread: `[N, D]`, variance of the samples about their mean; None where there are none.
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
  """What distances are computed from.

  The distance does not change with the unit of length. The typical variance as the unit keeps
  products of four variances within float32 where log σ² lies within ±20 of `log_unit`.

  Args:
    mean: `[N, D]`.
    variance: `[N, D]`, positive.
    samples: `[N, K, D]`: distances averaged over the K × K pairs of samples, in place of `mean`.
    log_unit: logarithm of the unit's square, the same for all that are compared; None takes the
      mean log σ².
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
  """Distances of all pairs, at once: call it on blocks where N × M is too much.

  Args:
    x: N Gaussians.
    y: M Gaussians of the same unit, both with samples or both without.
    weight: λ ≥ 0; ¼ is the Bhattacharyya distance.
    form: "diagonal" | "reviewed".

  Returns:
    float32 `[N, M]`, ≥ 0; without samples 0 where both are the same distribution. With them its
    expectation over independent draws is larger by λ D (in the diagonal form).

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
  """Arrays `[N, D]` as `[D / 16, 16, N]`, with dimensions of distance 0 to fill the last 16."""
  pad = -g.mean.shape[1] % _UNROLLED

  def one(x: jax.Array, fill: float) -> jax.Array:
    x = jnp.pad(x, ((0, 0), (0, pad)), constant_values=fill)
    return x.T.reshape(-1, _UNROLLED, x.shape[0])

  # Two variances of ½ sum to 1, whose logarithm is 0.
  return Gaussians(
    one(g.mean, 0.0), one(g.variance, 0.5), g.spread if g.spread is None else one(g.spread, 0.0)
  )


def _fraction(x: Gaussians, y: Gaussians, d: int, width: int) -> tuple[jax.Array, jax.Array]:
  """Σ over `width` dimensions from d of the quadratic term, as one fraction `[N, M]`."""
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
