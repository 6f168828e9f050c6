"""ProViCo: Probabilistic Representations for Video Contrastive Learning (Park et al., CVPR 2022).

Each clip is a Gaussian and each video is the mixture of its clips. The positives of a video are the
video itself and other videos at a small Bhattacharyya distance. The soft contrastive loss of each
pair is weighted by the uncertainty of its two videos:

  clip n → encoder → μ_n = L2(LN(FC)), log σ_n² = FC'
  video  → μ(V) = mean μ_n,  σ²(V) = mean (σ_n² + μ_n²) − μ(V)²,  K samples z = σ(V) ⊙ ε + μ(V)
  mining → (i, j) is positive if dist(V_i, V_j) < τ, without gradient
  loss   → L_soft / (s_i s_j) + ½ log(s_i s_j) over all pairs, + β KL(N(μ_n, σ_n²) ‖ N(0, I))

`losses.provico` and `ops.bhattacharyya` define the terms.
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import augment, models
from vssl_jax.errors import UserError
from vssl_jax.losses.provico import LossSettings, provico
from vssl_jax.methods import multiclip, network
from vssl_jax.methods.base import (
  Batch,
  Evaluator,
  Gaussians,
  Loss,
  Method,
  Metrics,
  Params,
  Variables,
)
from vssl_jax.models.gaussian_head import GaussianHead
from vssl_jax.ops import bhattacharyya
from vssl_jax.ops.mining import Rule
from vssl_jax.probes import features
from vssl_jax.probes import gaussian as gaussian_probe
from vssl_jax.probes.views import Source

Embeddings = dict[str, jax.Array]  # mean, log_variance [N, R, D]
PARAMETRIZATIONS = ("value", "log")


class State(flax.struct.PyTreeNode):
  """Batch-norm running statistics, all that is kept from step to step besides the parameters."""

  stats: Variables


def defaults() -> ConfigDict:
  """Fields of `config.provico`; the paper states only β, all other values are ours."""
  c = ConfigDict()
  c.samples = 8  # K, number of samples per video
  c.beta = 1e-4  # β, weight of KL(N(μ, σ²) ‖ N(0, I)), published; 0 switches it off
  c.kl_on = "clip"  # the Gaussians in the KL term: clip | video
  # How a video forms a pair with itself: draws (two independent draws, as published) | halves (of
  # its clips). Draws come near where variances shrink, halves only where clips do.
  c.own = "draws"
  # How other positives are chosen: quantile (the nearest pairs of the batch) | absolute (distance
  # below τ) | top_k (nearest videos of each video) | none (only each video with itself).
  c.mining = "quantile"
  c.threshold = 0.05  # for quantile: share of the pairs | for absolute: τ | for top_k: k
  c.combine = "union"  # top_k: union (either video chooses the other) | mutual (both do)
  c.distance = 0.25  # λ, weight of the quadratic term; ¼ gives the Bhattacharyya distance
  # What distances are computed from: samples (published) | moments. Samples add λ D on average; an
  # absolute τ must allow for that.
  c.distance_on = "samples"
  c.form = "diagonal"  # diagonal (D dimensions) | reviewed (the one-dimensional formula)
  c.stochastic = True  # True: weight L_soft by the uncertainties | False: L_soft alone
  c.scalar = "trace"  # how σ² becomes one number for the weights: trace | geometric | mean
  # pairs: all pairs count equally | classes: positives and negatives make up half the loss each.
  c.average = "pairs"
  # A pair matches with probability p = s(b − a ‖z − z'‖); a and b are learned, and p = ½ at the
  # distance b / a. At first, two draws of one video are √2 apart and unrelated videos are 2 apart.
  # With b = a no pair would match, and σ would settle where no pair ever matches.
  c.slope = 30.0  # a at the start
  c.offset = 45.0  # b at the start
  # What the optimizer moves: value (a and b; 1,000 steps of AdamW at 1e-3 move b = 45 by hardly
  # more than 1) | log (their logarithms, so that a step is relative; for AdamW, not for SGD, whose
  # steps of log b would move b by b² times as much).
  c.parametrization = "value"
  # b of negative pairs is b + margin, so that p = ½ at (b + margin) / a: negatives are pushed
  # further than positives are pulled. It is not learned: two offsets that are learned apart would
  # each go to where its pairs cost nothing. 0 as published.
  c.margin = 0.0
  # sigmoid (published) | softmax: the distributions of the batch compete, as in InfoNCE, and b has
  # no effect; ours, see `losses.match_softmax`.
  c.match = "sigmoid"
  c.trace = 1.0  # Σ_d σ_d² of a clip at the start
  # Least and largest log σ². β keeps log σ² near log(β/2 · Σσ²(V)), about −12; with a higher lower
  # limit it would stay at that limit.
  c.clamp = (-16.0, 4.0)
  c.statistics = "clip"  # batch norm statistics: clip (each clip index separately) | joint (all)
  c.block_size = 64  # videos per side of a tile; a tile has (K block_size)² distances
  return c


def settings(config: ConfigDict) -> LossSettings:
  """The settings of the loss, from `config.provico`.

  Raises:
    UserError: a field has an impossible value.
  """
  c = config.provico
  try:
    rule = Rule(c.mining, c.threshold, c.combine, c.distance, c.form)
    return LossSettings(
      samples=c.samples,
      match=c.match,
      margin=c.margin,
      own=c.own,
      distance_on=c.distance_on,
      scalar=c.scalar,
      stochastic=c.stochastic,
      average=c.average,
      beta=c.beta,
      kl_on=c.kl_on,
      block_size=c.block_size,
      rule=rule,
    )
  except UserError as e:
    raise UserError(f"config.provico.{e}") from e


def build(config: ConfigDict, mesh: Mesh | None = None) -> Method:
  """ProViCo for a resolved config.

  Args:
    config: `provico`, `encoder`, `head`, `augment` and `data` are read; D is `head.out`.
    mesh: the devices; samples and moments (never distances) are gathered over its axis.

  Raises:
    UserError: a field has an impossible value.
  """
  c = config.provico
  chosen = settings(config)
  clips = multiclip.build(config, c, mesh)
  multiclip.positive(config, c, "slope", "trace")
  multiclip.choose(config, c, "parametrization", PARAMETRIZATIONS)
  if c.parametrization == "log":
    multiclip.positive(config, c, "offset")
  low, high = c.clamp
  start = math.log(c.trace / config.head.out)
  if not low < start < high:
    raise UserError(
      f"config.provico.clamp is {tuple(c.clamp)}: log σ² starts at log(trace / D) = {start:.2f}; "
      "choose a range that contains it."
    )
  if high - low > bhattacharyya.RANGE:
    raise UserError(
      f"config.provico.clamp is {tuple(c.clamp)}: distances are exact only within a range of "
      f"{bhattacharyya.RANGE:g} of log σ²; choose a narrower one."
    )
  if config.head.out_bn:
    raise UserError("config.head.out_bn is True: provico uses a layer norm there; set it to False.")
  net = _network(config, mesh)

  def init(rng: jax.Array, batch: Batch) -> tuple[Params, State]:
    params, stats = net.init(rng, batch["clips"][:, 0])
    return {**params, "match": encode_match(c.slope, c.offset, c.parametrization)}, State(stats)

  def embed(params: Params, state: State, batch: Batch) -> tuple[Embeddings, State]:
    e, stats = clips.forward(net, params, state.stats, batch)
    return e, State(stats)

  def objective(
    params: Params, state: State, e: Embeddings, batch: Batch, rng: jax.Array, step: jax.Array
  ) -> Loss:
    del rng, step
    slope, offset = decode_match(params["match"], c.parametrization)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, clips.count))(batch["key"])
    loss, metrics = provico(
      e["mean"], e["log_variance"], keys, slope, offset, batch["label"], chosen, mesh
    )
    watched = {**metrics, "slope": slope, "offset": offset, **monitors(e["log_variance"], c.clamp)}
    return multiclip.finish(loss, lax.stop_gradient(watched), state, e["mean"])

  def encoder_variables(params: Params, state: State) -> Variables:
    return net.encoder_variables(params, state.stats)

  return Method(
    init,
    encoder_variables,
    {"clips": clips.spec},
    embed=embed,
    objective=objective,
  )


def encode_match(slope: float, offset: float, parametrization: str) -> dict[str, jax.Array]:
  """The parameters that stand for a > 0 and b; `decode_match` is the inverse."""
  if parametrization == "log":
    return {"slope": jnp.float32(math.log(slope)), "offset": jnp.float32(math.log(offset))}
  inverse = slope + math.log(-math.expm1(-slope))  # softplus of it is `slope`
  return {"slope": jnp.float32(inverse), "offset": jnp.float32(offset)}


def decode_match(match: Params, parametrization: str) -> tuple[jax.Array, jax.Array]:
  """From the parameters, a = softplus(·) and b itself, or the exponentials of both."""
  if parametrization == "log":
    return jnp.exp(match["slope"]), jnp.exp(match["offset"])
  return jax.nn.softplus(match["slope"]), match["offset"]


def evaluator(config: ConfigDict, mesh: Mesh | None = None) -> Evaluator:
  """Retrieval with the Gaussians: by mean, by Bhattacharyya distance, and by uncertainty."""
  gaussians = Gaussians(clip_gaussians(config), network_variables, settings(config))

  def scores(params: Params, state: State, train: Source, test: Source) -> dict[str, Any]:
    variables = network_variables(params, state)
    bank, queries = (
      gaussian_probe.extract(gaussians.apply, variables, source, config, mesh=mesh)
      for source in (train, test)
    )
    return {"retrieval": gaussian_probe.evaluate(bank, queries), "headline": {}}

  return Evaluator(scores=scores, gaussians=gaussians)


def _network(config: ConfigDict, mesh: Mesh | None = None) -> network.Network:
  c, h = config.provico, config.head
  head = GaussianHead(
    h.out,
    tuple(h.hidden),
    c.trace,
    tuple(c.clamp),
    h.bn_momentum,
    h.bn_groups,
    h.get("bn", True),
    models.DTYPES[config.encoder.dtype],
    models.DTYPES[config.encoder.reduce_dtype],
  )
  return network.Network(models.build_encoder(config.encoder, mesh), head)


def clip_gaussians(config: ConfigDict) -> features.Apply:
  """`(variables, clips uint8 [B, T, H, W, C]) -> [B, 2D]`: μ, then log σ²; frozen batch norm."""
  net, preprocess = _network(config), augment.eval_preprocess(config.augment, config.data.channels)

  def describe(variables: features.Variables, raw: jax.Array) -> jax.Array:
    x: Any = net.encoder.apply(variables["encoder"], preprocess(raw), train=False)
    e: Any = net.head.apply(variables["head"], x, train=False)
    return jnp.concatenate([e["mean"], e["log_variance"]], axis=1)

  return describe


def network_variables(params: Params, state: State) -> Variables:
  """The variables that `clip_gaussians` takes, from the parameters and state of a run."""
  return {
    name: {"params": params[name], "batch_stats": state.stats[name]} for name in ("encoder", "head")
  }


def monitors(log_variance: jax.Array, clamp: tuple[float, float]) -> Metrics:
  """Range and mean of the clips' log σ², and the share of it at each end of the clamp."""
  low, high = clamp
  return {
    "log_variance_min": jnp.min(log_variance),
    "log_variance_mean": jnp.mean(log_variance),
    "log_variance_max": jnp.max(log_variance),
    "log_variance_at_low": jnp.mean(log_variance <= low, dtype=jnp.float32),
    "log_variance_at_high": jnp.mean(log_variance >= high, dtype=jnp.float32),
  }
