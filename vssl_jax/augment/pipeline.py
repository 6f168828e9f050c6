"""The augmentation of a batch of clips, on the device.

The order is that of CVRL's published pipeline: rotation and flip, color jitter, grayscale, blur,
solarize, inversion, normalization. Probabilities are known at compile time, so an operation that
never happens in a view is not compiled. Clips that are not RGB have no saturation, hue or gray
value: operations on these are left out, and all others are as for RGB.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import parallel
from vssl_jax.augment import blur, branch, color, draws, geometry, settings
from vssl_jax.augment.jitter import jitter
from vssl_jax.errors import UserError


def apply(clip: jax.Array, d: draws.Draw, view: settings.View) -> jax.Array:
  """Augments one clip with drawn parameters, the same for all its frames.

  Args:
    clip: uint8 `[T, H, W, C]`.
    d: the clip's draw.
    view: the view's settings; operations with probability 0 are not compiled.

  Returns:
    float32 `[T, H, W, C]` in [0, 1].
  """

  def perhaps(happens, p, fn, value):
    return branch.apply_if(branch.drawn(happens, p), fn, value)

  # Move pixels first, while a value has only one byte.
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
      return tuple(blur.blur_plane(p, half, view.blur_padding) for p in planes)

    planes = perhaps(d.blur, view.blur_p, blurred, planes)

  def solarized(planes):
    return tuple(color.solarize(p, view.solarize_threshold) for p in planes)

  planes = perhaps(d.solarize, view.solarize_p, solarized, planes)
  planes = perhaps(d.invert, view.invert_p, color.inverted, planes)
  return color.merge(color.unit(planes))


def _scaled(clip):
  return clip.astype(jnp.float32) * (1.0 / 255.0)


def _normalized(clip, mean, std):
  if any(mean):
    clip = clip - jnp.asarray(mean, jnp.float32)
  if any(s != 1 for s in std):
    clip = clip * (1.0 / jnp.asarray(std, jnp.float32))
  return clip


def build(
  cfg: ConfigDict, size: int, mesh: Mesh | None = None, channels: int = 3
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The augmentation that `config.augment` describes.

  Args:
    cfg: `config.augment`.
    size: side of the square frames, pixels.
    mesh: the devices that the clips are split over along N; None is one device.
    channels: C; unless it is 3, saturation, hue and grayscale are off.

  Returns:
    A jittable function of `keys` (typed PRNG keys `[N]`, one per example), `clips` (uint8
    `[N, R, T, H, W, C]`) and `first` (default 0). It returns float32 `[N, R, T, H, W, C]`: values
    in [0, 1], minus `mean`, divided by `std`. Clip r of an example is view v = `first` + r, so a
    caller can augment a few clips at a time; `first` may be traced. The draw of a view depends only
    on `fold_in(key, v)`; if not `cfg.consistent`, the draw of frame t depends only on
    `fold_in(fold_in(key, v), t)`. The result is split over the mesh as the clips are.

  Raises:
    UserError: a field of `cfg` has an impossible value, or the clips have other channels.
  """
  period = settings.period(cfg)
  views = [settings.view(cfg, v, size, channels) for v in range(period)]
  mean, std = (settings.channels(cfg, field, channels) for field in ("mean", "std"))
  consistent = cfg.consistent

  def numbers(key, frames):
    if consistent:
      return draws.uniforms(key)
    return jax.vmap(lambda t: draws.uniforms(jax.random.fold_in(key, t)))(jnp.arange(frames))

  def one_view(clip, d, view):
    if consistent:
      out = apply(clip, d, view)
    else:  # a frame is a clip of length one
      out = branch.each(lambda frame, e: apply(frame[None], e, view)[0], clip, d, mesh=mesh)
    return _normalized(out, mean, std)

  def augment(keys, clips, first=0):
    _check_shape(clips.shape, views, channels)
    if not isinstance(first, int) and period > 1:
      turns = [functools.partial(at, turn=turn) for turn in range(period)]
      return jax.lax.switch(first % period, turns, keys, clips, first)
    return at(keys, clips, first, turn=first % period if isinstance(first, int) else 0)

  def at(keys, clips, first, turn):
    _, r, frames = clips.shape[:3]
    # A row contains as many views as it takes until the settings repeat.
    row = period if r % period == 0 else r
    settled = [views[(turn + v) % period] for v in range(row)]

    def of_example(key):
      number = first + jnp.arange(r)
      return jax.vmap(lambda v: numbers(jax.random.fold_in(key, v), frames))(number)

    u = jax.vmap(of_example)(keys)  # [N, R, 14], or [N, R, T, 14]
    u = u.reshape(-1, row, *u.shape[2:])

    def one_row(some, u):
      drawn = [draws.resolve(u[v], settled[v]) for v in range(row)]
      return jnp.stack([one_view(some[v], drawn[v], settled[v]) for v in range(row)])

    rows = clips.reshape(-1, row, *clips.shape[2:])
    out = branch.over_rows(one_row, rows, u, mesh=mesh).reshape(clips.shape)
    return parallel.keep_rows(mesh, out)

  return augment


def _check_shape(shape, views, channels):
  if len(shape) != 6:
    raise ValueError(f"clips must be [N, R, T, H, W, C], not {list(shape)}")
  require_channels(shape, channels)
  if any(v.rotation_p for v in views) and shape[-3] != shape[-2]:
    raise UserError(
      f"config.augment.rotation_p: quarter turns need square frames, but the frames are "
      f"{shape[-3]} x {shape[-2]}; set it to 0."
    )


def require_channels(shape: tuple[int, ...], channels: int) -> None:
  """Raises `UserError` if the last axis of clips is not of `channels`."""
  if shape[-1:] != (channels,):
    raise UserError(
      f"config.data.channels={channels}: the clips have {shape[-1] if shape else 0} channels, "
      f"{list(shape)}; read data of {channels}, or set the field to what they have."
    )


def eval_preprocess(cfg: ConfigDict, channels: int = 3) -> Callable[[jax.Array], jax.Array]:
  """Preprocessing without random operations: scales clips to [0, 1], then normalizes them.

  Args:
    cfg: `config.augment`; `mean` and `std` are used.
    channels: C.

  Returns:
    A jittable function from uint8 `[..., C]` to float32 `[..., C]`, which raises `UserError` for
    clips of other channels.

  Raises:
    UserError: `mean` or `std` has an impossible value.
  """
  mean, std = (settings.channels(cfg, field, channels) for field in ("mean", "std"))

  def preprocess(clips: jax.Array) -> jax.Array:
    require_channels(clips.shape, channels)
    return _normalized(_scaled(clips), mean, std)

  return preprocess
