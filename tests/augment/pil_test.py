"""The ρ-study's color operations against Pillow, which torchvision runs them with.

PySlowFast makes an image of a clip and applies torchvision's ColorJitter, RandomGrayscale and
PIL's GaussianBlur. torchvision's `adjust_brightness`, `adjust_contrast` and `adjust_saturation` of
an image are Pillow's `ImageEnhance`.
"""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from tests.augment.jitter_test import entry, in_every_order, run
from vssl_jax import augment, config
from vssl_jax.augment import color, draws, pipeline, settings
from vssl_jax.errors import UserError

# Pillow rounds the luma and the result to 8 bits, and its luma's weights differ by 1e-4.
LUMA = np.array([0.2989, 0.587, 0.114])


@pytest.fixture
def cfg():
  cfg = config.augment()
  cfg.saturation_space, cfg.contrast_mean, cfg.jitter_p = "luma", "grey", 1.0
  return cfg


def pil(clip, fn):
  """`fn` on the clip as one tall image, as in PySlowFast; float64 in [0, 1]."""
  tall = Image.fromarray(clip.reshape(-1, *clip.shape[-2:]))
  return np.asarray(fn(tall), np.float64).reshape(clip.shape) / 255


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.6])
def test_saturation_is_pillow_s(clips, factor):
  clip = clips[0, 0]
  ours = color.adjust_saturation(jnp.asarray(clip, jnp.float32) / 255, factor, "luma")
  theirs = pil(clip, lambda image: ImageEnhance.Color(image).enhance(factor))
  rounding = (0.5 + 0.5 * abs(1 - factor)) / 255 + 1e-4 + 1e-6
  # Pillow cuts the decimals of a blend off outside of [0, 1], which is one step more.
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=rounding + 0.5 / 255)


def test_saturation_of_hsv_is_another(clips):
  """What the field is for: the two forms are far apart."""
  x = jnp.asarray(clips[0, 0], jnp.float32) / 255
  hsv, luma = (color.adjust_saturation(x, 0.4, space) for space in ("hsv", "luma"))
  assert float(jnp.mean(jnp.abs(hsv - luma))) > 0.05


def _turned(values, hue):
  def one(r, g, b):
    h, s, v = colorsys.rgb_to_hsv(r, g, b)
    return colorsys.hsv_to_rgb((h + hue) % 1.0, s, v)

  return np.stack(np.vectorize(one)(*np.moveaxis(values, -1, 0)), -1)


def _in_turn(x, d):
  """torchvision's four operations in the drawn order, in float64."""

  def blend(x, center, factor):
    return np.clip(center + float(factor) * (x - center), 0, 1)

  ops = (
    lambda x: blend(x, 0.0, d.brightness),
    lambda x: blend(x, (x @ LUMA).mean(), d.contrast),
    lambda x: blend(x, (x @ LUMA)[..., None], d.saturation),
    lambda x: _turned(x, float(d.hue)),
  )
  for k in draws.ORDERS[int(d.order)]:
    x = ops[k](x)
  return x


@pytest.mark.parametrize("off", [(), ("contrast",), ("hue",), ("brightness", "contrast")])
def test_every_order_in_float64(clips, cfg, off):
  clip = clips[1, 0, :2, ::6, ::6]
  for field in off:
    cfg[field] = 0.0
  view = settings.view(cfg, 0, 32)
  strong = {"brightness": 1.4, "contrast": 1.5, "saturation": 1.7, "hue": 0.15}
  rest = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
  values = strong | {field: rest[field] for field in off}
  d = draws.draw(jax.random.key(0), view)
  d = d._replace(**{k: jnp.float32(v) for k, v in values.items()})
  many = in_every_order(d)
  ours = jax.jit(jax.vmap(functools.partial(run, clip, view=view)))(many)
  for i in range(24):
    theirs = _in_turn(clip / 255, entry(many, i))
    np.testing.assert_allclose(ours[i], theirs, rtol=0, atol=5e-6)
  if not off:  # hue and saturation no longer commute
    assert np.unique(np.round(ours, 3), axis=0).shape[0] == 24


def _gaussian(plane, sigma, kernel):
  """The double sum in float64, with the nearest pixels outside of the frame."""
  radius = kernel // 2
  g = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
  g /= g.sum()
  wide = np.pad(plane.astype(np.float64), radius, mode="edge")
  rows = sum(w * wide[k : k + plane.shape[0]] for k, w in enumerate(g))
  return sum(w * rows[:, k : k + plane.shape[1]] for k, w in enumerate(g))


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_with_the_nearest_pixels_outside(clips, sigma):
  clip = clips[2, 0, :1]
  ours = augment.gaussian_blur(jnp.asarray(clip, jnp.float32) / 255, sigma, 23, "edge")[0]
  exact = np.stack([_gaussian(clip[0, ..., c] / 255, sigma, 23) for c in range(3)], -1)
  np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-6)
  theirs = pil(clip, lambda image: image.filter(ImageFilter.GaussianBlur(sigma)))[0]
  # Pillow approximates the Gaussian by three boxes, and rounds after each.
  assert np.abs(ours - theirs).mean() < 2 / 255
  border = np.ones((32, 32), bool)
  border[2:-2, 2:-2] = False
  assert np.abs(ours - theirs)[border].mean() < 2 / 255


def test_white_frames_stay_white():
  """With zeros outside, the corner of a white frame falls to 0.36."""
  white = np.full((1, 1, 2, 230, 230, 3), 255, np.uint8)
  cfg = augment.presets.none(config.augment())
  cfg.blur_p, cfg.blur_sigma = (1.0,), (2.0, 2.0)
  corner = {}
  for cfg.blur_padding in ("zeros", "edge"):
    view = settings.view(cfg, 0, 230)
    d = draws.draw(jax.random.key(0), view)
    corner[cfg.blur_padding] = float(pipeline.apply(jnp.asarray(white[0, 0]), d, view)[0, 0, 0, 0])
  assert corner["edge"] == pytest.approx(1, abs=1e-6)
  assert corner["zeros"] < 0.4
  image = Image.fromarray(white[0, 0, 0]).filter(ImageFilter.GaussianBlur(2.0))
  assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("field", ["saturation_space", "blur_padding"])
def test_unknown_forms_are_refused(cfg, field):
  cfg[field] = "other"
  with pytest.raises(UserError, match=f"config.augment.{field} = 'other'"):
    settings.view(cfg, 0, 32)
