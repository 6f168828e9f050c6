"""DCC: denoised cross-video contrast on BaS-Net, for actions learnt from video labels alone.

"Denoised Cross-Video Contrast for Weakly-supervised Temporal Action Localization" (CVPR 2022) on
Lee et al.'s BaS-Net (AAAI 2020). No code of DCC is public; what no source states is a field.

  X → BaS-Net     → w, CAS of both branches, embeddings
  CAS → scores    → L_base + L_supp + 1e-4 Σ w             the labels, see `losses.bas_net`
  CAS → Â         → k-means on the embeddings → S          pseudo-labels and what they are worth
  Â, S, embedding → M action and M background regions a class, kept in a memory of all videos
  regions         → β L_dcc                                see `losses.dcc`

Pseudo-labels come from activations without dropout. In the first `warmup` of the run β is 0, but
the memory fills. Videos that an epoch's whole batches leave out enter the memory before the next
epoch, as the network then sees them. Nothing of DCC is used after training: the suppression branch
localizes.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.localization import evaluate as evaluation
from vssl_jax.localization import illustrate as pictures
from vssl_jax.localization import infer
from vssl_jax.localization.observe import Look
from vssl_jax.localization.proposals import Settings
from vssl_jax.losses import bas_net as losses
from vssl_jax.losses import dcc as parts
from vssl_jax.methods.base import Batch, Loss, Method, Params
from vssl_jax.models.bas_net import BASE, SUPPRESSED, Activations, BasNet, top_mean
from vssl_jax.models.build import DTYPES
from vssl_jax.ops.kmeans import kmeans, plus_plus
from vssl_jax.ops.sphere import unit

BRANCHES = {"base": BASE, "suppressed": SUPPRESSED}
VALIDATION = "validation_mAP"  # logged at each checkpoint, where videos are held out
_ASSUMED = {"classes": 20, "videos": 200, "labels": 3, "width": 2048}  # where there is no data


@flax.struct.dataclass
class State:
  """The memory of all videos' regions, and the clusters of the whole data set, where it has such.

  Attributes:
    bank: V videos; full after each epoch.
    visited: bool `[V]`, which videos this epoch's batches have brought.
    centers: float32 `[K, d]`.
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
  c.pseudo = "suppressed"  # branch that gives the pseudo-labels: suppressed | base; ours
  c.embedding = "base"  # branch whose embeddings are contrasted: base | suppressed; ours

  c.clusters = 16  # K; ours
  c.cluster_scope = "video"  # video: at each visit | dataset: every `refresh` epochs; ours
  c.cluster_iterations = 10  # of Lloyd's algorithm; ours
  c.refresh = 1  # epochs

  c.classes = 0  # C; this and the next three are filled in from the data
  c.videos = 0  # V
  c.labels = 0  # most labels of a video, L
  c.width = 0  # D of the features

  c.timelines = 4  # videos drawn after training
  c.snippets = 1600  # of the t-SNE picture and the numbers behind it; 0 for neither

  c.protocol = "thumos14"  # tIoU 0.1 to 0.7 | activitynet: 0.5 to 0.95
  c.proposals = ConfigDict()  # see localization.proposals.Settings
  s = Settings()
  for name in Settings.__dataclass_fields__:
    c.proposals[name] = getattr(s, name)
  c.proposals.nms = 0.7  # tIoU
  c.proposals.sigma = 0.0  # above 0: soft suppression of this width instead
  return c


def resolve(config: ConfigDict, source: Any) -> ConfigDict:
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
  c.classes, c.videos = len(source.label_names), source.num_videos
  c.labels = max(1, *(len(v.labels) for v in source.videos))
  c.width = source.sequence(0).shape[1]
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
  net = BasNet(c.classes, c.hidden, c.filter, c.dim, c.dropout, DTYPES[c.dtype])
  contrasts = c.contrast != "none"
  activate = infer.activations(config)

  def init(rng: jax.Array, batch: Batch) -> tuple[Params, State]:
    params = net.init(rng, batch["features"], jnp.ones(batch["mask"].shape, bool))["params"]
    videos = c.videos if c.contrast == "bank" else 1
    bank = parts.empty(videos, c.labels, c.regions, c.dim)
    centers = jnp.zeros((c.clusters, c.dim), jnp.float32)
    shares = jnp.zeros((c.clusters, c.classes), jnp.float32)
    return params, State(bank, jnp.zeros(videos, bool), centers, shares, jnp.int32(0))

  def loss(params: Params, state: State, batch: Batch, rng: jax.Array, step: jax.Array) -> Loss:
    del rng
    mask, labels = batch["mask"], batch["labels"]
    out = net.apply({"params": params}, batch["features"], mask, batch["key"])
    scores = top_mean(out.cas, mask, c.share)
    base, suppressed = losses.classification(scores, labels)
    sparsity = losses.sparsity(out.attention)
    total = base + suppressed + c.sparsity * sparsity
    metrics = {
      "loss_base": base, "loss_suppressed": suppressed, "loss_sparsity": sparsity,
      "attention": sparsity / jnp.mean(jnp.sum(mask, axis=1)),
      "accuracy": _accuracy(scores[SUPPRESSED], labels),
    }  # fmt: skip
    if contrasts:
      fresh, trust = _denoised(c, out, batch, state)
      video = batch["video"]
      value, seen = parts.contrast(
        fresh, state.bank, video,
        temperature=c.temperature, scope=c.contrast, keys_learn=c.keys_learn,
      )  # fmt: skip
      weight = beta(config, step)
      total = total + weight * value
      if c.contrast == "bank":
        state = state.replace(
          bank=parts.remember(state.bank, fresh, video), visited=state.visited.at[video].set(True)
        )
      filled = jnp.mean(state.bank.classes[:, 0] >= 0, dtype=jnp.float32)
      metrics |= {"loss_dcc": value, "beta": weight, "bank_filled": filled, **seen, **trust}
    return total, (state, lax.stop_gradient(metrics))

  def evaluate(params: Params, state: State, train: Any, test: Any) -> dict[str, Any]:
    del state, train
    return infer.localize(config, params, test, activate)

  def validate(params: Params, held_out: Any) -> dict[str, float]:
    ((_, figures),) = infer.localize(config, params, held_out, activate)["headline"].items()
    return {VALIDATION: figures["trained"]}

  def illustrate(
    params: Params, state: State, train: Any, test: Any, folder: pathlib.Path
  ) -> dict[str, Any]:
    options = infer.options(config)
    found = functools.partial(activate, params)
    predictions, _ = evaluation.predict(found, test, **options)
    return pictures.write(
      folder, _look(config, net, params, state), train, test, predictions,
      batch_size=options["batch_size"], videos=c.timelines, count=c.snippets,
    )  # fmt: skip

  whole = PartitionSpec()
  splits = mesh is not None and c.contrast == "bank" and c.videos % mesh.size == 0
  bank = PartitionSpec(parallel.AXIS) if splits else whole
  refreshes = []
  if c.contrast == "bank" and c.videos % config.batch_size:
    refreshes.append(_refill(config, net))
  if contrasts and c.denoise and c.cluster_scope == "dataset":
    refreshes.append(_refresh(config, net))

  def refresh(params: Params, state: State, source: Any) -> tuple[Params, State]:
    for each in refreshes:
      state = each(params, state, source)
    return params, state.replace(epochs=state.epochs + 1)

  return Method(
    init,
    None,
    _batch_spec(config),
    loss=loss,
    refresh=refresh if refreshes else None,
    state_spec=State(bank, whole, whole, whole, whole),
    evaluate=evaluate,
    illustrate=illustrate,
    validate=validate,
  )


def beta(config: ConfigDict, step: jax.Array | int) -> jax.Array:
  """Weight of L_dcc at a step: 0 in the warm-up, then linear to the run's last step."""
  c = config.dcc
  total = config_lib.total_steps(config, config.steps_per_epoch or 1)
  first = round(c.warmup * total)
  at = (jnp.asarray(step, jnp.float32) - first) / max(total - 1 - first, 1)
  start, end = c.beta
  return jnp.where(at < 0, 0.0, start + (end - start) * jnp.clip(at, 0, 1))


def _denoised(
  c: ConfigDict, out: Activations, batch: Batch, state: State
) -> tuple[parts.Regions, dict[str, jax.Array]]:
  """The batch's denoised regions, and what is to be watched of them."""
  mask, x = batch["mask"], out.embedding[BRANCHES[c.embedding]]
  classes, pseudo = _pseudo(c, out, batch)
  trust = jnp.ones(pseudo.shape, jnp.float32)
  if c.denoise:
    trust = _trust(c, out, pseudo, classes, batch, state)
  real = (classes >= 0)[:, None, :] & mask[..., None]
  count = jnp.maximum(jnp.sum(real), 1)
  watched = {
    "pseudo_share": jnp.sum(pseudo & real) / count,
    "confidence": jnp.sum(jnp.where(real, trust, 0)) / count,
  }
  return parts.pool(x, pseudo, trust, classes, mask, c.regions), watched


def _pseudo(c: ConfigDict, out: Activations, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Each video's classes `[N, L]` and their pseudo-labels `[N, T, L]`."""
  classes = parts.slots(batch["labels"], c.labels)
  cas = parts.at_slots(out.clean[BRANCHES[c.pseudo]], classes)
  return classes, parts.pseudo_labels(cas, batch["mask"])


def _trust(
  c: ConfigDict, out: Activations, pseudo: jax.Array, classes: jax.Array, batch: Batch, state: State
) -> jax.Array:
  """What each pseudo-label is believed, `[N, T, L]`: S."""
  mask = batch["mask"]
  points = unit(lax.stop_gradient(out.embedding[BRANCHES[c.embedding]]))
  if c.cluster_scope == "video":
    clusters = _cluster_videos(c, points, mask, batch["key"])
    share = parts.shares(clusters, pseudo, c.clusters)
  else:
    n, t, dim = points.shape
    found = kmeans(points.reshape(-1, dim), state.centers, iterations=0, mask=mask.reshape(-1))
    clusters = found.labels.reshape(n, t)
    share = jnp.moveaxis(state.shares[:, jnp.maximum(classes, 0)], 0, 1)  # [N, K, L]
  return parts.confidence(clusters, pseudo, share)


def _keys(seed: int, videos: jax.Array) -> jax.Array:
  """A key for each video `[N]` outside of the steps, which give keys of their own."""
  return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(videos)


def _cluster_videos(c: ConfigDict, x: jax.Array, mask: jax.Array, keys: jax.Array) -> jax.Array:
  """Each video's clusters int32 `[N, T]`, −1 in padding, of points `[N, T, d]`."""

  def one(key: jax.Array, x: jax.Array, mask: jax.Array) -> jax.Array:
    centers = plus_plus(jax.random.fold_in(key, 2), x, c.clusters, mask=mask)
    return kmeans(x, centers, iterations=c.cluster_iterations, mask=mask).labels

  return jax.vmap(one)(keys, x, mask)


def _refill(config: ConfigDict, net: BasNet) -> Callable[..., State]:
  """Puts the videos that the last epoch's batches left out into the memory.

  They are fewer than a batch. Which they are and what is remembered is a function of the state and
  the parameters, so that a run that goes on from here does the same.
  """

  @jax.jit
  def fill(params: Params, state: State, batch: Batch) -> parts.Regions:
    out = net.apply({"params": params}, batch["features"], batch["mask"])
    fresh, _ = _denoised(config.dcc, out, batch, state)
    return parts.remember(state.bank, fresh, batch["video"])

  def refill(params: Params, state: State, source: Any) -> State:
    left = np.flatnonzero(~np.asarray(state.visited))
    if int(state.epochs) and len(left):
      left = np.resize(left, -(-len(left) // config.batch_size) * config.batch_size)
      for videos in left.reshape(-1, config.batch_size):
        examples = [source.eval_example(int(v)) for v in videos]
        batch = {k: np.stack([e[k] for e in examples]) for k in ("features", "mask", "labels")}
        batch |= {"video": videos, "key": _keys(config.seed, videos)}
        state = state.replace(bank=fill(params, state, batch))
    return state.replace(visited=jnp.zeros_like(state.visited))

  return refill


def _refresh(config: ConfigDict, net: BasNet) -> Callable[..., State]:
  """Clusters the snippets of the whole training split anew, every `refresh` epochs."""
  c = config.dcc

  @jax.jit
  def describe(params: Params, batch: Batch) -> dict[str, jax.Array]:
    out = net.apply({"params": params}, batch["features"], batch["mask"])
    classes, pseudo = _pseudo(c, out, batch)
    return {
      "x": unit(out.embedding[BRANCHES[c.embedding]]), "classes": classes,
      "pseudo": pseudo & (classes >= 0)[:, None, :],
    }  # fmt: skip

  cluster = jax.jit(functools.partial(kmeans, iterations=c.cluster_iterations))
  start = jax.jit(functools.partial(plus_plus, k=c.clusters))

  def survey(params: Params, source: Any) -> Iterator[dict[str, np.ndarray]]:
    for batch in source.eval_batches(config.batch_size):
      given = {k: batch[k] for k in ("features", "mask", "labels")}
      rows = evaluation.gather(
        {**jax.device_get(describe(params, given)), "mask": batch["mask"], "valid": batch["valid"]}
      )
      yield {k: x[rows["valid"]] for k, x in rows.items()}

  def refresh(params: Params, state: State, source: Any) -> State:
    if int(state.epochs) % c.refresh:
      return state
    local = jax.device_get(params)
    found = list(survey(local, source))
    seen = {k: np.concatenate([rows[k] for rows in found]) for k in found[0]}
    points, mask = seen["x"].reshape(-1, c.dim), seen["mask"].reshape(-1)
    centers = np.asarray(state.centers)
    if not centers.any():
      centers = start(jax.random.key(config.seed), points, mask=mask)
    clusters = cluster(points, centers, mask=mask)
    labels = np.asarray(clusters.labels).reshape(seen["mask"].shape)
    positive = np.zeros((c.clusters, c.classes), np.float32)
    v, t, slot = np.nonzero(seen["pseudo"])
    np.add.at(positive, (labels[v, t], seen["classes"][v, slot]), 1)
    counts = np.maximum(np.asarray(clusters.counts), 1)[:, None]
    return state.replace(centers=clusters.centers, shares=jnp.asarray(positive / counts))

  return refresh


def _look(config: ConfigDict, net: BasNet, params: Params, state: State) -> Look:
  """What the network makes of each step, pseudo-labels as training would have them."""
  c = config.dcc

  @jax.jit
  def look(params: Params, state: State, batch: Batch) -> dict[str, Any]:
    batch = {**batch, "key": _keys(config.seed, batch["video"])}
    out = net.apply({"params": params}, batch["features"], batch["mask"])
    classes, pseudo = _pseudo(c, out, batch)
    branch = BRANCHES[c.embedding]
    given, trunk, contrasted = pictures.SPACES
    spaces = {given: batch["features"], trunk: out.trunk[branch].astype(jnp.float32)}
    if c.contrast != "none":
      spaces[contrasted] = out.embedding[branch]
    return {
      "attention": out.attention, "cas": out.cas[SUPPRESSED][..., :-1], "classes": classes,
      "pseudo": pseudo, "trust": _trust(c, out, pseudo, classes, batch, state), "spaces": spaces,
    }  # fmt: skip

  # The memory is not looked at, and may lie on devices of several processes.
  return functools.partial(look, params, jax.device_get(state.replace(bank=None, visited=None)))


def _accuracy(scores: jax.Array, labels: jax.Array) -> jax.Array:
  """Share of videos whose likeliest action is one of theirs."""
  best = jnp.argmax(scores[:, :-1], axis=1)
  return jnp.mean(jnp.take_along_axis(labels, best[:, None], axis=1))


def _batch_spec(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
  c, t = config.dcc, config.data.frames
  return {
    "features": jax.ShapeDtypeStruct((t, c.width), jnp.float32),
    "mask": jax.ShapeDtypeStruct((t,), jnp.bool_),
    "labels": jax.ShapeDtypeStruct((c.classes,), jnp.float32),
  }


def _check(config: ConfigDict) -> None:
  c = config.dcc
  for field, known in {
    "contrast": ("none", *parts.SCOPES), "cluster_scope": ("video", "dataset"),
    "pseudo": tuple(BRANCHES), "embedding": tuple(BRANCHES), "dtype": tuple(DTYPES),
    "protocol": tuple(evaluation.TIOUS),
  }.items():  # fmt: skip
    if c[field] not in known:
      raise UserError(f"config.dcc.{field} is {c[field]!r}: choose one of {', '.join(known)}.")
  sizes = ("hidden", "filter", "dim", "share", "regions", "clusters", "refresh")
  for field in (*sizes, "classes", "videos", "labels", "width", "temperature"):
    if not c[field] > 0:
      raise UserError(f"config.dcc.{field} is {c[field]}: it must be positive.")
  for field, top in {"dropout": 1, "warmup": 1}.items():
    if not 0 <= c[field] < top:
      raise UserError(f"config.dcc.{field} is {c[field]}: it must lie in [0, 1).")
  if c.regions > config.data.frames or c.clusters > config.data.frames:
    raise UserError(
      f"config.dcc.regions and clusters are {c.regions} and {c.clusters}: a video has "
      f"config.data.frames = {config.data.frames} steps."
    )
