"""The augmentation of a batch of clips, on the device.

Order, as in CVRL's published pipeline: flip, (rotation), colour jitter, grayscale, blur,
solarise, normalisation. All clips of one view share their settings, so an operation whose
probability is 0 is not compiled at all.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vssl_jax.augment import blur, colour, draws, geometry, settings
from vssl_jax.errors import UserError


def _maybe(happens, p, fn, value):
  """`fn(value)` where `happens`, of static probability p."""
  if p <= 0:
    return value
  if p >= 1:
    return fn(value)
  return jax.lax.cond(happens, fn, lambda x: x, value)


def jitter(planes: colour.Planes, d: draws.Draw, view: settings.View) -> colour.Planes:
  """Brightness, contrast, saturation and hue in the drawn order, clipped after each.

  Hue and saturation commute, brightness and contrast are both affine. So whatever the order it
  is hue-saturation, affine, hue-saturation, affine, hue-saturation with some factors at rest.
  """
  place = jnp.argsort(jnp.asarray(draws.ORDERS), axis=1)[d.order]  # [4]: place of each op
  brightness, contrast, saturation, hue = (place[k] for k in range(4))
  affine_places = jnp.sort(jnp.stack([brightness, contrast]))
  contrast_first = contrast < brightness

  def slot(where):  # how many of the affine two come before it
    return jnp.sum(affine_places < where)

  for i in range(3):
    turns = (slot(hue) == i) & (view.hue > 0)
    scales = (slot(saturation) == i) & (view.saturation > 0)
    by = jnp.where(turns, d.hue, 0.0)
    factor = jnp.where(scales, d.saturation, 1.0)
    planes = _maybe(
      turns | scales,
      0.5 if view.hue > 0 or view.saturation > 0 else 0.0,
      lambda x, by=by, factor=factor: colour.hue_saturation(x, by, factor),
      planes,
    )
    if i == 2:
      break
    now_contrast = contrast_first == (i == 0)
    centre = tuple(
      jnp.where(now_contrast, c, 0.0) for c in colour.contrast_centre(planes, view.contrast_mean)
    )
    planes = colour.affine(planes, jnp.where(now_contrast, d.contrast, d.brightness), centre)
  return planes


def apply(
  clip: jax.Array, d: draws.Draw, view: settings.View, mean=(0.0,), std=(1.0,)
) -> jax.Array:
  """Augments one clip with drawn parameters.

  Args:
    clip: uint8 `[T, H, W, C]`.
    d: the clip's draw.
    view: the view's settings; they say which operations exist at all.
    mean: subtracted at the end, 1 or C numbers.
    std: divided by at the end.

  Returns:
    float32 `[T, H, W, C]`, in [0, 1] before the normalisation.
  """
  clip = _maybe(d.turns > 0, view.rotation_p and 0.5, lambda x: geometry.rotate(x, d.turns), clip)
  clip = _maybe(d.flip, view.flip, geometry.flip, clip)
  planes = colour.split(clip.astype(jnp.float32) * (1.0 / 255.0))
  if view.colour:
    if any((view.brightness, view.contrast, view.saturation, view.hue)):
      planes = _maybe(d.jitter, view.jitter_p, lambda x: jitter(x, d, view), planes)
    planes = _maybe(d.gray, view.gray_p, colour.grey_planes, planes)
  if view.taps > 1:
    half = blur.weights(d.sigma, view.taps)
    planes = _maybe(
      d.blur, view.blur_p, lambda x: tuple(blur.blur_plane(p, half) for p in x), planes
    )
  planes = _maybe(
    d.solarise,
    view.solarise_p,
    lambda x: colour.solarise_planes(x, view.solarise_threshold),
    planes,
  )
  planes = colour.unit(planes)
  return _normalise(colour.merge(planes), mean, std)


def _normalise(clip, mean, std):
  if any(mean):
    clip = clip - jnp.asarray(mean, jnp.float32)
  if any(s != 1 for s in std):
    clip = clip * (1.0 / jnp.asarray(std, jnp.float32))
  return clip


def _each(fn, *args):
  """`fn` over the leading axis of all `args`."""
  if jax.default_backend() != "cpu":
    return jax.vmap(fn)(*args)
  return jax.lax.map(lambda a: fn(*a), args)


def build(cfg: ConfigDict, size: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The augmentation that `config.augment` describes.

  Args:
    cfg: `config.augment`.
    size: side of the square frames, pixels.

  Returns:
    A jittable function of `keys` (typed PRNG keys `[N]`, one an example) and `clips` (uint8
    `[N, R, T, H, W, C]`), which gives float32 `[N, R, T, H, W, C]`. Clip r of an example is
    view r: its draw comes from `fold_in(key, r)` and nothing else.

  Raises:
    UserError: a field of `cfg` is impossible, or colour operations meet C other than 3.
  """
  step = settings.period(cfg)
  views = [settings.view(cfg, v, size) for v in range(step)]
  mean, std = settings.channels(cfg, "mean"), settings.channels(cfg, "std")
  consistent = cfg.consistent

  def one_view(keys, clips, view):  # [M], [M, T, H, W, C]
    shape = clips.shape
    if not consistent:  # a frame is a clip of length one, with its own key
      frames = jnp.arange(shape[1])
      keys = jax.vmap(lambda k: jax.vmap(lambda t: jax.random.fold_in(k, t))(frames))(keys)
      keys, clips = keys.reshape(-1), clips.reshape(-1, 1, *shape[2:])
    drawn = jax.vmap(lambda k: draws.draw(k, view))(keys)
    return _each(lambda c, d: apply(c, d, view, mean, std), clips, drawn).reshape(shape)

  def augment(keys, clips):
    channels = clips.shape[-1]
    if channels != 3 and any(v.colour for v in views):
      raise UserError(
        f"config.augment: colour jitter and grayscale need 3 channels, the clips have {channels}; "
        "set jitter_p and gray_p to 0."
      )
    n, r = clips.shape[:2]
    out = []
    for v in range(r):
      view_keys = jax.vmap(lambda k, v=v: jax.random.fold_in(k, v))(keys)
      out.append(one_view(view_keys, clips[:, v], views[v % step]))
    return jnp.stack(out, axis=1)

  return augment


def eval_preprocess(cfg: ConfigDict) -> Callable[[jax.Array], jax.Array]:
  """What clips go through when nothing is random: scaled to [0, 1], then normalised.

  Args:
    cfg: `config.augment`, of which `mean` and `std` are used.

  Returns:
    A jittable function of uint8 `[..., C]` that gives float32 `[..., C]`.

  Raises:
    UserError: `mean` or `std` is impossible.
  """
  mean, std = settings.channels(cfg, "mean"), settings.channels(cfg, "std")
  return lambda clips: _normalise(clips.astype(jnp.float32) * (1.0 / 255.0), mean, std)
