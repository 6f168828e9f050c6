"""Multinomial logistic regression with an L2 penalty, on all devices of a mesh.

It minimizes what scikit-learn's `LogisticRegression` minimizes, Σ_i w_i log-loss_i + ‖W‖² / (2C),
with a free bias. One call of a compiled program is one fit. The rows are split over the devices.

Three things make a fit short:

- The features are centered and turned to their principal axes once. The penalty does not change.
  In these coordinates the Hessian of class k at W = 0 is nearly diagonal, with the entries
  p_k (1 − p_k) σ_f² + 1 / (C Σ_i w_i). L-BFGS works on W divided by the square roots of these.
- Logits are linear in W. So the line search needs no product with the features: it looks for the
  zero of the slope along z + t dz by Newton's method. An iteration costs two products of the
  features, as much as one gradient, however many steps are tried.
- The slope is summed over rows and not taken from differences of the loss, which float32 rounds
  away near the optimum.

  rows = Rows(x, label, classes=400, mesh=parallel.make_mesh())
  weak = rows.fit(0.01)
  strong = rows.fit(0.1, used=fold, start=weak)       # other weights need no other copy of x
  probabilities = rows.probabilities(strong, test)
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from vssl_jax import parallel
from vssl_jax.errors import UserError

TOLERANCE = 3e-8  # of `Fit.gap`
MAX_ITERATIONS = 1000
_MEMORY = 10  # pairs of L-BFGS
_TRIALS = 12  # steps that a line search tries at most
_FLATTER = 0.1  # a step is taken where the slope is at most this share of the first
_STALLED = 30  # iterations without progress, after which rounding is all that is left
_BLOCK = 1 << 14  # rows that the host converts at a time


class Fit(NamedTuple):
  """A fitted classifier, in the coordinates of its `Rows`; see `Rows.coefficients`.

  Attributes:
    weights: float32 `[F, K]`.
    bias: float32 `[K]`; −∞ for a class that no used row has.
    loss: float32 `[]`, the objective divided by Σ_i w_i.
    gap: float32 `[]`, estimates by which share `loss` could still fall: half of the squared norm of
      the gradient, in the metric of the inverse Hessian (that of L-BFGS, or its diagonal at the
      start if that is larger), divided by `loss`.
    iterations: int32 `[]`.
    converged: bool `[]`, whether `gap` reached the tolerance.
  """

  weights: jax.Array
  bias: jax.Array
  loss: jax.Array
  gap: jax.Array
  iterations: jax.Array
  converged: jax.Array


class Programs(NamedTuple):
  """Compiled functions over a mesh.

  Attributes:
    gram: rows `[N, F]` to XᵀX `[F, F]`.
    turn: (rows `[N, F]`, axes `[F, F]`) to their product; the rows are given away.
    fit: see `_fit`.
    log_likelihood: (fit, rows, label `[N]`) to `[N]`, the log-probability of each row's own class.
    probabilities: (fit, rows `[N, F]`) to `[N, K]`.
  """

  gram: jax.stages.Wrapped
  turn: jax.stages.Wrapped
  fit: jax.stages.Wrapped
  log_likelihood: jax.stages.Wrapped
  probabilities: jax.stages.Wrapped


class Rows:
  """Labeled rows on the devices of a mesh, to fit any number of classifiers on parts of them."""

  def __init__(self, x: np.ndarray, label: np.ndarray, *, classes: int, mesh: Mesh | None = None):
    """Puts the rows on the devices, as float32 and once.

    Args:
      x: float `[N, F]`.
      label: int `[N]`, from 0 to K − 1.
      classes: K.
      mesh: the devices; None takes all of this process. With several processes, all of them call
        with the same arrays.

    Raises:
      UserError: the shapes do not fit, or a label is not one of the K classes.
    """
    if x.ndim != 2 or label.shape != x.shape[:1] or not x.size:
      raise UserError(
        f"softmax regression: rows and labels must be [N, F] and [N]; got {x.shape}, {label.shape}"
      )
    if label.min() < 0 or label.max() >= classes:
      raise UserError(
        f"softmax regression: labels must be from 0 to {classes - 1}; got {label.min()} to "
        f"{label.max()}"
      )
    self._mesh = parallel.make_mesh(jax.local_devices()) if mesh is None else mesh
    self._run = programs(self._mesh)
    self._count, self._classes = len(x), classes
    self._class = np.asarray(label, np.int32)
    self._shift = x.mean(axis=0, dtype=np.float64)
    self._label = self._split(self._class)
    rows = self._split(self._centered(x))
    values, axes = np.linalg.eigh(np.asarray(self._run.gram(rows), np.float64))
    self._axes = parallel.put_replicated(self._mesh, axes.astype(np.float32))
    self._variance = (np.maximum(values, 0) / len(x)).astype(np.float32)
    self._rows = self._run.turn(rows, self._axes)

  def fit(
    self,
    strength: float,
    *,
    used: np.ndarray | None = None,
    start: Fit | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
  ) -> Fit:
    """Fits a classifier.

    Args:
      strength: C of scikit-learn. With two classes in the used rows, scikit-learn has one vector of
        weights w in place of two columns; its penalty ‖w‖² / (2C) is matched by columns ± w / 2.
      used: float or bool `[N]`, weights of the rows; None uses all alike. A fold has 0 and 1.
      start: a fit of these rows to start from, such as that of the C before.
      tolerance: the fit ends where `Fit.gap` is at most this.
      max_iterations: the fit ends after so many iterations.

    Raises:
      UserError: C is not positive, or fewer than two classes are used.
    """
    weight = np.ones(self._count, np.float32) if used is None else np.asarray(used, np.float32)
    counts = np.bincount(self._class, weight, self._classes)
    present = int(np.sum(counts > 0))
    if not strength > 0 or present < 2:
      raise UserError(
        f"softmax regression: needs C > 0 and rows of two classes; got C = {strength} and "
        f"{present} classes"
      )
    shape = (len(self._variance), self._classes)
    nothing = np.zeros(shape, np.float32), np.zeros(self._classes, np.float32)
    weights, bias = nothing if start is None else (start.weights, start.bias)
    scalars = (np.float32(strength / 2 if present == 2 else strength), np.float32(tolerance))
    whole = (self._variance, counts.astype(np.float32), weights, bias, *scalars)
    whole = parallel.put_replicated(self._mesh, (*whole, np.int32(max_iterations)))
    return self._run.fit(self._rows, self._label, self._split(weight), *whole)

  def log_likelihood(self, fit: Fit) -> np.ndarray:
    """The log-probability of each row's own class, float64 `[N]`; −∞ for a class without rows."""
    found = self._run.log_likelihood(fit, self._rows, self._label)
    return np.asarray(found, np.float64)[: self._count]

  def probabilities(self, fit: Fit, x: np.ndarray) -> np.ndarray:
    """The probabilities of the classes of other rows `[U, F]`, float64 `[U, K]`."""
    rows = self._run.turn(self._split(self._centered(x)), self._axes)
    return np.asarray(self._run.probabilities(fit, rows), np.float64)[: len(x)]

  def coefficients(self, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[F, K]` and bias `[K]` for the features as they were given, float64."""
    weights = np.asarray(self._axes, np.float64) @ np.asarray(fit.weights, np.float64)
    return weights, np.asarray(fit.bias, np.float64) - self._shift @ weights

  def _centered(self, x: np.ndarray) -> np.ndarray:
    centered = np.empty(x.shape, np.float32)
    for i in range(0, len(x), _BLOCK):
      centered[i : i + _BLOCK] = x[i : i + _BLOCK] - self._shift
    return centered

  def _split(self, x: np.ndarray) -> jax.Array:
    """An array of rows on the mesh, with zeros at the end until the devices divide it."""
    if lack := -len(x) % self._mesh.size:
      x = np.concatenate([x, np.zeros((lack, *x.shape[1:]), x.dtype)])
    return parallel.put(self._mesh, x, PartitionSpec(parallel.AXIS))


@functools.cache
def programs(mesh: Mesh) -> Programs:
  """The functions that `Rows` calls, compiled for each new shape."""
  rows: Any = PartitionSpec(parallel.AXIS)
  whole: Any = PartitionSpec()
  replicated = parallel.replicated(mesh)

  def over(function: Any, specs: Any, out: Any, **options: Any) -> jax.stages.Wrapped:
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out)
    return jax.jit(mapped, **options)

  return Programs(
    gram=over(lambda x: _total(_dot(x.T, x)), rows, whole),
    turn=over(_dot, (rows, whole), rows, donate_argnums=0),
    fit=over(_fit, (rows,) * 3 + (whole,) * 7, whole),
    log_likelihood=over(_log_likelihood, (whole, rows, rows), rows, out_shardings=replicated),
    probabilities=over(
      lambda fit, x: jnp.exp(_log_softmax(fit, x)), (whole, rows), rows, out_shardings=replicated
    ),
  )


def abstract(mesh: Mesh, count: int, features: int, classes: int) -> tuple[Any, ...]:
  """Shapes, dtypes and shardings of the arguments of `Programs.fit`, to compile it for any mesh."""
  split, whole = parallel.split(mesh), parallel.replicated(mesh)
  count += -count % mesh.size
  of_rows = ((count, features), jnp.float32), ((count,), jnp.int32), ((count,), jnp.float32)
  of_all = (features,), (classes,), (features, classes), (classes,), (), ()
  return (
    *(jax.ShapeDtypeStruct(*one, sharding=split) for one in of_rows),
    *(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=whole) for shape in of_all),
    jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
  )


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _total(tree: Any) -> Any:
  return lax.psum(tree, parallel.AXIS)


def _log_softmax(fit: Fit, x: jax.Array) -> jax.Array:
  return log_normalized(_dot(x, fit.weights) + fit.bias)


def log_normalized(z: jax.Array) -> jax.Array:
  """The log-softmax of `[n, K]` with all digits where one probability is nearly 1.

  There `jax.nn.log_softmax` rounds 1 + Σ exp(z_k − z_max) to float32, so of a log-probability of
  −1e-4 only three digits are left. XLA's own log1p does the same above 1e-4.
  """
  largest = jnp.arange(z.shape[1]) == jnp.argmax(z, axis=1)[:, None]
  # Exactly 0 for the largest: a program may compute z twice, with different rounding.
  z = jnp.where(largest, 0.0, z - jnp.max(z, axis=1, keepdims=True))
  s = jnp.sum(jnp.where(largest, 0.0, jnp.exp(z)), axis=1, keepdims=True)
  t = s / (2 + s)  # log(1 + s) = 2 artanh(t); up to t = 1/5 the next term is below 1e-8
  t2 = t * t
  series = 2 * t * (1 + t2 * (1 / 3 + t2 * (1 / 5 + t2 * (1 / 7 + t2 / 9))))
  return z - jnp.where(s < 0.5, series, jnp.log(1 + s))


def _log_likelihood(fit: Fit, x: jax.Array, label: jax.Array) -> jax.Array:
  return jnp.take_along_axis(_log_softmax(fit, x), label[:, None], axis=1)[:, 0]


class _Point(NamedTuple):
  """Where a fit stands; trees have the entries `w` `[F, K]` and `b` `[K]`.

  Attributes:
    v: the parameters in the coordinates of L-BFGS.
    z: logits of this device's rows `[n, K]`.
    loss: the mean loss with its penalty.
    g: the gradient by `v`.
    step: where L-BFGS goes, by `v`.
    memory: state of L-BFGS.
    fall: by how much the loss could still fall, as `g` and `step` estimate it.
    least: the smallest norm of `g` so far.
    stalled: iterations since then in which the loss did not fall either.
    iterations: their number.
  """

  v: Any
  z: jax.Array
  loss: jax.Array
  g: Any
  step: Any
  memory: Any
  fall: jax.Array
  least: jax.Array
  stalled: jax.Array
  iterations: jax.Array


def _fit(
  x: jax.Array,
  label: jax.Array,
  weight: jax.Array,
  variance: jax.Array,
  counts: jax.Array,
  weights: jax.Array,
  bias: jax.Array,
  strength: jax.Array,
  tolerance: jax.Array,
  max_iterations: jax.Array,
) -> Fit:
  """Fits on the rows of all devices.

  Args:
    x: `[n, F]`, this device's rows in principal axes.
    label: int32 `[n]`.
    weight: `[n]`, 0 for padding.
    variance: `[F]`, of the principal axes.
    counts: `[K]`, Σ_i w_i of each class.
    weights: `[F, K]`, where to start.
    bias: `[K]`, where to start; of no account where the weights are all 0.
    strength: C.
    tolerance: of `Fit.gap`.
    max_iterations: of L-BFGS.
  """
  total = jnp.sum(counts)
  penalty = 1 / (strength * total)
  share = weight / total
  present = counts > 0
  prior = jnp.where(present, counts, 1.0) / total
  own = jnp.arange(len(counts)) == label[:, None]

  def log_softmax(z: jax.Array) -> jax.Array:
    return log_normalized(jnp.where(present, z, -jnp.inf))

  def gradient(z: jax.Array, w: jax.Array) -> Any:
    log_p = log_softmax(z)
    residual = jnp.where(own, jnp.expm1(log_p), jnp.exp(log_p))  # p − 1 with all digits
    found = _total({"w": _dot(x.T, share[:, None] * residual), "b": _dot(share, residual)})
    return found | {"w": found["w"] + penalty * w}

  # At W = 0 the best bias is the log of the classes' shares.
  cold = jnp.all(weights == 0)
  bias = jnp.where(cold, jnp.log(prior), jnp.where(jnp.isfinite(bias), bias, jnp.log(prior)))
  z = _dot(x, weights) + bias
  p = jnp.exp(log_softmax(z))
  curvature = _total(share @ (p * (1 - p)))
  curvature = jnp.maximum(curvature, 0.01 * jnp.mean(curvature) + jnp.finfo(p.dtype).tiny)
  scale = {
    "w": lax.rsqrt(curvature * variance[:, None] + penalty),
    "b": lax.rsqrt(curvature),
  }
  times = functools.partial(jax.tree.map, jnp.multiply)
  norm, vdot = optax.tree_utils.tree_norm, optax.tree_utils.tree_vdot
  lbfgs = optax.scale_by_lbfgs(_MEMORY)

  def along(t: jax.Array, z: jax.Array, dz: jax.Array, w: Any, dw: Any) -> Any:
    """Loss, slope and curvature at z + t dz."""
    log_p = log_softmax(z + t * dz)
    p = jnp.exp(log_p)
    dz -= jnp.sum(jnp.where(own, dz, 0.0), axis=1, keepdims=True)  # so that p ≈ 1 adds nothing
    mean = jnp.sum(p * dz, axis=1)
    loss = -share @ jnp.sum(jnp.where(own & present, log_p, 0.0), axis=1)
    slope = share @ mean
    bend = share @ jnp.sum(p * jnp.square(dz - mean[:, None]), axis=1)
    loss, slope, bend = _total((loss, slope, bend))
    ww, wd, dd = vdot(w, w), vdot(w, dw), vdot(dw, dw)
    return (
      loss + penalty * (ww / 2 + t * wd + t * t * dd / 2),
      slope + penalty * (wd + t * dd),
      bend + penalty * dd,
    )

  def search(at: _Point, dz: jax.Array, w: jax.Array, dw: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A step at which the slope is nearly 0, and the loss there.

    The step lies between one that is too short, `low`, and one that is too long, `high`.
    """
    _, first, _ = along(jnp.float32(0), at.z, dz, w, dw)

    def trial(state: Any) -> Any:
      t, (low, low_loss), high, tries, _, _ = state
      loss, slope, bend = along(t, at.z, dz, w, dw)
      worse = ~(loss <= at.loss + 1e-6 * jnp.abs(at.loss))
      found = (jnp.abs(slope) <= _FLATTER * jnp.abs(first)) & ~worse
      long = (slope > 0) | worse
      low, low_loss = jnp.where(long, low, t), jnp.where(long, low_loss, loss)
      high = jnp.where(long, t, high)
      newton = t - slope / jnp.maximum(bend, jnp.finfo(t.dtype).tiny)
      inside = (newton > low) & (newton < jnp.minimum(high, 10 * t))
      other = jnp.where(jnp.isfinite(high), (low + high) / 2, 4 * t)
      following = jnp.where(inside, newton, other)
      return jnp.where(found, t, following), (low, low_loss), high, tries + 1, found, loss

    zero, no = jnp.float32(0), jnp.bool_(False)
    state = (jnp.float32(1), (zero, at.loss), jnp.float32(jnp.inf), jnp.int32(0), no, zero)
    state = lax.while_loop(lambda s: (s[3] < _TRIALS) & ~s[4], trial, state)
    t, (low, low_loss), _, _, found, loss = state
    return jnp.where(found, t, low), jnp.where(found, loss, low_loss)

  def point(v: Any, z: jax.Array, loss: jax.Array, memory: Any) -> dict[str, Any]:
    g = times(gradient(z, v["w"] * scale["w"]), scale)
    step, memory = lbfgs.update(g, memory, v)
    square = vdot(g, g)
    uphill = ~(vdot(step, g) > 0)
    step = jax.tree.map(lambda s, g: -jnp.where(uphill, g, s), step, g)
    fall = jnp.maximum(-vdot(step, g), square) / 2
    return {"v": v, "z": z, "loss": loss, "g": g, "step": step, "memory": memory, "fall": fall}

  def unfinished(at: _Point) -> jax.Array:
    going = (at.iterations < max_iterations) & (at.stalled < _STALLED)
    return (at.fall > tolerance * at.loss) & going

  def iterate(at: _Point) -> _Point:
    dw, w = times(at.step, scale), times(at.v, scale)
    dz = _dot(x, dw["w"]) + dw["b"]
    t, loss = search(at, dz, w["w"], dw["w"])
    v = jax.tree.map(lambda a, b: a + t * b, at.v, at.step)
    new = point(v, at.z + t * dz, loss, at.memory)
    size = norm(new["g"])
    better = (size < at.least) | (loss < at.loss * (1 - 3e-7))
    stalled = jnp.where(better, 0, at.stalled + 1)
    least = jnp.minimum(size, at.least)
    return _Point(**new, least=least, stalled=stalled, iterations=at.iterations + 1)

  def loss_at(z: jax.Array, w: jax.Array) -> jax.Array:
    return along(jnp.float32(0), z, jnp.zeros_like(z), w, jnp.zeros_like(w))[0]

  v = jax.tree.map(jnp.divide, {"w": weights, "b": bias}, scale)
  begin = point(v, z, loss_at(z, weights), lbfgs.init(v))
  none = jnp.int32(0)
  start = _Point(**begin, least=norm(begin["g"]), stalled=none, iterations=none)
  at = lax.while_loop(unfinished, iterate, start)
  found = times(at.v, scale)
  # Anew, because the logits above are a sum over all iterations.
  z = _dot(x, found["w"]) + found["b"]
  anew = norm(times(gradient(z, found["w"]), scale)) / norm(at.g)
  loss = loss_at(z, found["w"])
  gap = at.fall * jnp.where(jnp.isfinite(anew), jnp.square(anew), 1.0) / loss
  return Fit(
    weights=found["w"],
    bias=jnp.where(present, found["b"], -jnp.inf),
    loss=loss,
    gap=gap,
    iterations=at.iterations,
    converged=gap <= 4 * tolerance,
  )
