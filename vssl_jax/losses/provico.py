"""ProViCo's loss: videos as Gaussians, pairs mined by distance, contrast weighted by uncertainty.

Park et al., "Probabilistic Representations for Video Contrastive Learning", CVPR 2022:

  V_i ~ Gaussian with the mean and variance of the mixture of its clips' N(μ_n, σ_n²)
  P   = pairs with a Bhattacharyya distance below τ, and each video with itself
  L   = mean over all N² ordered pairs of L_stoc + β · mean KL(N(μ, σ²) ‖ N(0, I))

The pair of a video with itself uses two independent draws (or two halves of its clips). The same
draw on both sides would have K zero distances; then −log p is at most log K, without gradient. Two
draws of one Gaussian are √(2 Σ_d σ_d²) apart on average: smaller variances alone bring them near.
Two halves are near only where the means of their clips are.

Fields of `LossSettings` correct errors in the paper's formulas and set what the paper leaves open;
the defaults are ours.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from vssl_jax import former, parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import match, match_softmax
from vssl_jax.ops import bhattacharyya, gaussian, mining

MATCH = ("sigmoid", "softmax")
OWN = ("draws", "halves")
DISTANCE_ON = ("samples", "moments")
AVERAGE = ("pairs", "classes")
KL_ON = ("clip", "video")


@dataclasses.dataclass(frozen=True)
class LossSettings:
  """Settings of the loss; `vssl_jax.methods.provico.defaults` says which values are published.

  Attributes:
    samples: K, number of samples per video.
    match: the probability that two videos match: a "sigmoid" of their distance (paper) | a
      "softmax" over the batch, see `losses.match_softmax`.
    margin: what is added to b for negative pairs; 0 in the paper.
    own: how a video forms a pair with itself: two independent "draws" | two "halves" of its clips.
    rule: how other positives are mined.
    distance_on: distances between "samples" (paper; λ D larger on average) | "moments" (no noise).
    scalar: how the variance becomes one number: "trace" | "geometric" | "mean".
    stochastic: True: weight L_soft by the uncertainties | False: L_soft alone.
    average: all "pairs" count equally | the "classes" positive and negative count half each. With
      softmax, always: all videos equally, and all positives of a video.
    beta: weight of the KL divergence.
    kl_on: KL divergence of each "clip" | of each "video".
    block_size: videos per side of a tile.
  """

  samples: int = 8
  match: str = "sigmoid"
  margin: float = 0.0
  own: str = "draws"
  rule: mining.Rule = dataclasses.field(default_factory=mining.Rule)
  distance_on: str = "samples"
  scalar: str = "trace"
  stochastic: bool = True
  average: str = "pairs"
  beta: float = 1e-4
  kl_on: str = "clip"
  block_size: int = 64

  def __post_init__(self):
    known = {
      "match": MATCH,
      "own": OWN,
      "distance_on": DISTANCE_ON,
      "scalar": gaussian.SCALARS,
      "average": AVERAGE,
      "kl_on": KL_ON,
    }
    for name, values in known.items():
      if getattr(self, name) not in values:
        raise UserError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(values)}")
    for name, least in (("samples", 1), ("block_size", 1), ("beta", 0), ("margin", 0)):
      if not least <= getattr(self, name) < math.inf:
        raise UserError(f"{name} is {getattr(self, name)}: it must be {least} or more")
    if self.match == "softmax" and self.average != "pairs":
      raise UserError(
        f"average is {self.average!r}: with match='softmax' there is no loss of negative pairs to "
        "weigh; leave it at 'pairs'"
      )


def provico(
  mean: jax.Array,
  log_variance: jax.Array,
  keys: jax.Array,
  slope: jax.typing.ArrayLike,
  offset: jax.typing.ArrayLike,
  label: jax.Array | None = None,
  settings: LossSettings = LossSettings(),
  mesh: Mesh | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of a global batch, in float32 for any input type, and metrics.

  Args:
    mean: μ of each clip `[N, R, D]`, unit vectors.
    log_variance: log σ² of each clip `[N, R, D]`.
    keys: one PRNG key per video `[N]`, so that draws do not depend on sharding.
    slope: a > 0 of the match probability; differentiable.
    offset: b of the match probability; differentiable.
    label: int `[N]`, −1 if unknown; used for metrics of the mined pairs, never for the loss.
    settings: the settings of the loss.
    mesh: for global arrays under `jit`: each device takes the pairs of its own videos with all
      videos; samples and moments are gathered over the axis `data`, never distances.

  Returns:
    loss: scalar.
    metrics: scalars without gradient.
      loss_match: weighted mean of L_soft; loss_stochastic: the same for L_stoc; loss_kl: β KL.
      positives_per_anchor: mined positives per video, not counting the video itself.
      match_positive, match_negative: share of positive pairs (including each video with itself) and
        of negative pairs that are on the correct side of p = ½; 0 without negatives. With softmax a
        negative pair is right if the video matches itself better.
      mining_precision, mining_recall: of the mined pairs with known labels; 0 if there are none.
      uncertainty: mean of Σ_d σ_d² over videos, the mean squared distance of a sample from μ(V). It
        is the sum of the next two.
      uncertainty_predicted: the part that the head predicts, the mean of Σ_d σ_nd² over clips.
      uncertainty_spread: the part between the clips of a video, the mean of 1 − ‖μ(V)‖². It falls
        only if the clips of a video move together.

  Raises:
    UserError: shapes don't fit, or N doesn't split evenly over the mesh.
  """
  if mean.ndim != 3 or mean.shape != log_variance.shape or not mean.shape[0]:
    raise UserError(
      f"provico: mean and log_variance must be [N, R, D] alike; got {mean.shape} and "
      f"{log_variance.shape}"
    )
  if settings.own == "halves" and mean.shape[1] < 2:
    raise UserError("provico: own is 'halves': that needs 2 clips of each video or more")
  label = jnp.full(len(mean), -1, jnp.int32) if label is None else label
  scalars = jnp.stack([jnp.asarray(slope, jnp.float32), jnp.asarray(offset, jnp.float32)])
  rows = (mean.astype(jnp.float32), log_variance.astype(jnp.float32), keys, label)
  if mesh is None or mesh.size == 1:
    return _local(rows, scalars, settings, None)
  if len(mean) % mesh.size:
    raise UserError(f"provico: {len(mean)} videos don't split evenly over {mesh.size} devices")
  split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
  mapped = jax.shard_map(
    lambda rows, scalars: _local(rows, scalars, settings, parallel.AXIS),
    mesh=mesh,
    in_specs=(split, whole),
    out_specs=whole,
  )
  return mapped(rows, scalars)


def _local(rows, scalars, settings, axis):
  """The loss of the global batch, computed from this device's rows; the same on all devices."""
  mean, log_variance, keys, label = rows
  if axis is not None:
    # Add a zero that varies over the axis, so that JAX sums the gradients of replicated inputs.
    scalars += 0.0 * lax.axis_index(axis)
  slope, offset = scalars[0], scalars[1]
  everywhere = (lambda x: x) if axis is None else (lambda x: lax.psum(x, axis))
  videos = mean.shape[0] * (1 if axis is None else lax.axis_size(axis))

  center, variance = gaussian.mixture(mean, log_variance)
  k = settings.samples
  noise = gaussian.noise(keys, (2 if settings.own == "draws" else 3) * k, mean.shape[2])
  samples = gaussian.sample(noise[:, :k], center, variance)
  log_scale = gaussian.log_scalar(variance, settings.scalar)
  first, second, own_scale = _own(mean, log_variance, samples, log_scale, settings, noise[:, k:])

  compared = samples if settings.distance_on == "samples" else None
  unit = everywhere(jnp.sum(jnp.mean(jnp.log(variance), axis=1))) / videos
  gaussians = lax.stop_gradient(bhattacharyya.gaussians(center, variance, compared, log_unit=unit))
  mined = {"block_size": settings.block_size, "axis_name": axis}
  threshold = mining.thresholds(gaussians, settings.rule, **mined)

  # Without the stochastic weighting s = 1.
  scale = (lambda x: x) if settings.stochastic else jnp.zeros_like
  learned = match.Learned(samples, scale(log_scale), slope, offset)
  fixed = match.Fixed(gaussians, threshold, label, jnp.ones(2), settings.margin)
  apart = jax.vmap(lambda x, y: match.distances(x[None], y[None])[0, 0])(first, second)
  if settings.match == "softmax":
    own = match_softmax.log_match(apart, slope), scale(own_scale)
    total, stats = match_softmax.anchor_sum(learned, own, fixed, settings.rule, **mined)
    total, stats["soft"] = total / videos, stats["soft"] / videos
  else:
    fixed = fixed._replace(weight=_weights(videos, gaussians, threshold, settings, mined))
    total, stats = match.pair_sum(learned, fixed, settings.rule, **mined)
    soft = match.nll(apart, jnp.full(apart.shape[0], True), slope, offset)
    total += fixed.weight[0] * jnp.sum(match.stochastic(soft, scale(own_scale)))
    stats["soft"] += fixed.weight[0] * jnp.sum(soft)
    stats["right_own"] = jnp.sum(soft < jnp.log(2.0), dtype=jnp.float32)
  if settings.kl_on == "clip":
    kl = jnp.mean(gaussian.kl_to_standard(mean, log_variance), axis=1)
  else:
    kl = gaussian.kl_to_standard(center, jnp.log(variance))

  kl = settings.beta * jnp.sum(kl) / videos
  stats = {
    **stats,
    "own": jnp.full_like(total, len(mean)),
    "uncertainty": jnp.sum(variance) / videos,
    "uncertainty_predicted": jnp.sum(jnp.mean(jnp.exp(log_variance), axis=1)) / videos,
    "uncertainty_spread": jnp.sum(jnp.mean(jnp.square(mean - center[:, None]), axis=1)) / videos,
    "stochastic": total,
    "kl": kl,
  }
  loss, stats = everywhere((total + kl, lax.stop_gradient(stats)))
  return loss, _metrics(stats)


def _own(mean, log_variance, samples, log_scale, settings, noise):
  """Both sides of each video's pair with itself, `[N, K, D]`, and its log s_i s_i `[N]`."""
  k = settings.samples
  if settings.own == "draws":
    return samples, gaussian.sample(noise, *gaussian.mixture(mean, log_variance)), 2 * log_scale
  middle = mean.shape[1] // 2
  sides = []
  scale: jax.Array | float = 0.0
  for clips, draws in ((np.s_[:, :middle], noise[:, :k]), (np.s_[:, middle:], noise[:, k:])):
    center, variance = gaussian.mixture(mean[clips], log_variance[clips])
    sides.append(gaussian.sample(draws, center, variance))
    scale += gaussian.log_scalar(variance, settings.scalar)
  return *sides, scale


def _weights(videos, gaussians, threshold, settings, mined):
  """Weights of a positive and a negative pair `[2]`; over all N² ordered pairs they sum to 1."""
  if settings.average == "pairs":
    return jnp.full((2,), 1.0 / videos**2)
  positives = videos + mining.count(gaussians, threshold, settings.rule, **mined)
  negatives = videos**2 - positives
  # Without negatives the positives count fully.
  half = jnp.where(negatives > 0, 0.5, 1.0)
  return half / jnp.stack([positives, jnp.maximum(negatives, 1.0)])


def _metrics(stats):
  share = lambda part, whole: part / jnp.maximum(whole, 1.0)  # noqa: E731
  return {
    "loss_match": stats["soft"],
    "loss_stochastic": stats["stochastic"],
    "loss_kl": stats["kl"],
    "positives_per_anchor": stats["positives"] / stats["own"],
    "match_positive": share(
      stats["right_positives"] + stats["right_own"], stats["positives"] + stats["own"]
    ),
    "match_negative": share(stats["right_negatives"], stats["negatives"]),
    "mining_precision": share(stats["same_positives"], stats["labelled_positives"]),
    "mining_recall": share(stats["same_positives"], stats["same"]),
    **{name: x for name, x in stats.items() if name.startswith("uncertainty")},
  }


__getattr__ = former.names(__name__)
