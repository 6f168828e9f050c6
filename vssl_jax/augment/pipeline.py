"""The augmentation of a batch of clips, on the device.

Order, as in CVRL's published pipeline: rotation and flip, color jitter, grayscale, blur,
solarize, normalization. Probabilities are known at compile time: an operation that never happens
in a view is not part of its program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vssl_jax.augment import blur, branch, color, draws, geometry, settings
from vssl_jax.augment.jitter import jitter
from vssl_jax.errors import UserError


def apply(clip: jax.Array, d: draws.Draw, view: settings.View) -> jax.Array:
  """Augments one clip with drawn parameters, the same for all its frames.

  Args:
    clip: uint8 `[T, H, W, C]`.
    d: the clip's draw.
    view: the view's settings; they say which operations exist at all.

  Returns:
    float32 `[T, H, W, C]` in [0, 1].
  """

  def perhaps(happens, p, fn, value):
    return branch.apply_if(branch.drawn(happens, p), fn, value)

  # While a pixel is three bytes it is cheapest to move.
  if view.rotation_p:
    clip = branch.apply_if(d.turns > 0, lambda x: geometry.rotate(x, d.turns), clip)
  clip = perhaps(d.flip, view.flip, geometry.flip, clip)

  planes = color.split(_scaled(clip))
  if view.jitters:
    planes = perhaps(d.jitter, view.jitter_p, lambda x: jitter(x, d, view), planes)
  planes = perhaps(d.gray, view.gray_p, color.grey_planes, planes)
  if view.taps > 1:
    half = blur.weights(d.sigma, view.taps)

    def blurred(planes):
      return tuple(blur.blur_plane(p, half) for p in planes)

    planes = perhaps(d.blur, view.blur_p, blurred, planes)

  def solarized(planes):
    return tuple(color.solarize(p, view.solarize_threshold) for p in planes)

  planes = perhaps(d.solarize, view.solarize_p, solarized, planes)
  return color.merge(color.unit(planes))


def _scaled(clip):
  return clip.astype(jnp.float32) * (1.0 / 255.0)


def _normalized(clip, mean, std):
  if any(mean):
    clip = clip - jnp.asarray(mean, jnp.float32)
  if any(s != 1 for s in std):
    clip = clip * (1.0 / jnp.asarray(std, jnp.float32))
  return clip


def build(cfg: ConfigDict, size: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The augmentation that `config.augment` describes.

  Args:
    cfg: `config.augment`.
    size: side of the square frames, pixels.

  Returns:
    A jittable function of `keys` (typed PRNG keys `[N]`, one an example), `clips` (uint8
    `[N, R, T, H, W, C]`) and `first` (0 if left out), which gives float32 `[N, R, T, H, W, C]`: in
    [0, 1], then `mean` subtracted and divided by `std`. Clip r of an example is view v =
    `first` + r, so that clips may come a few at a time; `first` may be traced. A view's draw is a
    function of `fold_in(key, v)`, or frame t's of `fold_in(fold_in(key, v), t)` if not
    `cfg.consistent`, and of nothing else. Clips may be sharded along N; the result then is too.

  Raises:
    UserError: a field of `cfg` is impossible, or color operations meet C other than 3.
  """
  period = settings.period(cfg)
  views = [settings.view(cfg, v, size) for v in range(period)]
  mean, std = settings.channels(cfg, "mean"), settings.channels(cfg, "std")
  consistent = cfg.consistent

  def numbers(key, frames):
    if consistent:
      return draws.uniforms(key)
    return jax.vmap(lambda t: draws.uniforms(jax.random.fold_in(key, t)))(jnp.arange(frames))

  def one_view(clip, d, view):
    if consistent:
      out = apply(clip, d, view)
    else:  # a frame is a clip of length one
      out = branch.each(lambda frame, e: apply(frame[None], e, view)[0], clip, d)
    return _normalized(out, mean, std)

  def augment(keys, clips, first=0):
    _check_shape(clips.shape, views)
    if not isinstance(first, int) and period > 1:
      turns = [functools.partial(at, turn=turn) for turn in range(period)]
      return jax.lax.switch(first % period, turns, keys, clips, first)
    return at(keys, clips, first, turn=first % period if isinstance(first, int) else 0)

  def at(keys, clips, first, turn):
    _, r, frames = clips.shape[:3]
    # A row is the shortest run of views after which the settings repeat.
    row = period if r % period == 0 else r
    settled = [views[(turn + v) % period] for v in range(row)]

    def of_example(key):
      number = first + jnp.arange(r)
      return jax.vmap(lambda v: numbers(jax.random.fold_in(key, v), frames))(number)

    u = jax.vmap(of_example)(keys)  # [N, R, 13], or [N, R, T, 13]
    u = u.reshape(-1, row, *u.shape[2:])

    def one_row(some, u):
      drawn = [draws.resolve(u[v], settled[v]) for v in range(row)]
      return jnp.stack([one_view(some[v], drawn[v], settled[v]) for v in range(row)])

    rows = clips.reshape(-1, row, *clips.shape[2:])
    return branch.over_rows(one_row, rows, u).reshape(clips.shape)

  return augment


def _check_shape(shape, views):
  if len(shape) != 6:
    raise ValueError(f"clips must be [N, R, T, H, W, C], not {list(shape)}")
  color_ops = any(v.jitters or v.gray_p for v in views)
  if color_ops and shape[-1] != 3:
    raise UserError(
      f"config.augment: color jitter and grayscale need 3 channels, the clips have {shape[-1]}; "
      "set jitter_p and gray_p to 0."
    )
  if any(v.rotation_p for v in views) and shape[-3] != shape[-2]:
    raise UserError(
      f"config.augment.rotation_p: quarter turns need square frames, these are "
      f"{shape[-3]} x {shape[-2]}; set it to 0."
    )


def eval_preprocess(cfg: ConfigDict) -> Callable[[jax.Array], jax.Array]:
  """What clips go through when nothing is random: scaled to [0, 1], then normalized.

  Args:
    cfg: `config.augment`, of which `mean` and `std` are used.

  Returns:
    A jittable function of uint8 `[..., C]` that gives float32 `[..., C]`.

  Raises:
    UserError: `mean` or `std` is impossible.
  """
  mean, std = settings.channels(cfg, "mean"), settings.channels(cfg, "std")
  return lambda clips: _normalized(_scaled(clips), mean, std)
