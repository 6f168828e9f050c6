"""Diagonal Gaussians of clips and of videos: moments of a mixture, samples, divergence.

ProViCo (Park et al., CVPR 2022): each clip is a Gaussian N(μ_n, diag σ_n²), and a video is the
mixture of its clips with equal weights. Everything is in float32; log is the natural logarithm.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vssl_jax.errors import UserError

SCALARS = ("trace", "geometric", "mean")


def mixture(mean: jax.Array, log_variance: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and variance of a mixture of R Gaussians with equal weights.

  By the law of total variance, σ²(V) = mean of the variances + variance of the means. This equals
  the paper's (1/R) Σ (σ_n² + μ_n²) − μ(V)², without its cancellation errors. For unit means the
  variance of the means, summed over dimensions, is 1 − ‖μ(V)‖².

  Args:
    mean: `[..., R, D]`.
    log_variance: `[..., R, D]`.

  Returns:
    Mean and variance, `[..., D]`.
  """
  mean, log_variance = mean.astype(jnp.float32), log_variance.astype(jnp.float32)
  center = jnp.mean(mean, axis=-2)
  between = jnp.mean(jnp.square(mean - center[..., None, :]), axis=-2)
  return center, jnp.mean(jnp.exp(log_variance), axis=-2) + between


def noise(keys: jax.Array, count: int, dim: int) -> jax.Array:
  """Standard normal numbers `[N, count, dim]`, one PRNG key per row: independent of sharding."""
  return jax.vmap(lambda key: jax.random.normal(key, (count, dim)))(keys)


def sample(noise: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
  """Reparametrized samples σ ⊙ ε + μ, `[N, K, D]`, differentiable by mean and variance.

  Args:
    noise: ε `[N, K, D]`.
    mean: `[N, D]`.
    variance: `[N, D]`, positive.
  """
  return jnp.sqrt(variance)[:, None] * noise + mean[:, None]


def kl_to_standard(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """KL(N(μ, diag σ²) ‖ N(0, I)) = ½ Σ_d (σ² + μ² − 1 − log σ²) in nats, `[...]` of `[..., D]`."""
  # expm1 avoids rounding errors: near σ² = 1 the difference σ² − 1 − log σ² is of second order.
  excess = jnp.expm1(log_variance) - log_variance
  return 0.5 * jnp.sum(excess + jnp.square(mean), axis=-1)


def log_scalar(variance: jax.Array, kind: str = "trace") -> jax.Array:
  """Summarizes a variance in D dimensions as one number; returns its log, `[..., D]` to `[...]`.

  Args:
    variance: positive.
    kind: "trace" Σ_d σ_d², the mean squared distance of a sample from the mean; "mean", the trace
      divided by D; "geometric" (Π_d σ_d²)^(1/D).

  Raises:
    UserError: there is no such kind.
  """
  if kind not in SCALARS:
    raise UserError(f"log_scalar: kind must be one of {', '.join(SCALARS)}; got {kind!r}")
  if kind == "geometric":
    return jnp.mean(jnp.log(variance), axis=-1)
  total = jnp.sum if kind == "trace" else jnp.mean
  return jnp.log(total(variance, axis=-1))
