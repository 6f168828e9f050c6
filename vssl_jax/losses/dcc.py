"""DCC's parts: pseudo-labels of snippets, their confidence, regions, and the contrastive loss.

"Denoised Cross-Video Contrast for Weakly-supervised Temporal Action Localization" (CVPR 2022), for
N videos of T snippets and up to L labels each; slot l of a video is its l-th class:

  pseudo-labels  Â_{t,c} = 1 if CAS_{t,c} exceeds its mean over time
  confidence     S_{t,c} = share of the snippets in t's cluster whose Â_{·,c} equals Â_{t,c}
  regions        time in M equal parts; r_m = Σ_{t in m} Â S X (action), r'_m = Σ (1 − Â) S X
                 (background), normalized to length 1; missing if a part has no such snippets
  contrast       −log Σ_{r⁺} e^{r·r⁺/τ} / Σ_{r⁺, r⁻} e^{r·r/τ}, averaged over the M regions, the
                 labels of a video, and the videos

Positives of an action region are all other action regions of its class, in its video and in others.
Negatives are background regions of its video and of others, and action regions of other classes in
other videos. In a video with several classes, the background of one class may be the action of
another class. So if a video has the class of the query, only the background of that class is used.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from vssl_jax.ops.sphere import l2_normalize

SCOPES = ("video", "batch", "bank")


class Regions(flax.struct.PyTreeNode):
  """Regions of V videos: of a batch, or of all videos (the memory).

  Attributes:
    action: float32 `[V, L, M, d]`, unit length; 0 if the region is missing.
    background: the same for background.
    has_action: bool `[V, L, M]`, whether the action region exists.
    has_background: bool `[V, L, M]`, whether the background region exists.
    classes: int32 `[V, L]`, −1 if a video has fewer labels.
  """

  action: jax.Array
  background: jax.Array
  has_action: jax.Array
  has_background: jax.Array
  classes: jax.Array


def empty(videos: int, labels: int, regions: int, dim: int) -> Regions:
  """A memory without entries."""
  shape = (videos, labels, regions)
  zeros, nothing = jnp.zeros((*shape, dim), jnp.float32), jnp.zeros(shape, bool)
  return Regions(zeros, zeros, nothing, nothing, jnp.full(shape[:2], -1, jnp.int32))


def slots(labels: jax.Array, most: int) -> jax.Array:
  """Classes of each video, ascending: labels `[N, C]` of 0 and 1 to int32 `[N, L]`, −1 = none."""
  _, c = labels.shape
  if most > c:
    return jnp.pad(slots(labels, c), ((0, 0), (0, most - c)), constant_values=-1)
  # A sort stays split over the devices that hold the videos; `lax.top_k` would gather them.
  index = jnp.argsort(-labels, axis=1)[:, :most]
  value = jnp.take_along_axis(labels, index, axis=1)
  return jnp.where(value > 0, index, -1).astype(jnp.int32)


def pseudo_labels(cas: jax.Array, mask: jax.Array) -> jax.Array:
  """Â: True where activations exceed their mean over time.

  Args:
    cas: float `[N, T, C]`, for any set of classes.
    mask: bool `[N, T]`.

  Returns:
    Bool `[N, T, C]`, False in padding.
  """
  inside = mask[..., None]
  count = jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None, None]
  mean = jnp.sum(jnp.where(inside, cas, 0), axis=1, keepdims=True) / count
  return inside & (cas > mean)


def at_slots(x: jax.Array, classes: jax.Array) -> jax.Array:
  """Selects the class of each slot: `[N, T, C]` to `[N, T, L]`; slots of −1 get class 0."""
  return jnp.take_along_axis(x, jnp.maximum(classes, 0)[:, None, :], axis=2)


def shares(clusters: jax.Array, pseudo: jax.Array, count: int) -> jax.Array:
  """The share of pseudo-labeled snippets in each cluster of a video.

  Args:
    clusters: int `[N, T]`, −1 in padding.
    pseudo: bool `[N, T, L]`.
    count: K.

  Returns:
    Float32 `[N, K, L]`; 0 for empty clusters.
  """
  member = jax.nn.one_hot(clusters, count)  # zeros for −1
  positive = jnp.einsum("ntk,ntl->nkl", member, pseudo.astype(jnp.float32), precision="highest")
  return positive / jnp.maximum(jnp.sum(member, axis=1), 1)[..., None]


def confidence(clusters: jax.Array, pseudo: jax.Array, share: jax.Array) -> jax.Array:
  """S in [0, 1]: the share of a snippet's cluster that has the same pseudo-label.

  Args:
    clusters: int `[N, T]`, −1 in padding.
    pseudo: bool `[N, T, L]`, Â.
    share: `[N, K, L]`, the share of Â = 1 in each cluster. The clusters are those of the video
      (`shares`) or those of the whole data set.

  Returns:
    Float32 `[N, T, L]`, 0 in padding. With the video's own clusters it is above 0 elsewhere.
  """
  at = jnp.take_along_axis(share, jnp.maximum(clusters, 0)[..., None], axis=1)
  return jnp.where(clusters[..., None] >= 0, jnp.where(pseudo, at, 1 - at), 0)


def pool(
  x: jax.Array,
  pseudo: jax.Array,
  trust: jax.Array,
  classes: jax.Array,
  mask: jax.Array,
  regions: int,
) -> Regions:
  """Denoised regions of a batch.

  Args:
    x: embeddings `[N, T, d]`.
    pseudo: bool `[N, T, L]`, Â.
    trust: `[N, T, L]`, S.
    classes: int32 `[N, L]`, −1 if a video has fewer labels.
    mask: bool `[N, T]`, True for the first steps of a video, False for padding. Only the steps of
      the video are divided into regions.
    regions: M.

  Returns:
    The regions; gradients flow to x.
  """
  length = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
  part = jnp.arange(mask.shape[1]) * regions // length  # [N, T]
  part = jax.nn.one_hot(jnp.where(mask, part, -1), regions)
  real = (classes >= 0)[:, :, None]

  def side(chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
    weight = jnp.where(chosen & mask[..., None], trust, 0)
    weight = part[:, :, None, :] * weight[..., None]  # [N, T, L, M]
    total = jnp.einsum("ntlm,ntd->nlmd", weight, x.astype(jnp.float32), precision="highest")
    has = real & (jnp.sum(weight, axis=1) > 0)
    return l2_normalize(jnp.where(has[..., None], total, 0)), has

  action, has_action = side(pseudo)
  background, has_background = side(~pseudo)
  return Regions(action, background, has_action, has_background, classes)


def remember(bank: Regions, fresh: Regions, video: jax.Array) -> Regions:
  """The memory, with the entries of the videos `[N]` of a batch overwritten; no gradient."""
  return jax.tree.map(lambda a, b: a.at[video].set(lax.stop_gradient(b)), bank, fresh)


def contrast(
  fresh: Regions,
  bank: Regions | None,
  video: jax.Array,
  *,
  temperature: float,
  scope: str = "bank",
  keys_learn: bool = True,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """L_dcc, with the action regions of a batch as queries.

  Args:
    fresh: regions of the N videos of the batch.
    bank: regions of all videos, by video number; those of the batch's videos are not used. Used
      only with scope `bank`; may be None.
    video: int `[N]`, numbers of the batch's videos, all different.
    temperature: τ.
    scope: contrast within the `video`, within the `batch`, or with the batch and the `bank`.
    keys_learn: True: gradients also flow to the batch's regions as positives and negatives; False:
      gradients flow only to the queries.

  Returns:
    The loss (0 if no region has a positive), and metrics: the share of the batch's regions that
    have a positive, and the mean probability of the positives.
  """
  n, labels, regions, dim = fresh.action.shape
  query = fresh.action.reshape(-1, dim) / temperature
  of_video = jnp.repeat(jnp.arange(n), labels * regions)
  of_class = jnp.repeat(fresh.classes.reshape(-1), regions)
  keys = fresh if keys_learn else lax.stop_gradient(fresh)
  same = of_video[:, None] == jnp.arange(n)
  own = jnp.eye(len(query), dtype=bool)
  parts = [_against(query, of_class, keys, same, own, scope)]
  if scope == "bank" and bank is not None:
    rows = jnp.arange(len(bank.classes))
    elsewhere = ~jnp.any(rows[:, None] == video, axis=1)
    known = lax.stop_gradient(bank)
    known = known.replace(
      has_action=known.has_action & elsewhere[:, None, None],
      has_background=known.has_background & elsewhere[:, None, None],
    )
    never = jnp.zeros((1, 1), bool)
    parts.append(_against(query, of_class, known, never, never, scope))

  positive = jax.nn.logsumexp(jnp.stack([p for p, _ in parts]), axis=0)
  whole = jax.nn.logsumexp(jnp.stack([*(p for p, _ in parts), *(q for _, q in parts)]), axis=0)
  used = fresh.has_action.reshape(-1) & (positive > _NOTHING / 2)
  loss = jnp.where(used, whole - positive, 0)
  mean = _mean(loss, used, (n, labels, regions))
  metrics = {
    "contrast_queries": jnp.sum(used) / jnp.maximum(jnp.sum(fresh.classes >= 0) * regions, 1),
    "contrast_positive": _mean(jnp.where(used, jnp.exp(-loss), 0), used, (n, labels, regions)),
  }
  return mean, lax.stop_gradient(metrics)


_NOTHING = -1e9  # log-sum-exp over nothing; finite, so that gradients are finite


def _against(
  query: jax.Array, of_class: jax.Array, keys: Regions, same: jax.Array, own: jax.Array, scope: str
) -> tuple[jax.Array, jax.Array]:
  """Log-sum-exp over the positives, and over the negatives, among the regions of some videos.

  Args:
    query: `[Q, d]`, divided by τ.
    of_class: `[Q]`, the class of each query.
    keys: regions of V videos.
    same: `[Q, V]` or broadcastable to it, whether the video is that of the query.
    own: `[Q, V L M]` or broadcastable to it, whether the region is the query itself.
    scope: see `contrast`.

  Returns:
    Two arrays `[Q]`; about `_NOTHING` if there are none.
  """
  videos, labels, regions, dim = keys.action.shape
  each = labels * regions

  def flat(x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(x[:, :, :, None], (len(x), *x.shape[1:], regions)).reshape(len(x), -1)

  matches = of_class[:, None, None] == keys.classes  # [Q, V, L]
  has_class = jnp.any(matches, axis=2, keepdims=True)
  same = jnp.broadcast_to(same, (len(query), videos))[:, :, None]
  reach = same if scope == "video" else jnp.ones_like(same)
  # Negatives: actions of other classes in other videos, and background (see the module docstring).
  is_positive = flat(matches & reach) & keys.has_action.reshape(-1) & ~own
  is_other = flat(~matches & ~same & reach) & keys.has_action.reshape(-1)
  is_background = flat((matches | ~has_class) & reach) & keys.has_background.reshape(-1)

  def log_sum(logits: jax.Array, chosen: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(jnp.where(chosen, logits, _NOTHING), axis=1)

  actions = jnp.matmul(query, keys.action.reshape(videos * each, dim).T, precision="highest")
  backgrounds = jnp.matmul(
    query, keys.background.reshape(videos * each, dim).T, precision="highest"
  )
  negative = jnp.logaddexp(log_sum(actions, is_other), log_sum(backgrounds, is_background))
  return log_sum(actions, is_positive), negative


def _mean(x: jax.Array, used: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
  """Mean over the used regions, then over labels with used regions, then over videos with those."""
  x, used = x.reshape(shape), used.reshape(shape)
  for _ in shape:
    count = jnp.sum(used, axis=-1)
    x, used = jnp.sum(x, axis=-1) / jnp.maximum(count, 1), count > 0
  return x
