"""Jitter in every order against TensorFlow, one operation after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerance
from vssl_jax import config
from vssl_jax.augment import color, draws, settings
from vssl_jax.augment.jitter import jitter


@pytest.fixture
def cfg():
  cfg = config.augment()
  cfg.jitter_p = 1.0
  return cfg


def run(clip, d, view):
  planes = color.split(jnp.asarray(clip, jnp.float32) / 255)
  return color.merge(jitter(planes, d, view))


def in_every_order(d):
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (24,)), d)._replace(order=jnp.arange(24))


def entry(tree, i):
  return jax.tree.map(lambda x: x[i], tree)


@pytest.mark.parametrize(
  "factors", [(0.7, 1.3, 1.4, 0.15), (1.6, 0.4, 0.3, -0.2), (1.2, 1.7, 1.8, 0.01)]
)
def test_every_order(clips, tf_jitter, cfg, factors):
  clip, view = clips[0, 0], settings.view(cfg, 0, 32)
  names = ("brightness", "contrast", "saturation", "hue")
  d = draws.draw(jax.random.key(0), view)
  d = d._replace(**{k: jnp.float32(v) for k, v in zip(names, factors, strict=True)})
  many = in_every_order(d)
  ours = jax.jit(jax.vmap(functools.partial(run, clip, view=view)))(many)
  tall = clip.reshape(-1, 32, 3) / np.float32(255)
  for i in range(24):
    theirs = tf_jitter(tall, entry(many, i)).numpy().reshape(clip.shape)
    np.testing.assert_allclose(ours[i], theirs, rtol=0, atol=5e-6)
  assert np.unique(np.round(ours, 3), axis=0).shape[0] >= 6  # orders do differ


def test_extreme_factors_clip_after_each(clips, tf_jitter, cfg):
  """Values far out of range on the way would show a clip in the wrong place."""
  clip, view = clips[1, 0], settings.view(cfg, 0, 32)
  d = draws.draw(jax.random.key(0), view)._replace(
    brightness=jnp.float32(4.0), contrast=jnp.float32(5.0), saturation=jnp.float32(3.0)
  )
  many = in_every_order(d)
  ours = jax.jit(jax.vmap(functools.partial(run, clip, view=view)))(many)
  tall = clip.reshape(-1, 32, 3) / np.float32(255)
  for i in range(24):
    theirs = tf_jitter(tall, entry(many, i)).numpy().reshape(clip.shape)
    np.testing.assert_allclose(ours[i], theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
  "off",
  [("hue",), ("brightness",), ("contrast",), ("hue", "saturation"), ("brightness", "contrast")],
)
def test_strength_zero_leaves_the_operation_out(clips, tf_jitter, cfg, off):
  for field in off:
    cfg[field] = 0.0
  clip, view = clips[2, 1], settings.view(cfg, 0, 32)
  d = draws.draw(jax.random.key(3), view)
  rest = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
  still = d._replace(**{field: rest[field] for field in off})
  theirs = tf_jitter(clip.reshape(-1, 32, 3) / np.float32(255), still).numpy()
  ours = jax.jit(functools.partial(run, clip, view=view))(d)
  np.testing.assert_allclose(ours, theirs.reshape(clip.shape), rtol=0, atol=5e-6)


def test_grey_mean_contrast(clips, cfg):
  cfg.contrast_mean = "grey"
  cfg.brightness = cfg.saturation = cfg.hue = 0.0
  clip, view = clips[3, 0], settings.view(cfg, 0, 32)
  d = draws.draw(jax.random.key(1), view)
  values = clip / 255.0
  grey_of_each = values @ np.array([0.2989, 0.587, 0.114])
  grey = grey_of_each.mean()
  theirs = np.clip(grey + float(d.contrast) * (values - grey), 0, 1)
  atol = tolerance.summed(grey_of_each.size)  # the mean is a long sum, of numbers below 1
  np.testing.assert_allclose(run(clip, d, view), theirs, rtol=0, atol=atol)
