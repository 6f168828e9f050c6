"""DCC: learns to locate actions in time from video-level labels alone.

"Denoised Cross-Video Contrast for Weakly-supervised Temporal Action Localization" (CVPR 2022), on
top of BaS-Net (Lee et al., AAAI 2020). DCC's code is not public; whatever no source states is a
config field.

  X → BaS-Net     → w, CAS of both branches, embeddings
  CAS → scores    → L_base + L_supp + 1e-4 Σ w             video-level loss, see `losses.bas_net`
  CAS → Â         → k-means on the embeddings → S          pseudo-labels and their confidence
  Â, S, embedding → M action and M background regions per class, kept in a memory of all videos
  regions         → β L_dcc                                see `losses.dcc`

Pseudo-labels come from activations without dropout. During the warm-up (a share `warmup` of the
run) β is 0 and the projection is frozen, but the memory already fills. Videos in no batch of an
epoch are added to the memory before the next epoch, with the network of that time. After training,
nothing of DCC is needed: the suppression branch alone locates actions.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import config as config_lib
from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.localization import scores as scores_lib
from vssl_jax.localization.proposals import ProposalSettings
from vssl_jax.localization.source import sequences_of
from vssl_jax.losses import bas_net as losses
from vssl_jax.losses import dcc as parts
from vssl_jax.methods.base import Batch, Loss, Method, Params
from vssl_jax.methods.dcc import balance, inference, memory, pseudo_labels
from vssl_jax.methods.dcc.scoring import VALIDATION
from vssl_jax.models.bas_net import PARTS, SUPPRESSED, top_mean
from vssl_jax.models.build import DTYPES

# Used only after the activations are computed.
UNDECISIVE = ("proposals", "threshold_sets", "label_names")
_ASSUMED = {"classes": 20, "videos": 200, "labels": 3, "width": 2048}  # used without data


class State(flax.struct.PyTreeNode):
  """The memory of the regions of all videos, and the clusters of the whole data set.

  Attributes:
    bank: regions of V videos; complete from the second epoch on.
    visited: bool `[V]`, the videos that were in a batch of this epoch.
    centers: float32 `[K, d]`, or `[K, D]` if input features are clustered. Zeros if the data set is
      not clustered as a whole.
    shares: float32 `[K, C]`, share of snippets in each cluster with a pseudo-label of the class.
    epochs: int32, number of epochs started.
  """

  bank: parts.Regions
  visited: jax.Array
  centers: jax.Array
  shares: jax.Array
  epochs: jax.Array


class BalancedState(State):
  """The state where β is a ratio of gradients; a class of its own, so that older runs are read.

  Attributes:
    norms: float32 `[2]`, see `balance.follow`.
  """

  norms: jax.Array


def defaults() -> ConfigDict:
  """Fields of `config.dcc`; "ours" marks values that neither the paper nor a review states."""
  c = ConfigDict()
  c.hidden = 2048  # channels of the trunk
  c.filter = 512  # channels of the attention filter
  c.dim = 512  # d, width of the embedding
  c.dropout = 0.7
  c.dtype = "float32"  # precision of matrix products: float32 | bfloat16
  c.share = 8  # the score of a video is the mean of its T / share largest activations
  c.sparsity = 1e-4  # weight of the sparsity loss Σ w

  # Where positives and negatives come from: none (BaS-Net alone) | video (the same video) | batch |
  # bank (the memory of all videos).
  c.contrast = "bank"
  c.denoise = True  # True: weight pseudo-labels by their confidence S | False: S = 1
  c.regions = 5  # M, number of regions per video
  c.temperature = 0.1  # τ; ours
  c.keys_learn = True  # also pass gradients to the batch's positives and negatives; ours
  # β, the weight of L_dcc: from the first value after the warm-up, linearly, to the second value at
  # the end of the run; ours.
  c.beta = (0.1, 1.0)
  c.warmup = 0.2  # share of the run with β = 0; ours
  # What β is: none: the weight of L_dcc | log: the same, and the ratio of the two losses' gradients
  # is logged, which takes a second backward pass | gradients: that ratio, and the weight follows,
  # see methods.dcc.balance; ours.
  c.balance = "none"
  # Source of the pseudo-labels: suppressed | base (a branch of the network) | annotated (ground
  # truth, to measure the effect of perfect pseudo-labels; needs config.data.localization.truth);
  # ours.
  c.pseudo = "suppressed"
  # The activation that has to exceed its mean for Â = 1: logits | softmax, the probabilities among
  # all classes and background; ours.
  c.pseudo_of = "logits"
  c.embedding = "base"  # branch whose embeddings are contrasted: base | suppressed; ours

  c.clusters = 16  # K clusters per video, or K x C for the whole data set; ours
  # video: cluster each video whenever it is in a batch | dataset: cluster all videos together,
  # every `refresh` epochs; ours.
  c.cluster_scope = "video"
  c.cluster_on = "embedding"  # what is clustered: embedding | features (the input); ours
  c.cluster_iterations = 10  # iterations of k-means (Lloyd's algorithm); ours
  c.refresh = 1  # number of epochs between clusterings of the data set

  # The next five fields are filled in from the data.
  c.classes = 0  # C, number of classes
  c.videos = 0  # V, number of training videos
  c.labels = 0  # L, the largest number of labels of a video
  c.width = 0  # D, width of the features
  c.label_names = ()

  c.timelines = 4  # number of videos drawn after training
  c.snippets = 1600  # number of snippets in the t-SNE picture and its measurements; 0 for none

  c.protocol = "thumos14"  # thumos14: tIoU 0.1 to 0.7 | activitynet: tIoU 0.5 to 0.95
  c.proposals = ConfigDict()  # see localization.proposals.ProposalSettings
  s = ProposalSettings()
  for name in ProposalSettings.__dataclass_fields__:
    c.proposals[name] = getattr(s, name)
  c.proposals.nms = 0.7  # non-maximum suppression drops segments that overlap by this tIoU or more
  c.proposals.sigma = 0.0  # above 0: use soft suppression with this width instead
  # Sets of thresholds, each (first, last, step). The set with the best average mAP on the held-out
  # videos is used for the scores, chosen for each checkpoint; (): proposals.thresholds.
  c.threshold_sets = ()
  return c


def resolve(config: ConfigDict, source: Source | None) -> ConfigDict:
  """Fills in the sizes that come from the data; without data, sizes like those of THUMOS14.

  Raises:
    UserError: the source has no untrimmed videos with labels.
  """
  config = config.copy_and_resolve_references()
  c = config.dcc
  if source is None:
    c.update({k: v for k, v in _ASSUMED.items() if not c[k]})
    return config
  if not hasattr(source, "sequence"):
    raise UserError(
      f"config.data.source is {config.data.source}: dcc needs features of untrimmed videos; "
      "choose localization, untrimmed or stitched."
    )
  split = sequences_of(source)
  c.classes, c.videos = len(split.label_names), split.num_videos
  c.labels = max(1, *(len(v.labels) for v in split.videos))
  c.width, c.label_names = split.sequence(0).shape[1], split.label_names
  held = config.data.localization
  if (held.validation or held.validation_videos) and not config.save.best:
    config.save.best, config.save.best_mode = VALIDATION, "max"
  return config


def build(config: ConfigDict, mesh: Mesh | None = None) -> Method:
  """DCC for a resolved config, or BaS-Net if `config.dcc.contrast` is none.

  Args:
    config: `dcc`, `data` and the length of the run are read.
    mesh: the devices; the memory is sharded over them if their number divides that of the videos.

  Raises:
    UserError: a field has an impossible value.
  """
  c = config.dcc
  _check(config)
  net = inference.network(config)
  contrasts = c.contrast != "none"
  balanced = contrasts and c.balance == "gradients"

  def init(rng: jax.Array, batch: Batch) -> tuple[Params, State]:
    params = net.init(rng, batch["features"], jnp.ones(batch["mask"].shape, bool))["params"]
    videos = c.videos if c.contrast == "bank" else 1
    bank = parts.empty(videos, c.labels, c.regions, c.dim)
    centers = jnp.zeros((pseudo_labels.clusters(c), pseudo_labels.width(c)), jnp.float32)
    shares = jnp.zeros((pseudo_labels.clusters(c), c.classes), jnp.float32)
    first = bank, jnp.zeros(videos, bool), centers, shares, jnp.int32(0)
    return params, BalancedState(*first, jnp.zeros(2)) if balanced else State(*first)

  def terms(params: Params, state: State, batch: Batch, step: jax.Array) -> balance.Terms:
    mask, labels = batch["mask"], batch["labels"]
    out: Any = net.apply({"params": params}, batch["features"], mask, batch["key"])
    scores = top_mean(out.cas, mask, c.share)
    base, suppressed = losses.classification(scores, labels)
    sparsity = losses.sparsity(out.attention)
    total, value = base + suppressed + c.sparsity * sparsity, jnp.float32(0)
    metrics = {
      "loss_base": base,
      "loss_suppressed": suppressed,
      "loss_sparsity": sparsity,
      "attention": sparsity / jnp.mean(jnp.sum(mask, axis=1)),
      "accuracy": _accuracy(scores[SUPPRESSED], labels),
    }
    if contrasts:
      fresh, trust = pseudo_labels.regions(c, out, batch, state, mesh)
      video = batch["video"]
      value, seen = parts.contrast(
        fresh,
        state.bank,
        video,
        temperature=c.temperature,
        scope=c.contrast,
        keys_learn=c.keys_learn,
      )
      if c.contrast == "bank":
        state = state.replace(
          bank=parts.remember(state.bank, fresh, video), visited=state.visited.at[video].set(True)
        )
      filled = jnp.mean(state.bank.classes[:, 0] >= 0, dtype=jnp.float32)
      weight = beta(config, step)
      metrics |= {"loss_dcc": value, "beta": weight, "bank_filled": filled, **seen, **trust}
    return (total, value), (state, lax.stop_gradient(metrics))

  def loss(params: Params, state: State, batch: Batch, rng: jax.Array, step: jax.Array) -> Loss:
    del rng
    (total, value), kept = terms(params, state, batch, step)
    return total + (beta(config, step) * value if contrasts else 0), kept

  def grads(
    params: Params, state: State, batch: Batch, rng: jax.Array, step: jax.Array
  ) -> tuple[Loss, Params]:
    del rng
    return balance.value_and_grad(
      functools.partial(terms, state=state, batch=batch, step=step), params, beta(config, step)
    )

  def update_mask(state: State, step: jax.Array) -> dict[str, Any]:
    # Before the contrast starts, only weight decay would change the projection. Adam's step size
    # does not depend on the size of the gradient, so the projection would shrink to zero.
    del state
    starts = beta(config, step) > 0 if contrasts else jnp.bool_(False)
    return {part: starts if part == "projection" else True for part in PARTS}

  whole: Any = PartitionSpec()  # a spec for one array of the state
  splits = mesh is not None and c.contrast == "bank" and c.videos % mesh.size == 0
  bank: Any = PartitionSpec(parallel.AXIS) if splits else whole
  refreshes = []
  if c.contrast == "bank" and c.videos % config.batch_size:
    refreshes.append(memory.refill(config, net))
  if pseudo_labels.clusters_dataset(c):
    refreshes.append(memory.recluster(config, net, mesh))

  def on_epoch_start(params: Params, state: State, source: Source) -> tuple[Params, State]:
    for each in refreshes:
      state = each(params, state, sequences_of(source))
    return params, state.replace(epochs=state.epochs + 1)

  return Method(
    init,
    None,
    _batch_spec(config),
    loss=loss,
    grads=grads if contrasts and c.balance != "none" else None,
    update_mask=update_mask,
    on_epoch_start=on_epoch_start if refreshes else None,
    state_spec=BalancedState(bank, *[whole] * 5) if balanced else State(bank, *[whole] * 4),
  )


def beta(config: ConfigDict, step: jax.Array | int) -> jax.Array:
  """Weight of L_dcc at a step: 0 during the warm-up, then linear until the last step of the run."""
  c = config.dcc
  total = config_lib.total_steps(config, config.steps_per_epoch or 1)
  first = round(c.warmup * total)
  at = (jnp.asarray(step, jnp.float32) - first) / max(total - 1 - first, 1)
  start, end = c.beta
  return jnp.where(at < 0, 0.0, start + (end - start) * jnp.clip(at, 0, 1))


def _accuracy(scores: jax.Array, labels: jax.Array) -> jax.Array:
  """Share of videos whose most likely class is one of their labels."""
  best = jnp.argmax(scores[:, :-1], axis=1)
  return jnp.mean(jnp.take_along_axis(labels, best[:, None], axis=1))


def _batch_spec(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
  c, t = config.dcc, config.data.frames
  spec = {
    "features": jax.ShapeDtypeStruct((t, c.width), jnp.float32),
    "mask": jax.ShapeDtypeStruct((t,), jnp.bool_),
    "labels": jax.ShapeDtypeStruct((c.classes,), jnp.float32),
  }
  if c.pseudo == pseudo_labels.ANNOTATED:
    spec["truth"] = jax.ShapeDtypeStruct((t, c.classes), jnp.bool_)
  return spec


def _check(config: ConfigDict) -> None:
  c = config.dcc
  for field, known in {
    "contrast": ("none", *parts.SCOPES),
    "cluster_scope": ("video", "dataset"),
    "pseudo": (*pseudo_labels.BRANCHES, pseudo_labels.ANNOTATED),
    "pseudo_of": pseudo_labels.SCALES,
    "embedding": tuple(pseudo_labels.BRANCHES),
    "cluster_on": pseudo_labels.SPACES,
    "balance": balance.CHOICES,
    "dtype": tuple(DTYPES),
    "protocol": tuple(scores_lib.TIOUS),
  }.items():
    if c[field] not in known:
      raise UserError(f"config.dcc.{field} is {c[field]!r}: choose one of {', '.join(known)}.")
  if c.pseudo == pseudo_labels.ANNOTATED and not config.data.localization.truth:
    raise UserError(
      "config.dcc.pseudo is 'annotated': it needs the ground truth; set "
      "config.data.localization.truth=True."
    )
  sizes = ("hidden", "filter", "dim", "share", "regions", "clusters", "refresh")
  for field in (*sizes, "classes", "videos", "labels", "width", "temperature"):
    if not c[field] > 0:
      raise UserError(f"config.dcc.{field} is {c[field]}: it must be positive.")
  for field, top in {"dropout": 1, "warmup": 1}.items():
    if not 0 <= c[field] < top:
      raise UserError(f"config.dcc.{field} is {c[field]}: it must lie in [0, 1).")
  if len(c.beta) != 2 or min(c.beta) < 0:
    raise UserError(
      f"config.dcc.beta is {tuple(c.beta)}: give two weights ≥ 0, for the start and for the end."
    )
  inference.options(config)
  held = config.data.localization
  if inference.threshold_sets(config) and not (held.validation or held.validation_videos):
    raise UserError(
      "config.dcc.threshold_sets: thresholds are chosen on held-out videos; hold out a share of "
      "the training videos, config.data.localization.validation."
    )
  steps = config.data.frames
  for field, applies in {
    "regions": c.contrast != "none",
    "clusters": pseudo_labels.clusters_videos(c),
  }.items():
    if applies and c[field] > steps:
      raise UserError(
        f"config.dcc.{field} is {c[field]}: a video has only config.data.frames = {steps} steps; "
        "use at most that many."
      )
