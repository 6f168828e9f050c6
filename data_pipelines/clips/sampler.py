"""Chooses the starts of a video's clips: CVRL's temporal interval sampler and its alternatives.

In a video of `L` frames, a clip of `n` frames, `s` apart, has `m = L − (n − 1) s` valid starts.
The sampler draws an interval δ from a density on [0, m), then the start of the earlier clip among
the `m − δ` starts that leave room for the later clip, then which of the two clips is the earlier
one (CVRL §3.2).

Every function is plain arithmetic on its arguments: the caller passes the random numbers, and the
same code works on NumPy arrays and on TensorFlow tensors, also inside `tf.data`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vssl_jax.errors import UserError

Array = Any  # np.ndarray or tf.Tensor

DENSITIES = ("decreasing", "uniform", "increasing")
DISTRIBUTIONS = (*DENSITIES, "constant", "same", "independent")
PLACEMENTS = ("ends", "starts")  # of test clips, see `eval_starts`

# 32^-7: quantiles are exact to 3e-11 of the support, far below one frame.
_SECTIONS, _ROUNDS = 32, 7


@dataclasses.dataclass(frozen=True)
class Interval:
  """How the starts of a video's clips relate to each other (`config.data.interval`).

  Attributes:
    distribution: density of the interval between two clips' starts: `decreasing` is CVRL's
      f(k) ∝ 1 − (k/m)^power, `increasing` is f(k) ∝ (k/m)^power, `uniform` is flat, `constant` is
      always `gap`, `same` is always 0. `independent` draws each start by itself, for any number
      of clips.
    power: exponent p of these densities; p → ∞ turns `decreasing` into `uniform`.
    gap: the interval of `constant`, in `unit`; shortened if the video is too short for it.
    unit: "frames" or "seconds" (converted by each video's own frame rate).
    max_seconds: largest distance between any two starts; 0 sets no bound. The density is the
      distribution's, conditioned on this bound.
    min_seconds: smallest distance between the earliest and the latest start, again by
      conditioning; in a video too short for it, they are as far apart as possible.
  """

  distribution: str = "decreasing"
  power: float = 1.0
  gap: float = 0.0
  unit: str = "frames"
  max_seconds: float = 0.0
  min_seconds: float = 0.0

  @property
  def needs_fps(self) -> bool:
    """Whether the starts depend on the video's frame rate."""
    bounded = self.max_seconds > 0 or self.min_seconds > 0
    return bounded or (self.distribution == "constant" and self.unit == "seconds")


def from_config(interval: Any, clips: int) -> Interval:
  """Checks `config.data.interval` for `clips` clips per video.

  Raises:
    UserError: the distribution or unit is unknown, a value is out of range, or the distribution
      is defined for two clips only and `clips` is larger.
  """
  result = Interval(**{f.name: interval[f.name] for f in dataclasses.fields(Interval)})
  where = "config.data.interval"
  if result.distribution not in DISTRIBUTIONS:
    raise UserError(
      f"{where}.distribution is {result.distribution!r}; choose one of {', '.join(DISTRIBUTIONS)}."
    )
  if result.unit not in ("frames", "seconds"):
    raise UserError(f"{where}.unit: {result.unit!r} is neither 'frames' nor 'seconds'.")
  if clips < 1:
    raise UserError(f"config.data.clips: {clips} clips per video; give at least 1.")
  if clips > 2 and result.distribution not in ("independent", "same"):
    raise UserError(
      f"{where}.distribution: {result.distribution!r} relates two clips but config.data.clips is "
      f"{clips}; set the distribution to 'independent'."
    )
  if not result.power > 0:
    raise UserError(f"{where}.power: {result.power} is not above 0.")
  if min(result.gap, result.max_seconds, result.min_seconds) < 0:
    raise UserError(f"{where}: gap, max_seconds and min_seconds cannot be negative.")
  if result.min_seconds and result.distribution in ("same", "constant"):
    raise UserError(
      f"{where}.min_seconds: the distribution {result.distribution!r} draws no interval; set "
      "min_seconds to 0 or choose another distribution."
    )
  if result.min_seconds and clips < 2:
    raise UserError(f"{where}.min_seconds: one clip per video has no span; set it to 0.")
  if 0 < result.max_seconds < result.min_seconds:
    raise UserError(
      f"{where}: min_seconds is {result.min_seconds}, above max_seconds {result.max_seconds}."
    )
  return result


def clip_size(frames: int, stride: int, rate: Array) -> Array:
  """Length of a clip of frames at a target rate, in frames of the video: PySlowFast's `clip_size`.

  Args:
    frames: T.
    stride: frames of the target rate per frame of the clip.
    rate: frames per second of the video over those of the target, float64 `[...]`.

  Returns:
    float64 `[...]`, at least 1: `T · stride · rate`.
  """
  return _namespace(rate).maximum(frames * stride * rate, 1.0)


def num_starts(length: Array, frames: int, stride: int, rate: Array | None = None) -> Array:
  """Number of valid starts `m` of a clip of `frames` frames, `stride` apart.

  In a video shorter than the clip, all frames are valid starts: the clip wraps around. With a
  `rate` (see `clip_size`) the clip must fit, and in a shorter video 0 is the only start.
  """
  xp = _namespace(length)
  if rate is not None:
    room = xp.asarray(length, dtype=np.float64) - clip_size(frames, stride, rate)
    return xp.maximum(xp.floor(room) + 1, 1.0)
  span = (frames - 1) * stride
  return xp.where(length > span, length - span, length)


def cdf(x: Array, power: float, distribution: str = "decreasing") -> Array:
  """Probability that the interval, as a share of its support `m`, is below `x`.

  `decreasing`: F(x) = ((p + 1) x − x^(p+1)) / p, the integral of (p + 1)/p · (1 − x^p).

  Args:
    x: share of the support, in [0, 1], any shape.
    power: p of the distribution.
    distribution: one of `DENSITIES`.

  Returns:
    Values in [0, 1], shape of `x`.
  """
  if distribution == "uniform":
    return x
  if distribution == "increasing":
    return x ** (power + 1)
  return ((power + 1) * x - x ** (power + 1)) / power


def quantile(u: Array, power: float, distribution: str = "decreasing") -> Array:
  """Inverse of `cdf`: the interval is below the returned share of the support with probability `u`.

  Uses the closed form if there is one. `decreasing` with p ≠ 1 is inverted by a search that
  divides the bracket into 32 sections per round.

  Args:
    u: float64 in [0, 1], any shape.
    power: p of the distribution.
    distribution: one of `DENSITIES`.

  Returns:
    Shares in [0, 1], shape of `u`.
  """
  if distribution == "uniform":
    return u
  if distribution == "increasing":
    return u ** (1 / (power + 1))
  if power == 1:
    return u / (1 + (1 - u) ** 0.5)  # equals 1 − sqrt(1 − u), but is exact for small u
  xp = _namespace(u)
  low, width = xp.zeros_like(u), 1.0
  for _ in range(_ROUNDS):
    width /= _SECTIONS
    grid = low[..., None] + width * np.arange(1, _SECTIONS)
    below = cdf(grid, power, distribution) <= u[..., None]
    low = low + width * xp.sum(xp.asarray(below, dtype=np.float64), axis=-1)
  return low


def num_uniforms(clips: int) -> int:
  """How many uniform random numbers `starts` needs."""
  return clips + 2


def starts(
  u: Array,
  length: Array,
  *,
  frames: int,
  stride: int,
  clips: int = 2,
  interval: Interval | None = None,
  fps: Array | float | None = None,
  rate: Array | None = None,
) -> Array:
  """First frame of each clip of a video.

  In a video no longer than a clip's span, (frames − 1) · stride, each clip wraps around and may
  start at any frame. There the three densities draw the starts independently, as the official code
  does.

  Args:
    u: float64 `[..., num_uniforms(clips)]`, independent and uniform on [0, 1).
    length: int `[...]`, frames in the video, at least 1.
    frames: frames in a clip.
    stride: source frames from one frame of the clip to the next.
    clips: clips per video, R.
    interval: relation between the starts; CVRL's distribution by default.
    fps: frames per second `[...]`; used only if `interval.needs_fps`.
    rate: frames per second over those at which `stride` is meant, float64 `[...]`; None if the
      stride counts the video's own frames.

  Returns:
    int64 `[..., R]`, each in [0, m).

  Raises:
    ValueError: `interval` needs a frame rate and `fps` is None.
  """
  interval = interval or Interval()
  xp = _namespace(u, length)
  length = xp.asarray(length, dtype=np.float64)
  m = num_starts(length, frames, stride, rate)
  if interval.needs_fps and fps is None:
    raise ValueError("an interval in seconds needs the video's frame rate")
  bound, least = m, xp.zeros_like(m)
  if interval.max_seconds > 0:
    bound = xp.minimum(m, xp.floor(interval.max_seconds * xp.asarray(fps, dtype=np.float64)))
  if interval.min_seconds > 0:
    wanted = -xp.floor(-interval.min_seconds * xp.asarray(fps, dtype=np.float64))
    least = xp.minimum(wanted, m - 1)
    bound = xp.maximum(bound, least)

  if interval.distribution == "same":
    one = _floor_below(xp, u[..., 0] * m, m)
    result = xp.stack([one] * clips, axis=-1)
  elif interval.distribution == "independent" and interval.min_seconds > 0:
    result = _spanning_starts(xp, u, m, least, bound, clips)
  elif clips == 1 or interval.distribution == "independent":
    result = _independent(xp, u, m, bound, clips)
  else:
    if interval.distribution == "constant":
      gap = interval.gap * (1.0 if fps is None or interval.unit == "frames" else fps)
      gap = xp.floor(xp.asarray(gap, dtype=np.float64) + 0.5)
      delta = xp.minimum(xp.minimum(gap, bound), m - 1)
    else:
      support = xp.minimum(m, bound + 1)
      low = cdf(least / m, interval.power, interval.distribution)
      share = low + u[..., 0] * (cdf(support / m, interval.power, interval.distribution) - low)
      delta = m * quantile(share, interval.power, interval.distribution)
      delta = xp.maximum(_floor_below(xp, delta, support), least)
    early = _floor_below(xp, u[..., 1] * (m - delta), m - delta)
    late = early + delta
    swap = u[..., 2] < 0.5
    result = xp.stack([xp.where(swap, late, early), xp.where(swap, early, late)], axis=-1)
    if interval.distribution in DENSITIES and rate is None:
      short = (length <= (frames - 1) * stride)[..., None]
      result = xp.where(short, _independent(xp, u, m, bound, clips), result)
  return xp.asarray(result, dtype=np.int64)


def eval_starts(
  length: Array,
  *,
  frames: int,
  stride: int,
  clips: int,
  placement: str = "ends",
  rate: Array | None = None,
) -> Array:
  """Evenly spaced clip starts for testing, rounded down, with l = max(0, L − n s) the last start.

  Args:
    length: int64 `[]`, frames in the video, L.
    frames: frames in a clip, n.
    stride: source frames from one frame of the clip to the next, s.
    clips: clips per video.
    placement: "ends" is `linspace(0, l, clips)`, and a single clip is taken from the middle;
      "starts" is `l · i / clips`, PySlowFast's `get_start_end_idx`, so no clip is at the end.
    rate: see `starts`; with it, l = max(0, L − clip_size).

  Returns:
    int64 `[clips]`.
  """
  xp = _namespace(length)
  if rate is None:
    last = xp.maximum(xp.asarray(length, dtype=np.int64) - frames * stride, 0)
  else:
    last = xp.asarray(length, dtype=np.float64) - clip_size(frames, stride, rate)
    last = xp.maximum(last, 0.0)
  if placement == "starts":
    begin = last * np.arange(clips) // clips
  else:
    begin = (last // 2)[None] if clips == 1 else last * np.arange(clips) // (clips - 1)
  return xp.asarray(begin, dtype=np.int64)


def frame_indices(
  start: Array, length: Array, *, frames: int, stride: int, rate: Array | None = None
) -> Array:
  """Frame numbers of the clips that begin at `start`; they wrap around at the end of the video.

  With a `rate`, as PySlowFast's `temporal_sampling`: T frames spread evenly from the first to the
  last of the `clip_size` frames, rounded down, so 8 frames with stride 8 are 9 frames apart where
  the rates are equal. Past the end of the video, its last frame is repeated.

  Args:
    start: int64 `[..., R]`.
    length: int64 `[...]`, frames in the video.
    frames: frames in a clip, T.
    stride: source frames from one frame of the clip to the next.
    rate: see `starts`.

  Returns:
    int64 `[..., R, T]`, each in [0, length).
  """
  xp = _namespace(start, length)
  length = xp.asarray(length, dtype=np.int64)[..., None, None]
  if rate is not None:
    size = clip_size(frames, stride, xp.asarray(rate, dtype=np.float64))[..., None, None]
    along = np.arange(frames, dtype=np.float64) * (size - 1) / max(frames - 1, 1)
    places = start[..., None] + xp.asarray(along, dtype=np.int64)
    return xp.minimum(places, length - 1)
  return (start[..., None] + np.arange(frames, dtype=np.int64) * stride) % length


def _independent(xp: Any, u: Array, m: Array, bound: Array, clips: int) -> Array:
  """Uniform starts on [0, m), conditioned on no two being further apart than `bound` = b.

  The smallest of the R starts has density ∝ R b^(R−1) up to m − b, and ∝ R (m − x)^(R−1) beyond;
  the others are uniform between it and b above it (at most m). Exact, without rejection sampling.
  """
  left, right = clips * (m - bound), bound  # masses of the two parts, divided by b^(R−1)
  mass = u[..., 0] * (left + right)
  tail = xp.maximum(1 - (mass - left) / xp.maximum(right, 1e-9), 0.0)
  least = xp.where(mass < left, mass / clips, m - bound * tail ** (1 / clips))
  others = least[..., None] + u[..., 2:] * xp.minimum(bound, m - least)[..., None]
  is_least = np.arange(clips) == xp.floor(u[..., 1] * clips)[..., None]
  return _floor_below(xp, xp.where(is_least, least[..., None], others), m[..., None])


def _spanning_starts(xp: Any, u: Array, m: Array, least: Array, bound: Array, clips: int) -> Array:
  """Uniform starts in 0 … m − 1, conditioned on a span of `least` to `bound`.

  The span s is the distance from the first to the last start. Of all m^R choices of R starts,
  (m − s) (s + 1)^R − (m − s − 1) s^R have a span of at most s: the choices within each of the m − s
  windows of s + 1 starts, minus those counted twice because neighboring windows overlap. The span
  is drawn from this count, the first start uniformly from the m − s possible ones, the other
  starts uniformly between the first and the last.
  """
  top = xp.minimum(bound, m - 1)

  def within(span: Array, m: Array) -> Array:  # share of choices with at most this span
    a, b = (span + 1) / m, span / m
    return (m - span) * a**clips - (m - span - 1) * b**clips

  low, high = within(xp.maximum(least - 1, 0.0), m), within(top, m)
  wanted = low + u[..., 0] * (high - low)
  share, width = xp.zeros_like(wanted), 1.0
  for _ in range(_ROUNDS):
    width /= _SECTIONS
    grid = share[..., None] + width * np.arange(1, _SECTIONS)
    below = within(grid * m[..., None], m[..., None]) <= wanted[..., None]
    share = share + width * xp.sum(xp.asarray(below, dtype=np.float64), axis=-1)
  span = xp.minimum(xp.maximum(-xp.floor(-share * m), least), top)
  early = _floor_below(xp, u[..., 1] * (m - span), m - span)
  wide = (span + 1)[..., None]
  inner = early[..., None] + _floor_below(xp, u[..., 2:clips] * wide, wide)
  ends = xp.stack([early, early + span], axis=-1)
  return _arranged(xp, xp.concatenate([ends, inner], axis=-1), u[..., clips], clips)


def _arranged(xp: Any, x: Array, u: Array, clips: int) -> Array:
  """Moves the first two entries of `x` to two random places; all pairs are equally likely."""
  pairs = np.array([(i, j) for i in range(clips) for j in range(clips) if i != j])
  orders = np.empty((len(pairs), clips), np.int64)  # for each pair, the entry at each place
  for row, (i, j) in zip(orders, pairs, strict=True):
    row[[k for k in range(clips) if k not in (i, j)]] = np.arange(2, clips)
    row[i], row[j] = 0, 1
  which = xp.floor(u * len(pairs))
  chosen = xp.asarray(np.arange(len(pairs)) == which[..., None], dtype=np.float64)
  places = np.eye(clips)[orders]  # [pairs, place, entry]
  return xp.sum(xp.sum(chosen[..., None, None] * places, axis=-3) * x[..., None, :], axis=-1)


def _floor_below(xp: Any, x: Array, top: Array) -> Array:
  """⌊x⌋, at most `top` − 1 even if rounding errors push `x` up to `top`."""
  return xp.minimum(xp.floor(x), xp.maximum(top - 1, 0.0))


def _namespace(*arrays: Array) -> Any:
  """`numpy`, or TensorFlow's version of it if any argument is a tensor."""
  if any(type(a).__module__.partition(".")[0] == "tensorflow" for a in arrays):
    import tensorflow.experimental.numpy as tnp

    return tnp
  return np
