"""ProViCo's pair mining: decides by distance which pairs of a batch are positive.

Every rule is expressed as one threshold t_i per video. So later passes over the pairs need only N
numbers and no N × N mask. Videos i and j are a positive pair if their distance is below

  max(t_i, t_j)   the union: each may choose the other      min(t_i, t_j)   mutual: both must

"absolute" and "quantile" give all videos the same threshold. "top_k" gives each video the middle
between the distances of its k-th and its next neighbor. The quantile over N² pairs is found
without sorting or storing them: each pass counts the pairs below 64 edges and keeps the interval
that contains the quantile.

Nothing here has a gradient: the distance depends on the uncertainty that is being learned.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vssl_jax.errors import UserError
from vssl_jax.ops import bhattacharyya, tiles
from vssl_jax.ops.bhattacharyya import Gaussians

AxisName = str | Sequence[str]
Carry = TypeVar("Carry")
KINDS = ("absolute", "quantile", "top_k", "none")
COMBINE = ("union", "mutual")
_EDGES = 64
_PASSES = 8  # 64^8 is beyond float32: the interval then contains only neighboring numbers
_EXCESS = 1e-4  # a quantile may contain this share of all pairs more than requested


@dataclasses.dataclass(frozen=True)
class Rule:
  """How positives are chosen.

  Attributes:
    kind: "absolute" | "quantile" | "top_k" | "none" (only each video with itself).
    value: for "absolute" τ; for "quantile" the share of pairs, in (0, 1]; for "top_k" k.
    combine: for "top_k": "union" | "mutual".
    weight: λ of the distance.
    form: form of the distance: "diagonal" | "reviewed".
  """

  kind: str = "quantile"
  value: float = 0.05
  combine: str = "union"
  weight: float = 0.25
  form: str = "diagonal"

  def __post_init__(self):
    # The messages begin with the field's name in `config.provico`.
    for name, value, known in (
      ("mining", self.kind, KINDS),
      ("combine", self.combine, COMBINE),
      ("form", self.form, bhattacharyya.FORMS),
    ):
      if value not in known:
        raise UserError(f"{name} is {value!r}: choose one of {', '.join(known)}")
    wanted = {
      "quantile": (0 < self.value <= 1, "a share of the pairs in (0, 1]"),
      "top_k": (self.value >= 1 and self.value % 1 == 0, "a number of neighbors, 1 or more"),
      "absolute": (0 < self.value < math.inf, "a distance above 0"),
    }
    fits, what = wanted.get(self.kind, (True, ""))
    if not fits:
      raise UserError(f"threshold is {self.value}: with mining={self.kind} it is {what}")
    if not self.weight >= 0:
      raise UserError(f"distance is {self.weight}: the weight λ must not be negative")

  def distance(self, x: Gaussians, y: Gaussians) -> jax.Array:
    """Distances of all pairs of two blocks, without gradient."""
    return bhattacharyya.distance(*lax.stop_gradient((x, y)), self.weight, self.form)

  def positive(self, apart: jax.Array, t_x: jax.Array, t_y: jax.Array) -> jax.Array:
    """Bool `[N, M]` from distances `[N, M]` and the videos' thresholds `[N]` and `[M]`."""
    join = jnp.maximum if self.combine == "union" else jnp.minimum
    return apart < join(t_x[:, None], t_y[None, :])


def fold_pairs(
  step: Callable[[Carry, tiles.Block, tiles.Block, jax.Array], Carry],
  carry: Carry,
  videos: int,
  axis_name: AxisName | None,
  block_size: int,
) -> Carry:
  """Applies `tiles.fold_tiles` to all pairs of different videos of the global batch.

  On one device each unordered pair is visited once. Inside `shard_map` rows are this device's
  videos and columns are those of all devices, so each ordered pair is visited once, on one device.

  Args:
    step: see `tiles.fold_tiles`.
    carry: initial carry.
    videos: number of videos on this device.
    axis_name: mesh axis over which the batch is sharded.
    block_size: videos per side of a tile.
  """
  if axis_name is None:
    return tiles.fold_tiles(step, carry, videos, block_size=block_size)
  first = lax.axis_index(axis_name) * videos

  def other(carry: Carry, rows: tiles.Block, cols: tiles.Block, mask: jax.Array) -> Carry:
    return step(carry, rows, cols, mask & ((first + rows.index)[:, None] != cols.index[None, :]))

  total = videos * lax.axis_size(axis_name)
  return tiles.fold_tiles(other, carry, videos, total, block_size=block_size)


def gather(tree: Any, axis_name: AxisName | None) -> Any:
  """Gathers the rows of all devices in one exchange; leaves `[n, ...]` have 4 bytes per number."""
  if axis_name is None:
    return tree
  leaves, structure = jax.tree.flatten(tree)
  n = leaves[0].shape[0]
  flat = [lax.bitcast_convert_type(x, jnp.int32).reshape(n, -1) for x in leaves]
  ends = np.cumsum([x.shape[1] for x in flat])
  every = lax.all_gather(jnp.concatenate(flat, axis=1), axis_name, tiled=True)
  parts = [
    lax.bitcast_convert_type(part.reshape(-1, *x.shape[1:]), x.dtype)
    for part, x in zip(jnp.split(every, ends[:-1], axis=1), leaves, strict=True)
  ]
  return jax.tree.unflatten(structure, parts)


def thresholds(
  videos: Gaussians, rule: Rule, *, block_size: int = 128, axis_name: AxisName | None = None
) -> jax.Array:
  """The threshold of each video under a rule.

  Args:
    videos: the global batch; inside `shard_map` this device's rows, with `axis_name`.
    rule: how positives are chosen.
    block_size: side of a tile; the memory is a few times block_size².
    axis_name: mesh axis over which the batch is sharded.

  Returns:
    float32 `[N]`, without gradient. With "quantile" at least the requested share of pairs is below
    the threshold, and at most 1e-4 of all pairs more (except for ties). If k is at least the number
    of other videos, all of them are positive.
  """
  videos = lax.stop_gradient(videos)
  n = videos.mean.shape[0]
  same = lambda t: lax.full_like(videos.mean, 0.0, shape=(n,)) + t  # noqa: E731
  if rule.kind == "absolute":
    return same(rule.value)
  if rule.kind == "none" or _others(n, axis_name) < 1:
    return same(-jnp.inf)
  if rule.kind == "quantile":
    return same(_quantile(videos, rule, block_size, axis_name))
  return _top_k(videos, rule, block_size, axis_name)


def count(
  videos: Gaussians,
  threshold: jax.Array,
  rule: Rule,
  *,
  block_size: int = 128,
  axis_name: AxisName | None = None,
) -> jax.Array:
  """Number of positive ordered pairs of different videos in the global batch, float32 scalar.

  Args:
    videos: the global batch; inside `shard_map` this device's rows, with `axis_name`.
    threshold: `[N]`, from `thresholds`.
    rule: how positives are chosen.
    block_size: side of a tile.
    axis_name: mesh axis over which the batch is sharded.
  """
  own = lax.stop_gradient((videos, threshold))
  every = gather(own, axis_name)

  def step(total, rows, cols, mask):
    (x, t_x), (y, t_y) = rows.take(own), cols.take(every)
    positive = mask & rule.positive(rule.distance(x, y), t_x, t_y)
    return total + jnp.sum(positive, dtype=jnp.float32)

  start = lax.full_like(videos.mean, 0.0, shape=())
  total = fold_pairs(step, start, videos.mean.shape[0], axis_name, block_size)
  return 2 * total if axis_name is None else lax.psum(total, axis_name)


def _others(n: int, axis_name: AxisName | None) -> int:
  return n * (1 if axis_name is None else lax.axis_size(axis_name)) - 1


def _quantile(
  videos: Gaussians, rule: Rule, block_size: int, axis_name: AxisName | None
) -> jax.Array:
  every = gather(videos, axis_name)
  n = videos.mean.shape[0]
  pairs = (_others(n, axis_name) + 1) * _others(n, axis_name)
  pairs = pairs // 2 if axis_name is None else pairs
  scalar = lambda value, dtype=jnp.float32: lax.full_like(  # noqa: E731
    videos.mean, value, dtype, ()
  )
  across = lambda reduce, x: x if axis_name is None else reduce(x, axis_name)  # noqa: E731

  def bounds(carry, rows, cols, mask):
    apart = rule.distance(rows.take(videos), cols.take(every))
    least = jnp.min(jnp.where(mask, apart, jnp.inf))
    most = jnp.max(jnp.where(mask, apart, -jnp.inf))
    return jnp.minimum(carry[0], least), jnp.maximum(carry[1], most)

  start = (scalar(jnp.inf), scalar(-jnp.inf))
  low, high = fold_pairs(bounds, start, n, axis_name, block_size)
  low, high = across(lax.pmin, jnp.stack([low, -high])) * jnp.float32([1, -1])
  wanted = -(-rule.value * pairs // 1)  # number of pairs, rounded up

  def below(edges: jax.Array) -> jax.Array:
    # float32 counts are exact within a tile; their sum over tiles has a rounding error of 1e-7.
    def step(count, rows, cols, mask):
      apart = jnp.where(mask, rule.distance(rows.take(videos), cols.take(every)), jnp.inf)
      return count + jnp.sum(apart < edges[:, None, None], axis=(1, 2), dtype=jnp.float32)

    start = lax.full_like(videos.mean, 0.0, shape=edges.shape)
    return across(lax.psum, fold_pairs(step, start, n, axis_name, block_size))

  # Invariant: fewer than `wanted` pairs are below `low`, and at least `wanted` are below `high`.
  def narrow(carry):
    low, high, _, passes = carry
    inner = jnp.arange(1, _EDGES, dtype=jnp.float32) / _EDGES
    edges = low + (high - low) * inner
    count = below(edges)
    at = jnp.sum(count < wanted)
    around = jnp.concatenate([low[None], edges, high[None]])
    counts = jnp.concatenate([count, jnp.full((1,), jnp.inf)])
    return around[at], around[at + 1], counts[at], passes + 1

  def unsettled(carry):
    low, high, count, passes = carry
    middle = 0.5 * (low + high)
    close = (count >= wanted) & (count <= wanted + _EXCESS * pairs)
    return ~close & (passes < _PASSES) & (low < middle) & (middle < high)

  # The next larger number, but not a subnormal one: some devices treat those as 0.
  high = jnp.maximum(jnp.nextafter(high, jnp.inf), jnp.finfo(jnp.float32).tiny)
  _, high, _, _ = lax.while_loop(unsettled, narrow, (low, high, jnp.float32(-1), 0))
  return high


def _top_k(videos: Gaussians, rule: Rule, block_size: int, axis_name: AxisName | None) -> jax.Array:
  every, n = gather(videos, axis_name), videos.mean.shape[0]
  k = int(rule.value)
  if k >= _others(n, axis_name):
    return lax.full_like(videos.mean, jnp.inf, shape=(n,))

  def nearer(old, new):
    return -lax.top_k(-jnp.concatenate([old, new], axis=1), k + 1)[0]

  def step(carry, rows, cols, mask):
    apart = rule.distance(rows.take(videos), cols.take(every))
    apart = jnp.where(mask, apart, jnp.inf)
    carry = rows.merge(nearer, carry, apart)
    return carry if axis_name is not None else cols.merge(nearer, carry, apart.T)

  start = lax.full_like(videos.mean, jnp.inf, shape=(n, k + 1))
  nearest = fold_pairs(step, start, n, axis_name, block_size)
  # Use the middle, so that different rounding in a later pass cannot move a neighbor across the
  # threshold. If several neighbors tie at the k-th place, all are taken.
  last, after = nearest[:, k - 1], nearest[:, k]
  above = jnp.maximum(jnp.nextafter(last, jnp.inf), jnp.finfo(jnp.float32).tiny)
  return jnp.maximum(0.5 * (last + after), above)
