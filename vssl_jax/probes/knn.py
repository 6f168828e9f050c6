"""Weighted nearest-neighbor classification: a probe of features without any training.

scikit-learn's classifier with the same weights runs only on the CPU. This one splits the queries
over the devices of this process. Each has the whole bank, and one tile of the similarity matrix at
a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.ops import tiles
from vssl_jax.ops.sphere import l2_normalize
from vssl_jax.probes import too_few_videos

CHUNK = 1024  # side of a tile of the similarity matrix


def weighted_knn(
  train: np.ndarray | jax.Array,
  labels: np.ndarray,
  queries: np.ndarray | jax.Array,
  *,
  classes: int,
  k: int = 200,
  temperature: float = 0.07,
  chunk: int = CHUNK,
  devices: Sequence[jax.Device] | None = None,
) -> np.ndarray:
  """Votes of the k nearest videos of each query, each for its class with weight exp(cosine / T).

  Wu et al. 2018, section 3.4; also the online monitor of PySlowFast's contrastive project. Votes
  are normalized by a softmax, which keeps their order and cannot overflow.

  Args:
    train: float `[V, F]`, features of the training videos; L2-normalized inside.
    labels: int `[V]`; videos with a negative label are left out.
    queries: float `[Q, F]`.
    classes: C.
    k: number of neighbors; at most all labeled videos are used.
    temperature: T > 0.
    chunk: rows and columns of the tile of the similarity matrix that is in memory at a time.
    devices: of this process, among which the queries are split; by default all of them. Their
      number changes the votes by rounding at most.

  Returns:
    float32 `[Q, C]`, the fraction of the votes for each class; rows sum to 1.

  Raises:
    UserError: no video has a label, a label is not below C, or k or T isn't positive.
  """
  labels = np.asarray(labels)
  known = labels >= 0
  too_few_videos.require_labels(labels, "training", "nearest neighbors")
  if labels.max() >= classes:
    raise UserError(
      f"weighted_knn: a training video has label {labels.max()} but there are {classes} classes"
    )
  if k < 1 or not temperature > 0:
    raise UserError(f"weighted_knn: k and temperature must be positive; got {k} and {temperature}")
  if not known.all():
    train, labels = np.asarray(train)[known], labels[known]
  rows = len(queries)
  chosen = list(devices or jax.local_devices())[: max(1, rows)]
  # The devices must divide the queries; the votes of those that are added are left out.
  filled = np.zeros((-(-rows // len(chosen)) * len(chosen), np.shape(queries)[1]), np.float32)
  filled[:rows] = queries
  meshes = parallel.local_meshes(chosen, jax.process_count())
  found = []
  for mesh, own in zip(meshes, np.split(filled, len(meshes)), strict=True):
    bank = parallel.put_replicated(mesh, (np.asarray(train), np.asarray(labels, np.int32)))
    run = votes(mesh, classes=classes, k=min(k, len(labels)), chunk=chunk)
    found.append(run(*bank, jax.device_put(own, parallel.split(mesh)), temperature))
  return np.concatenate([np.asarray(x) for x in found])[:rows]


def neighbors(labels: np.ndarray, k: int, *, bound: bool) -> tuple[int, str]:
  """How many neighbors vote.

  With more than the videos of a class, most votes on its queries must come from other classes, and
  the largest class gains.

  Args:
    labels: int `[V]` of the training videos; negative ones do not count.
    k: number that is asked for.
    bound: whether at most as many vote as the smallest class has videos.

  Returns:
    The number, and why it is less than k, or that it is more than a class has; "" if neither.
  """
  sizes = np.unique(labels[labels >= 0], return_counts=True)[1]
  least, total = int(sizes.min(initial=k)), int(sizes.sum())
  if bound and least < k:
    return least, f"the smallest class has {least} training videos"
  if total < k:
    return total, f"there are {total} labeled training videos"
  if least < k:
    return k, f"not bound (knn_bound), though the smallest class has {least} training videos"
  return k, ""


@functools.lru_cache(maxsize=8)
def votes(mesh: Mesh, *, classes: int, k: int, chunk: int) -> Callable[..., jax.Array]:
  """The program of `weighted_knn`: a function of `train`, `labels`, `queries` and `temperature`.

  All videos have a label, k is at most V, and the devices of the mesh divide the queries.
  """

  def vote(
    train: jax.Array, labels: jax.Array, queries: jax.Array, temperature: jax.Array
  ) -> jax.Array:
    blocks = -(-len(queries) // chunk)  # of one size, so that the last overlaps few rows
    tile = (-(-len(queries) // max(1, blocks)), chunk)
    cosine, found = tiles.nearest(l2_normalize(queries), l2_normalize(train), k, tile)
    weight = jax.nn.softmax(cosine / temperature, axis=1)
    row = jnp.arange(len(queries))[:, None]
    return jnp.zeros((len(queries), classes), weight.dtype).at[row, labels[found]].add(weight)

  whole, rows = PartitionSpec(), PartitionSpec(parallel.AXIS)
  over = jax.shard_map(
    vote, mesh=mesh, in_specs=(whole, whole, rows, whole), out_specs=rows, check_vma=False
  )
  return jax.jit(over)
