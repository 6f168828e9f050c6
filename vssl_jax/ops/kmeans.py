"""K-means (Lloyd) in blocks: one clustering, many by `vmap`, or one over several devices.

Each iteration walks over blocks of points once. The scores ‖c‖² − 2 x·c of a block are one matrix
product. The sums of its clusters are another, with the one-hot assignments, which adds in a fixed
order on every device. On CPUs the rows are added one after the other instead, which has the same
fixed order and a tenth of the cost. Nothing of size N × K is ever in memory.

  centers = plus_plus(jax.random.key(0), x, 100)       # or any K rows, or the last run's centers
  found = jax.jit(lambda x, c: kmeans(x, c, iterations=10))(x, centers)
  each = jax.vmap(lambda x, c, m: kmeans(x, c, mask=m))(videos, centers, masks)

scikit-learn's k-means runs only on CPUs and outside of `jit` and `vmap`; the tests compare with it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from vssl_jax.errors import UserError
from vssl_jax.ops import tiles


class Clusters(NamedTuple):
  """The result of `kmeans`.

  Attributes:
    centers: float32 `[K, D]`.
    labels: int32 `[N]`, the cluster with the nearest center (the lowest number among equals); −1
      where the mask is False.
    counts: int32 `[K]`, number of points per cluster.
    inertia: float32 `[]`, sum of squared distances to the assigned centers.
    iterations: int32 `[]`, number of updates of the centers.
  """

  centers: jax.Array
  labels: jax.Array
  counts: jax.Array
  inertia: jax.Array
  iterations: jax.Array


def kmeans(
  x: jax.Array,
  centers: jax.Array,
  *,
  iterations: int | jax.Array = 10,
  mask: jax.Array | None = None,
  tolerance: float | jax.Array = 0.0,
  block_size: int = 1024,
  mesh: Mesh | None = None,
  axis_name: str | None = None,
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> Clusters:
  """Lloyd's algorithm from given centers (Lloyd 1982), as scikit-learn's `algorithm="lloyd"`.

  Each iteration assigns every point to its nearest center and moves each center to the mean of its
  points. A last assignment makes the labels fit the final centers. An empty cluster gets the point
  that is farthest from its own center, which leaves its cluster (several empty clusters get the
  farthest points in order). If every point is equal to its center, the cluster stays empty. The
  result is deterministic. No gradient flows through it.

  If the points change slowly, pass the centers of the last run as a warm start.

  Args:
    x: points `[N, D]`, any float type.
    centers: initial centers `[K, D]`; `plus_plus` draws good ones.
    iterations: largest number of updates of the centers; 0 only assigns; may be traced.
    mask: bool `[N]`, False for points to ignore (padding); their labels are −1.
    tolerance: stop when the sum of squared movements of all centers is at most this; 0 stops when
      no label changes, a negative value never stops early. scikit-learn's `tol` is this divided by
      the mean variance of the columns of x.
    block_size: points per block; need not divide N. 1,024 suits CPUs, 8,192 or more GPUs.
    mesh: with global arrays, under `jit` or outside: split the points over `axis_name` of this
      mesh. The result equals that of one device, except for the rounding of the sums.
    axis_name: mesh axis over which x is sharded; without `mesh`, the axis of the surrounding
      `shard_map`.
    precision: precision of the matrix products. The default keeps float32 even where the backend
      would use TF32.

  Returns:
    The clusters; over several devices, everything except the labels is replicated.

  Raises:
    UserError: shapes don't fit, a size is not positive, or N doesn't split evenly over the mesh
      (pad the points and mask the padding).
  """
  if x.ndim != 2 or centers.ndim != 2 or x.shape[1] != centers.shape[1] or not len(x):
    raise UserError(
      f"kmeans: points and centers must be [N, D] and [K, D], N > 0; got {x.shape} and "
      f"{centers.shape}"
    )
  if mask is not None and mask.shape != x.shape[:1]:
    raise UserError(f"kmeans: the mask must be [{len(x)}], one a point; got {mask.shape}")
  if not len(centers) or (isinstance(iterations, int) and iterations < 0) or block_size < 1:
    raise UserError(
      f"kmeans: needs centers, iterations ≥ 0 and block_size ≥ 1; got {len(centers)} centers, "
      f"iterations {iterations}, block_size {block_size}"
    )
  x, centers = jnp.asarray(x), jnp.asarray(centers)
  mask = jnp.ones(len(x), bool) if mask is None else jnp.asarray(mask)
  options = (iterations, tolerance, block_size, precision)
  if mesh is None:
    return _lloyd(x, centers, mask, axis_name, *options)
  if axis_name not in mesh.shape or len(x) % mesh.shape[axis_name]:
    raise UserError(
      f"kmeans: axis_name {axis_name!r} must name an axis of mesh {dict(mesh.shape)} that divides "
      f"the {len(x)} points; pad them and mask the padding"
    )
  rows: Any = PartitionSpec(axis_name)
  whole: Any = PartitionSpec()
  return jax.shard_map(
    lambda x, c, m: _lloyd(x, c, m, axis_name, *options),
    mesh=mesh,
    in_specs=(rows, whole, rows),
    out_specs=Clusters(whole, rows, whole, whole, whole),
  )(x, centers, mask)


def _lloyd(x, centers, mask, axis_name, iterations, tolerance, block_size, precision):
  x, centers = lax.stop_gradient((x, centers))
  centers = centers.astype(jnp.result_type(centers, jnp.float32))
  walk = _Walk(x, mask, axis_name, block_size, precision)

  def unfinished(state):
    _, _, done, moving = state
    return (done < iterations) & moving

  def update(state):
    old, old_labels, done, _ = state
    new, labels = walk.move(old)
    # Equal labels give equal centers, but not always a difference of exactly 0: the compiler may
    # compute one of two equal quotients as a product.
    changed = walk.total(jnp.sum((labels != old_labels) & mask)) > 0
    shift = jnp.sum(jnp.square(new - old))
    moving = jnp.where(tolerance < 0, True, changed & (shift > tolerance))
    return new, labels, done + 1, moving

  state = (centers, walk.like(-1, jnp.int32, mask.shape), jnp.int32(0), jnp.bool_(True))
  centers, _, done, _ = lax.while_loop(unfinished, update, state)
  labels, counts, inertia = walk.assign(centers, _add_distances)
  return Clusters(centers, jnp.where(mask, labels, -1), counts, inertia, done)


class _Walk(NamedTuple):
  """The points of this device, with functions that pass over them."""

  x: jax.Array
  mask: jax.Array
  axis_name: str | None
  block_size: int
  precision: lax.PrecisionLike

  def total(self, tree):
    """Sums over the devices."""
    return tree if self.axis_name is None else lax.psum(tree, self.axis_name)

  def like(self, fill, dtype, shape):
    """A constant that counts as varying over the devices, like the points (for `shard_map`)."""
    return lax.full_like(self.x, fill, dtype, shape)

  def assign(self, centers, add):
    """Assigns each point to its nearest center.

    Args:
      centers: `[K, D]`.
      add: `_add_sums` or `_add_distances`.

    Returns:
      labels: `[n]`, including those of masked points.
      counts: `[K]`, summed over all devices.
      added: the sum that `add` computes, over all devices.
    """
    k = len(centers)
    # Subtracting the mean of the centers reduces rounding errors if all points are far from 0.
    middle = jnp.mean(centers, axis=0)
    about = 2 * (middle - centers)
    offset = jnp.sum(jnp.square(centers - middle), axis=1) - jnp.matmul(
      about, middle, precision=self.precision
    )

    def step(carry, block):
      labels, counts, added = carry
      points = block.take(self.x).astype(centers.dtype)
      nearest = _nearest(points, about, offset, self.precision)
      # A label of K belongs to no cluster: one-hot and scatter ignore it.
      counted = jnp.where(block.take(self.mask) & block.fresh, nearest, k)
      counts = counts + jnp.sum(jax.nn.one_hot(counted, k, dtype=jnp.int32), axis=0)
      added = add(added, points, counted, centers, self.precision)
      return block.put(labels, nearest), counts, added

    n = len(self.x)
    start = (
      self.like(0, jnp.int32, (n,)),
      self.like(0, jnp.int32, (k,)),
      self.like(0, centers.dtype, centers.shape if add is _add_sums else ()),
    )
    labels, *rest = tiles.fold_blocks(step, start, n, block_size=self.block_size)
    return labels, *self.total(rest)

  def distances(self, centers, labels):
    """Squared distances to the assigned centers `[n]`; 0 for masked points."""

    def step(carry, block):
      points = block.take(self.x).astype(centers.dtype)
      gap = _distances(points, block.take(labels), centers)
      return block.put(carry, jnp.where(block.take(self.mask), gap, 0))

    start = self.like(0, centers.dtype, self.x.shape[:1])
    return tiles.fold_blocks(step, start, len(self.x), block_size=self.block_size)

  def move(self, centers):
    """The next centers, and the labels that they are computed from."""
    labels, counts, sums = self.assign(centers, _add_sums)
    sums, counts = lax.cond(
      jnp.all(counts > 0),
      lambda sums, counts: (sums, counts),
      lambda sums, counts: self._reseed(centers, labels, sums, counts),
      sums,
      counts,
    )
    means = sums / jnp.maximum(counts, 1)[:, None]
    return jnp.where(counts[:, None] > 0, means, centers), labels

  def _reseed(self, centers, labels, sums, counts):
    """Gives the farthest points (farthest first) to the empty clusters (lowest number first)."""
    gap, at = lax.top_k(self.distances(centers, labels), min(len(centers), len(self.x)))
    points, owners = self.x[at].astype(centers.dtype), labels[at]
    if self.axis_name is not None:
      place, size = lax.axis_index(self.axis_name), lax.axis_size(self.axis_name)

      def gather(part):
        whole = jnp.zeros((size, *part.shape), part.dtype).at[place].set(part)
        return lax.psum(whole, self.axis_name).reshape(-1, *part.shape[1:])

      gap, points, owners = (gather(part) for part in (gap, points, owners))
      gap, at = lax.top_k(gap, min(len(centers), len(gap)))
      points, owners = points[at], owners[at]
    empty = counts == 0
    rank = jnp.minimum(jnp.cumsum(empty) - 1, len(gap) - 1)
    takes = empty & (gap[rank] > 0)
    taken = jnp.where(takes[:, None], points[rank], 0)
    loser = jnp.where(takes, owners[rank], len(centers))
    sums = sums.at[loser].add(-taken, mode="drop") + taken
    return sums, counts.at[loser].add(-1, mode="drop") + takes


def _nearest(points, about, offset, precision):
  """The row of `about` with the least `offset + about · point`, the first among equals; `[B]`."""

  def search(points, about, offset):
    scores = offset + jnp.matmul(points, about.T, precision=precision)
    return jnp.argmin(scores, axis=1).astype(jnp.int32)

  def compete(points, about, offset):
    # A CPU compares many points at once, but the clusters of one point only one after the other.
    def better(best, rival):
      less = rival[0] < best[0]
      return jax.tree.map(lambda x, y: jnp.where(less, x, y), rival, best), None

    scores = offset[:, None] + jnp.matmul(about, points.T, precision=precision)
    first = (scores[0], lax.full_like(scores, 0, jnp.int32, scores.shape[1:]))
    rivals = (scores, jnp.arange(len(about), dtype=jnp.int32))
    return lax.scan(better, first, rivals, unroll=min(20, len(about)))[0][1]

  return lax.platform_dependent(points, about, offset, cpu=compete, default=search)


def _distances(points, labels, centers):
  """Squared distances, computed by subtraction: exactly 0 for a point equal to its center."""
  return jnp.sum(jnp.square(points - centers[labels]), axis=1)


def _add_distances(total, points, labels, centers, precision):
  """`total` plus the squared distances to the assigned centers; labels of K are ignored."""
  del precision
  return total + jnp.sum(jnp.where(labels < len(centers), _distances(points, labels, centers), 0))


def _add_sums(sums, points, labels, centers, precision):
  """`sums` `[K, D]` plus the points of each cluster; labels of K are ignored."""
  del centers

  def product(sums, points, labels):
    member = jax.nn.one_hot(labels, len(sums), dtype=points.dtype, axis=0)
    return sums + jnp.matmul(member, points, precision=precision)

  def scatter(sums, points, labels):
    return sums.at[labels].add(points, mode="drop")

  return lax.platform_dependent(sums, points, labels, cpu=scatter, default=product)


def plus_plus(
  rng: jax.Array,
  x: jax.Array,
  k: int,
  *,
  mask: jax.Array | None = None,
  trials: int | None = None,
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> jax.Array:
  """Draws initial centers by greedy k-means++ (Arthur and Vassilvitskii 2007, section 2.2).

  For each center, `trials` candidates are drawn with probability proportional to the squared
  distance to the nearest center so far. The candidate that leaves the smallest sum of these
  distances becomes the center. This takes K passes over the points. Under `jit` with global arrays
  the draw is the same on any number of devices. Do not use it inside `shard_map`.

  Args:
    rng: typed PRNG key.
    x: points `[N, D]`, any float type.
    k: number of centers to draw. With fewer than k distinct points some are drawn twice.
    mask: bool `[N]`, False for points that must not be drawn.
    trials: candidates per center; None for 2 + ⌊log k⌋, as in scikit-learn.
    precision: precision of the matrix products.

  Returns:
    `[K, D]`, rows of x, float32 or wider.

  Raises:
    UserError: x is not `[N, D]`, or k or trials is not positive.
  """
  trials = 2 + int(math.log(max(k, 1))) if trials is None else trials
  if x.ndim != 2 or not len(x) or k < 1 or trials < 1:
    raise UserError(
      f"plus_plus: needs points [N, D] and positive k and trials; got {x.shape}, {k}, {trials}"
    )
  x = lax.stop_gradient(jnp.asarray(x))
  dtype = jnp.result_type(x, jnp.float32)
  mask = jnp.ones(len(x), bool) if mask is None else mask
  counted = jnp.where(mask, 1 / jnp.maximum(jnp.sum(mask), 1), 0).astype(dtype)
  middle = jnp.matmul(counted, x, precision=precision, preferred_element_type=dtype)
  squares = jnp.sum(jnp.square(x.astype(dtype) - middle), axis=1)
  least = jnp.finfo(dtype).tiny

  def draw(key, weight):
    # The largest log-weight plus Gumbel noise is at i with probability proportional to weight i. In
    # contrast to a running sum, it is the same on any number of devices.
    noise = jax.random.gumbel(key, (trials, len(x)), dtype)
    score = jnp.where(mask, jnp.log(jnp.maximum(weight, least)) + noise, -jnp.inf)
    return jnp.argmax(score, axis=1)

  def add(i, state):
    centers, gap = state
    at = draw(jax.random.fold_in(rng, i), gap)
    about = x[at].astype(dtype) - middle  # as in `_Walk.assign`
    products = jnp.matmul(x, about.T, precision=precision) - jnp.matmul(
      about, middle, precision=precision
    )
    apart = squares[:, None] + squares[at] - 2 * products
    # Exactly 0 at the drawn point itself, without rounding errors.
    apart = jnp.where(jnp.arange(len(x))[:, None] == at, 0, jnp.maximum(apart, 0))
    apart = jnp.minimum(gap[:, None], apart)
    best = jnp.argmin(jnp.sum(jnp.where(mask[:, None], apart, 0), axis=0))
    return centers.at[i].set(x[at[best]].astype(dtype)), apart[:, best]

  # Start with equal finite distances, so that every point is equally likely.
  gap = jnp.full(len(x), jnp.finfo(dtype).max / (4 * len(x)), dtype)
  return lax.fori_loop(0, k, add, (jnp.zeros((k, x.shape[1]), dtype), gap))[0]
