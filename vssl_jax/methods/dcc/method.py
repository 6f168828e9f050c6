"""DCC: denoised cross-video contrast on BaS-Net, for actions learnt from video labels alone.

"Denoised Cross-Video Contrast for Weakly-supervised Temporal Action Localization" (CVPR 2022) on
Lee et al.'s BaS-Net (AAAI 2020). No code of DCC is public; what no source states is a field.

  X → BaS-Net     → w, CAS of both branches, embeddings
  CAS → scores    → L_base + L_supp + 1e-4 Σ w             the labels, see `losses.bas_net`
  CAS → Â         → k-means on the embeddings → S          pseudo-labels and what they are worth
  Â, S, embedding → M action and M background regions per class, kept in a memory of all videos
  regions         → β L_dcc                                see `losses.dcc`

Pseudo-labels come from activations without dropout. In the first `warmup` of the run β is 0 and the
projection rests, but the memory fills. Videos that an epoch's whole batches leave out enter the
memory before the next epoch, as the network then sees them. Nothing of DCC is used after training:
the suppression branch localizes.
"""

from __future__ import annotations

import functools
import pathlib
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
from vssl_jax.methods.base import Batch, Evaluator, Localizer, Loss, Method, Params
from vssl_jax.methods.dcc import inference, memory, pseudo_labels, report
from vssl_jax.models.bas_net import PARTS, SUPPRESSED, top_mean
from vssl_jax.models.build import DTYPES

UNDECISIVE = ("proposals", "label_names")  # of what is made of the activations
VALIDATION = "validation_mAP"  # logged at each checkpoint, where videos are held out
_ASSUMED = {"classes": 20, "videos": 200, "labels": 3, "width": 2048}  # where there is no data


class State(flax.struct.PyTreeNode):
  """The memory of all videos' regions, and the clusters of the whole data set, where it has such.

  Attributes:
    bank: V videos; full from the second epoch on.
    visited: bool `[V]`, which videos this epoch's batches have brought.
    centers: float32 `[K, d]`, or `[K, D]` where input features are clustered.
    shares: float32 `[K, C]`, of the snippets of each cluster that are pseudo-labelled as a class.
    epochs: int32, epochs begun.
  """

  bank: parts.Regions
  visited: jax.Array
  centers: jax.Array
  shares: jax.Array
  epochs: jax.Array


def defaults() -> ConfigDict:
  """Fields of `config.dcc`; those that neither the paper nor a review states are marked ours."""
  c = ConfigDict()
  c.hidden = 2048  # channels of the trunk
  c.filter = 512  # channels of the attention filter
  c.dim = 512  # d, width of the embedding
  c.dropout = 0.7
  c.dtype = "float32"  # of the products: float32 | bfloat16
  c.share = 8  # a video's score is the mean of its T / share largest activations
  c.sparsity = 1e-4  # weight of Σ w

  c.contrast = "bank"  # none (BaS-Net) | video | batch | bank
  c.denoise = True  # False: S = 1
  c.regions = 5  # M
  c.temperature = 0.1  # τ; ours
  c.keys_learn = True  # gradients to the batch's positives and negatives too; ours
  # Weight of L_dcc, linear from the end of the warm-up to that of the run; ours.
  c.beta = (0.1, 1.0)
  c.warmup = 0.2  # share of the run with β = 0; ours
  # What gives the pseudo-labels: suppressed | base, a branch, or annotated, the ground truth, which
  # tells what better ones could bring and needs config.data.localization.truth; ours.
  c.pseudo = "suppressed"
  c.embedding = "base"  # branch whose embeddings are contrasted: base | suppressed; ours

  c.clusters = 16  # K of a video, or K x C of the data set; ours
  c.cluster_scope = "video"  # video: at each visit | dataset: every `refresh` epochs; ours
  c.cluster_on = "embedding"  # embedding | features, the input; ours
  c.cluster_iterations = 10  # of Lloyd's algorithm; ours
  c.refresh = 1  # epochs

  c.classes = 0  # C; this and the next three are filled in from the data
  c.videos = 0  # V
  c.labels = 0  # most labels of a video, L
  c.width = 0  # D of the features
  c.label_names = ()  # filled in likewise

  c.timelines = 4  # videos drawn after training
  c.snippets = 1600  # of the t-SNE picture and the numbers behind it; 0 for neither

  c.protocol = "thumos14"  # tIoU 0.1 to 0.7 | activitynet: 0.5 to 0.95
  c.proposals = ConfigDict()  # see localization.proposals.ProposalSettings
  s = ProposalSettings()
  for name in ProposalSettings.__dataclass_fields__:
    c.proposals[name] = getattr(s, name)
  c.proposals.nms = 0.7  # tIoU
  c.proposals.sigma = 0.0  # above 0: soft suppression of this width instead
  return c


def resolve(config: ConfigDict, source: Source | None) -> ConfigDict:
  """Fills in the sizes that come from the data; without any, a data set like THUMOS14's.

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
  if config.data.localization.validation and not config.save.best:
    config.save.best, config.save.best_mode = VALIDATION, "max"
  return config


def build(config: ConfigDict, mesh: Mesh | None = None) -> Method:
  """DCC, or BaS-Net where `config.dcc.contrast` is none, for a resolved config.

  Args:
    config: `dcc`, `data` and the length of the run are read.
    mesh: the memory is split over its devices where they divide the videos.

  Raises:
    UserError: a field has an impossible value.
  """
  c = config.dcc
  _check(config)
  net = inference.network(config)
  contrasts = c.contrast != "none"

  def init(rng: jax.Array, batch: Batch) -> tuple[Params, State]:
    params = net.init(rng, batch["features"], jnp.ones(batch["mask"].shape, bool))["params"]
    videos = c.videos if c.contrast == "bank" else 1
    bank = parts.empty(videos, c.labels, c.regions, c.dim)
    centers = jnp.zeros((pseudo_labels.clusters(c), pseudo_labels.width(c)), jnp.float32)
    shares = jnp.zeros((pseudo_labels.clusters(c), c.classes), jnp.float32)
    return params, State(bank, jnp.zeros(videos, bool), centers, shares, jnp.int32(0))

  def loss(params: Params, state: State, batch: Batch, rng: jax.Array, step: jax.Array) -> Loss:
    del rng
    mask, labels = batch["mask"], batch["labels"]
    out: Any = net.apply({"params": params}, batch["features"], mask, batch["key"])
    scores = top_mean(out.cas, mask, c.share)
    base, suppressed = losses.classification(scores, labels)
    sparsity = losses.sparsity(out.attention)
    total = base + suppressed + c.sparsity * sparsity
    metrics = {
      "loss_base": base,
      "loss_suppressed": suppressed,
      "loss_sparsity": sparsity,
      "attention": sparsity / jnp.mean(jnp.sum(mask, axis=1)),
      "accuracy": _accuracy(scores[SUPPRESSED], labels),
    }
    if contrasts:
      fresh, trust = pseudo_labels.regions(c, out, batch, state)
      video = batch["video"]
      value, seen = parts.contrast(
        fresh,
        state.bank,
        video,
        temperature=c.temperature,
        scope=c.contrast,
        keys_learn=c.keys_learn,
      )
      weight = beta(config, step)
      total = total + weight * value
      if c.contrast == "bank":
        state = state.replace(
          bank=parts.remember(state.bank, fresh, video), visited=state.visited.at[video].set(True)
        )
      filled = jnp.mean(state.bank.classes[:, 0] >= 0, dtype=jnp.float32)
      metrics |= {"loss_dcc": value, "beta": weight, "bank_filled": filled, **seen, **trust}
    return total, (state, lax.stop_gradient(metrics))

  def update_mask(state: State, step: jax.Array) -> dict[str, Any]:
    # Before the contrast starts, weight decay alone would move the projection: to nothing, since
    # Adam takes steps of one size whatever the gradient's.
    del state
    starts = beta(config, step) > 0 if contrasts else jnp.bool_(False)
    return {part: starts if part == "projection" else True for part in PARTS}

  whole: Any = PartitionSpec()  # it stands where the state has an array
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
    update_mask=update_mask,
    on_epoch_start=on_epoch_start if refreshes else None,
    state_spec=State(bank, whole, whole, whole, whole),
  )


def evaluator(config: ConfigDict, mesh: Mesh | None = None) -> Evaluator:
  """Localization of a split, and of the videos held out; pictures; the network on new videos."""
  del mesh
  c = config.dcc
  activate = inference.activations(config)
  options = inference.options(config)

  def scores(params: Params, state: State, train: Source, test: Source) -> dict[str, Any]:
    del state, train
    return inference.localize(config, params, sequences_of(test), activate)

  def validate(params: Params, held_out: Source) -> dict[str, float]:
    found = inference.localize(config, params, sequences_of(held_out), activate)
    ((_, figures),) = found["headline"].items()
    return {VALIDATION: figures["trained"]}

  def write_report(
    params: Params, state: State, train: Source, test: Source, folder: pathlib.Path
  ) -> dict[str, Any]:
    split = sequences_of(test)
    predictions, _ = scores_lib.predict(functools.partial(activate, params), split, **options)
    return report.write(
      folder,
      inference.look(config, params, state),
      sequences_of(train),
      split,
      predictions,
      batch_size=options["batch_size"],
      videos=c.timelines,
      count=c.snippets,
    )

  localizer = Localizer(
    activate=lambda params: functools.partial(activate, params),
    look=functools.partial(inference.look, config),
    predict=options,
    protocol=c.protocol,
    label_names=tuple(c.label_names),
    width=c.width,
  )
  return Evaluator(scores, write_report, validate, localizer)


def beta(config: ConfigDict, step: jax.Array | int) -> jax.Array:
  """Weight of L_dcc at a step: 0 in the warm-up, then linear to the run's last step."""
  c = config.dcc
  total = config_lib.total_steps(config, config.steps_per_epoch or 1)
  first = round(c.warmup * total)
  at = (jnp.asarray(step, jnp.float32) - first) / max(total - 1 - first, 1)
  start, end = c.beta
  return jnp.where(at < 0, 0.0, start + (end - start) * jnp.clip(at, 0, 1))


def _accuracy(scores: jax.Array, labels: jax.Array) -> jax.Array:
  """Share of videos whose likeliest action is one of theirs."""
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
    "embedding": tuple(pseudo_labels.BRANCHES),
    "cluster_on": pseudo_labels.SPACES,
    "dtype": tuple(DTYPES),
    "protocol": tuple(scores_lib.TIOUS),
  }.items():
    if c[field] not in known:
      raise UserError(f"config.dcc.{field} is {c[field]!r}: choose one of {', '.join(known)}.")
  if c.pseudo == pseudo_labels.ANNOTATED and not config.data.localization.truth:
    raise UserError(
      "config.dcc.pseudo is 'annotated': that needs config.data.localization.truth=True."
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
      f"config.dcc.beta is {tuple(c.beta)}: give two weights, of the start and of the end."
    )
  inference.options(config)
  steps = config.data.frames
  for field, applies in {
    "regions": c.contrast != "none",
    "clusters": pseudo_labels.clusters_videos(c),
  }.items():
    if applies and c[field] > steps:
      raise UserError(
        f"config.dcc.{field} is {c[field]}: a video has config.data.frames = {steps} steps."
      )
