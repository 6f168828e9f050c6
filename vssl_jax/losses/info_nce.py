"""InfoNCE over two views of every video, for batches of any size on any number of devices.

Every similarity is a cosine divided by a temperature, S = cos / τ, in float32. The candidates of an
anchor are all 2N embeddings except the anchor itself. Let p be the logit of its positive and n the
log-sum-exp of its 2(N − 1) negatives. Its loss is log(1 + exp(n − p)): never negative, and exact
for very small and very large losses.

Two forms compute it. *Dense* is the formula itself, differentiated by JAX. *Block-wise* walks over
tiles of the similarity matrix (`vssl_jax.ops.tiles`) twice, forward for n and backward for the
gradient

  ∂L/∂z_i = 1/τ Σ_j (P_ij + P_ji − Y_ij − Y_ji) z_j / 2N,   P_ij = exp(S_ij − log Σ_k exp S_ik),

so no logits are kept from the forward to the backward pass. Since S_ij = S_ji, one tile of logits
is used for its rows and for its columns, which halves the products of the dense form.

Devices exchange embeddings and two numbers per anchor, never logits. Each device computes the rows
of its own anchors against the gathered embeddings. P_ji only needs the gathered normalizer of
anchor j, so the same rows give the complete gradient of the device's own embeddings.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from vssl_jax.errors import UserError
from vssl_jax.ops import tiles
from vssl_jax.ops.sphere import inverse_norm, l2_normalize

AxisName = str | Sequence[str]

# Running maxima start at _LEAST. Masked logits are far below it, so their exponentials are 0 even
# if a whole row is masked. Both are finite, because a difference of infinities would be NaN.
_LEAST = -1e30
_MASKED = -2e30
# Cosines this close count as equal: rounding must not give a collapsed batch 100 % accuracy.
_TIE = 1e-6


def info_nce(
  a: jax.Array,
  b: jax.Array,
  temperature: jax.typing.ArrayLike,
  *,
  block_size: int | None = None,
  axis_name: AxisName | None = None,
  mesh: jax.sharding.Mesh | None = None,
  symmetric: bool = True,
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """InfoNCE of two views: row i of `a` and row i of `b` are one video, all other rows negatives.

  The loss is the mean over all 2N anchors of −log(exp(S_ip) / Σ_{k≠i} exp(S_ik)), where p is the
  row of the other view. The positive stays in the denominator; only the anchor itself is masked
  (CVRL, Qian et al. 2021, eq. 1; SimCLR, Chen et al. 2020, eq. 1). CVRL in TF Model Garden trains
  on twice this loss.

  How to call it depends on where the batch is:

  * One device, or `jit` over global arrays: leave out `axis_name`. Value and gradient are those of
    the global batch under any sharding. For the block-wise form also give `mesh` and `axis_name`;
    otherwise XLA's partitioner may repeat the walk over the tiles on every device.
  * `shard_map` or `pmap`: `a` and `b` are this device's rows and `axis_name` is the mapped axis.
    Loss and metrics are those of the global batch, equal on all devices. Under `shard_map` with
    `check_vma=True`, `jax.grad` of the loss is exact, and gradients of replicated parameters are
    already summed over devices: do not reduce them. Under `check_vma=False` and `pmap`, as for any
    loss that ends in `pmean`, `jax.grad` on each device gives the share of its own rows times the
    number of devices: take `lax.pmean` of the parameter gradients, nothing else. (`jax.grad` of an
    already-mapped function is exact in every case.)

  Args:
    a: raw embeddings of the first view, `[N, D]`, any float type; L2-normalized inside. A vector
      with norm below 1e-6 has similarity 0 to everything and gradient 0.
    b: raw embeddings of the second view, `[N, D]`.
    temperature: τ > 0, a number or a scalar array; differentiable.
    block_size: None for the dense form (memory 2N × 2N), otherwise videos per side of a tile; a
      tile holds 4 · block_size² logits. Need not divide N. 512 suits CPUs, 1024 or more GPUs. The
      block-wise form has its own gradient rule: first order, reverse mode only.
    axis_name: mesh axis, or axes, over which the batch is sharded.
    mesh: for global arrays under `jit`: split the work over `axis_name` of this mesh.
    symmetric: False for the one-directional form: the mean over only the N anchors in `a`, with
      the same candidates.
    precision: precision of the matrix products. The default keeps float32 even where the backend
      would use TF32 or bfloat16 passes.

  Returns:
    loss: float32 scalar, in [0, ∞); log(2N − 1) if all embeddings are equal.
    metrics: float32 scalars without gradient. The first two use only the logits a → b, anchor a_i
      against all b_j, as in TF Model Garden:
      contrast_accuracy: share of anchors that are nearer to their own b than to any other, by more
        than 1e-6 in cosine, in [0, 1].
      contrast_entropy: mean entropy of the softmax over b, in nats, in [0, log N].
      positive_similarity: mean cosine of a_i and b_i, in [−1, 1].
      negative_similarity: mean cosine over all pairs of different videos, both views; 0 if N = 1.

  Raises:
    UserError: shapes differ or aren't `[N, D]`, N = 0, temperature or block_size isn't positive,
      `mesh` comes without `axis_name`, or N doesn't split evenly over the mesh.
  """
  _check(a, b, temperature, block_size)
  if mesh is not None:
    return _on_mesh(a, b, temperature, block_size, axis_name, mesh, symmetric, precision)
  dtype = jnp.result_type(a, b, jnp.float32)
  temperature = jnp.asarray(temperature, dtype)
  if axis_name is not None:
    # Add a zero that varies over the axis. Under check_vma the custom gradient below can then treat
    # all inputs in the same way, and JAX itself sums the gradients of replicated inputs.
    zero = 0 * lax.axis_index(axis_name)
    a, b, temperature = (x + zero.astype(x.dtype) for x in (a, b, temperature))
  options = (axis_name, symmetric, precision)
  if block_size is None:
    loss, stats = _dense(a, b, temperature, *options)
  else:
    loss, stats = _blocked(a, b, temperature, block_size, *options)
  if axis_name is not None:
    loss, stats = lax.pmean((loss, stats), axis_name)
  videos = a.shape[0] * (1 if axis_name is None else lax.axis_size(axis_name))
  return loss, _metrics(jax.tree.map(lax.stop_gradient, stats), videos)


def _check(a, b, temperature, block_size):
  if a.ndim != 2 or a.shape != b.shape or not a.shape[0]:
    raise UserError(f"info_nce: a and b must be [N, D] alike, N > 0; got {a.shape} and {b.shape}")
  if isinstance(temperature, int | float) and not temperature > 0:
    raise UserError(f"info_nce: temperature must be positive; got {temperature}")
  if block_size is not None and block_size < 1:
    raise UserError(f"info_nce: block_size must be positive, or None for dense; got {block_size}")


def _on_mesh(a, b, temperature, block_size, axis_name, mesh, symmetric, precision):
  names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
  if not names or any(name not in mesh.shape for name in names):
    raise UserError(f"info_nce: axis_name {axis_name!r} must name axes of mesh {dict(mesh.shape)}")
  devices = functools.reduce(lambda n, name: n * mesh.shape[name], names, 1)
  if a.shape[0] % devices:
    raise UserError(f"info_nce: {a.shape[0]} videos don't split evenly over {devices} devices")
  split, whole = PartitionSpec(names), PartitionSpec()
  local = functools.partial(
    info_nce,
    block_size=block_size,
    axis_name=names,
    symmetric=symmetric,
    precision=precision,
  )
  mapped = jax.shard_map(local, mesh=mesh, in_specs=(split, split, whole), out_specs=whole)
  return mapped(a, b, jnp.asarray(temperature))


def _metrics(stats, videos):
  apart = jnp.sum(stats["mean"] ** 2) * videos - stats["square"]
  return {
    "contrast_accuracy": stats["accuracy"],
    "contrast_entropy": stats["entropy"],
    "positive_similarity": stats["positive"],
    # Σ over different videos = |Σ (a + b)|² − Σ |a + b|²: all N² cosines from a sum of N vectors.
    "negative_similarity": apart / max(4 * (videos - 1), 1),
  }


def _gather(x, axis_name):
  return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def _first_row(x, axis_name):
  return 0 if axis_name is None else lax.axis_index(axis_name) * x.shape[0]


def _weights(n, symmetric):
  """Weights of the losses of anchors a_i and b_i in this device's mean over its n videos."""
  return (0.5 / n, 0.5 / n) if symmetric else (1.0 / n, 0.0)


# --- Dense ----------------------------------------------------------------------------------------


def _dense(a, b, temperature, axis_name, symmetric, precision):
  """Mean loss and statistics of this device; has logits `[n, 2N]` for each of the two views."""
  dtype = temperature.dtype
  a, b = l2_normalize(a).astype(dtype), l2_normalize(b).astype(dtype)
  every = jnp.concatenate([_gather(a, axis_name), _gather(b, axis_name)])  # [2N, D]
  n, total = a.shape[0], every.shape[0] // 2
  video = _first_row(a, axis_name) + jnp.arange(n)
  negative = jnp.tile(video[:, None] != jnp.arange(total)[None, :], (1, 2))
  cosine = jnp.sum(a * b, axis=-1)
  positive = cosine / temperature

  losses, logits = [], []
  for anchors in (a, b) if symmetric else (a,):
    s = jnp.matmul(anchors, every.T, precision=precision) / temperature
    logits.append(jnp.where(negative, s, _MASKED))
    losses.append(jax.nn.softplus(jax.nn.logsumexp(logits[-1], axis=1) - positive))
  loss = sum(w * jnp.sum(x) for w, x in zip(_weights(n, symmetric), losses, strict=False))

  others = logits[0][:, total:]
  best = jnp.max(others, axis=1)
  log_p = jax.nn.log_softmax(jnp.where(negative[:, total:], others, positive[:, None]), axis=1)
  return loss, {
    "accuracy": jnp.mean(cosine - best * temperature > _TIE, dtype=dtype),
    "entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=1)),
    "positive": jnp.mean(cosine),
    "mean": jnp.mean(a + b, axis=0),
    "square": jnp.mean(jnp.sum((a + b) ** 2, axis=1)),
  }


# --- Block-wise -----------------------------------------------------------------------------------
# Anchors and candidates are indexed by video and view, [N, 2]. A tile is [2, B, 2, C] logits of two
# blocks of videos. Pairs of a video with itself are masked in the tiles; the positive, which costs
# only O(N), is added at the end.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _blocked(a, b, temperature, block_size, axis_name, symmetric, precision):
  """The same as `_dense`, computed in tiles."""
  return _blocked_fwd(a, b, temperature, block_size, axis_name, symmetric, precision)[0]


def _views(block, z):
  """Normalized embeddings `[2 · B, D]` of a block of videos; z = (a, b, inverse norms [N, 2])."""
  a, b, scale = block.take(z)
  x = jnp.stack([a, b]).astype(scale.dtype) * scale.T[:, :, None]
  return x.reshape(-1, x.shape[-1])


def _tile_logits(x, y, mask, precision):
  s = jnp.matmul(x, y.T, precision=precision).reshape(2, mask.shape[0], 2, mask.shape[1])
  return jnp.where(mask[None, :, None, :], s, _MASKED)


def _summary(s, by_row):
  """Sums over a tile's logits `[2, B, 2, C]` that n and the metrics need, per row or column anchor.

  Returns:
    most, total: maximum and Σ exp(s − maximum), `[B or C, 2, 2]` by view of anchor and candidate.
    slope: `[B or C]`, Σ exp(s − maximum)(s − maximum) for a → b only, needed for the entropy.
  """
  axis, order, a_to_b = (3, (1, 0, 2), np.s_[0, :, 1]) if by_row else (1, (2, 1, 0), np.s_[1, :, 0])
  most = jnp.maximum(jnp.max(s, axis, keepdims=True), _LEAST)
  shifted = s - most
  weight = jnp.exp(shifted)
  slope = jnp.sum((weight * shifted)[a_to_b], axis // 2)
  return most.squeeze(axis).transpose(order), jnp.sum(weight, axis).transpose(order), slope


def _join(old, new):
  """Joins two summaries of disjoint candidates."""
  most = jnp.maximum(old[0], new[0])
  total, slope = 0.0, 0.0
  for part_most, part_total, part_slope in (old, new):
    factor = jnp.exp(part_most - most)
    total += part_total * factor
    shift = (part_most - most)[:, 0, 1]
    slope += factor[:, 0, 1] * (part_slope + part_total[:, 0, 1] * shift)
  return most, total, slope


def _add(old, new):
  return jax.tree.map(jnp.add, old, new)


def _blocked_fwd(a, b, temperature, block_size, axis_name, symmetric, precision):
  dtype, n = temperature.dtype, a.shape[0]
  scale = jnp.stack([inverse_norm(a), inverse_norm(b)], axis=1).astype(dtype)  # [n, 2]
  own = (a, b, scale)
  every = _gather(own, axis_name)
  first, total = _first_row(a, axis_name), every[0].shape[0]
  half = axis_name is None

  def step(carry, rows, cols, mask):
    mask &= (first + rows.index)[:, None] != cols.index[None, :]
    x, y = _views(rows, own) / temperature, _views(cols, every)
    s = _tile_logits(x, y, mask, precision)
    carry = rows.merge(_join, carry, _summary(s, by_row=True))
    if half:
      carry = cols.merge(_join, carry, _summary(s, by_row=False))
    return carry

  start = (
    lax.full_like(a, _LEAST, dtype, (n, 2, 2)),
    lax.full_like(a, 0, dtype, (n, 2, 2)),
    lax.full_like(a, 0, dtype, (n,)),
  )
  most, totals, slope = tiles.fold_tiles(
    step, start, n, None if half else total, block_size=block_size
  )

  cosine = jnp.sum(a.astype(dtype) * b.astype(dtype), axis=1) * scale[:, 0] * scale[:, 1]
  positive = cosine / temperature
  # Sum the negatives of both candidate views. rate_i exp(S_ij − peak_i) is the weight w_i P_ij of a
  # negative. Rate and peak are kept separate, so it is exact even for logits in the thousands.
  peak = jnp.max(most, axis=2)  # [n, 2]
  mass = jnp.sum(totals * jnp.exp(most - peak[..., None]), axis=2)
  gap = peak - positive[:, None] + jnp.log(mass)  # −∞ without negatives
  weights = jnp.asarray(_weights(n, symmetric), dtype)
  losses = jax.nn.softplus(gap)
  missing = jax.nn.sigmoid(gap) * weights  # w_i (1 − P of the positive)
  rate = missing / jnp.where(mass > 0, mass, 1.0)

  # Softmax over all b_j: add the positive to the a → b negatives as one more candidate.
  alone = jnp.broadcast_to(positive[:, None, None], most.shape)
  single = alone, jnp.ones_like(alone), jnp.zeros_like(positive)
  _, mass, slope = _join((most, totals, slope), single)
  mass = mass[:, 0, 1]
  directed = jnp.sum(scale > 0, axis=1)  # |z_a|² + |z_b|²
  stats = {
    "accuracy": jnp.mean(cosine - most[:, 0, 1] * temperature > _TIE, dtype=dtype),
    "entropy": jnp.mean(jnp.log(mass) - slope / mass),
    "positive": jnp.mean(cosine),
    "mean": sum(jnp.matmul(scale[:, i], x, precision=precision) for i, x in enumerate((a, b))) / n,
    "square": jnp.mean(directed + 2 * cosine),
  }
  residuals = (a, b, temperature, every, scale, peak, rate, jnp.sum(missing, axis=1))
  return (jnp.sum(losses * weights), stats), residuals


def _blocked_bwd(block_size, axis_name, symmetric, precision, residuals, cotangents):
  a, b, temperature, every, scale, peak, rate, push = residuals
  dtype, n, total = temperature.dtype, a.shape[0], every[0].shape[0]
  half = axis_name is None
  first = _first_row(a, axis_name)
  own = (a, b, scale)
  # All anchors have the same weight in the global mean, so cotangent and weights are the same on
  # all devices.
  every_anchor = _gather((peak, rate), axis_name)

  def step(carry, rows, cols, mask):
    mask &= (first + rows.index)[:, None] != cols.index[None, :]
    x, y = _views(rows, own), _views(cols, every)
    s = _tile_logits(x / temperature, y, mask, precision).reshape(len(x), len(y))
    row_peak, row_rate = (v.T.reshape(-1, 1) for v in rows.take((peak, rate)))
    col_peak, col_rate = (v.T.reshape(1, -1) for v in cols.take(every_anchor))
    pull = row_rate * jnp.exp(s - row_peak) + col_rate * jnp.exp(s - col_peak)
    by_row = jnp.matmul(pull, y, precision=precision).reshape(2, -1, x.shape[1])
    carry = rows.merge(_add, carry, tuple(by_row))
    if half:
      # Without the barriers, XLA on CPU computes this product in a layout three times as slow.
      by_col = jnp.matmul(lax.optimization_barrier(x.T), pull, precision=precision)
      by_col = lax.optimization_barrier(by_col).T.reshape(2, -1, x.shape[1])
      carry = cols.merge(_add, carry, tuple(by_col))
    return carry

  start = (jnp.zeros_like(a, dtype), jnp.zeros_like(b, dtype))
  pulls = tiles.fold_tiles(step, start, n, None if half else total, block_size=block_size)

  # The terms of the positive, and the gradient through the normalization. Also block by block: as
  # operations on whole arrays they would need several times N × D of memory.
  factor = cotangents[0] / temperature

  def finish(carry, block):
    pulls, trace = carry
    z = _views(block, own).reshape(2, -1, a.shape[1])
    pull = jnp.stack(block.take(pulls))
    dz = (pull - block.take(push)[:, None] * z[::-1]) * factor
    along = jnp.sum(z * dz, axis=2, keepdims=True)
    dx = (dz - z * along) * block.take(scale).T[:, :, None]
    fresh = block.fresh[:, None]
    pulls = block.put(pulls, tuple(jnp.where(fresh, dx, pull)))
    return pulls, trace + jnp.sum(jnp.where(fresh, along, 0.0))

  zero = lax.full_like(a, 0, dtype, ())
  (da, db), trace = tiles.fold_blocks(finish, (pulls, zero), n, block_size=block_size)
  # The loss depends only on z zᵀ / τ, of degree 2 in z and −1 in τ: Euler's theorem gives ∂L/∂τ.
  return da.astype(a.dtype), db.astype(b.dtype), -trace / (2 * temperature)


_blocked.defvjp(_blocked_fwd, _blocked_bwd)
