"""Clips of other channels than RGB: what is on, what is off, and by which numbers."""

import jax
import numpy as np
import pytest

from vssl_jax import augment, config
from vssl_jax.augment import draws, presets, settings
from vssl_jax.errors import UserError

T, S = 2, 8


def _jittered():
  cfg = presets.none(config.augment())
  cfg.flip, cfg.jitter_p = 0.5, 1.0
  cfg.brightness, cfg.contrast, cfg.saturation, cfg.hue = 0.6, 0.7, 0.8, 0.2
  cfg.gray_p, cfg.solarize_p, cfg.solarize_threshold = 1.0, (0.5,), 0.6
  return cfg


def _by_hand(clip, d, center):
  """Brightness and contrast in the drawn order, then solarize, in float64."""
  x = clip.astype(np.float64) / 255
  x = x[:, :, ::-1] if d.flip else x
  for op in draws.ORDERS[int(d.order)]:
    name = draws.OPS[op]
    if name == "brightness":
      x = np.clip(x * float(d.brightness), 0, 1)
    elif name == "contrast":
      mean = x.mean(axis=None if center == "grey" else (0, 1, 2))
      x = np.clip(mean + float(d.contrast) * (x - mean), 0, 1)
  return np.where(x < 0.6, x, 1 - x) if d.solarize else x


@pytest.mark.parametrize(("channels", "center"), [(1, "clip"), (12, "clip"), (12, "grey")])
def test_brightness_and_contrast_stay_and_colors_are_off(channels, center):
  cfg = _jittered()
  cfg.contrast_mean = center
  rng = np.random.default_rng(channels)
  clips = rng.integers(0, 256, (6, 1, T, S, S, channels), np.uint8)
  keys = jax.random.split(jax.random.key(3), 6)
  out = np.asarray(jax.jit(augment.build(cfg, S, channels=channels))(keys, clips))
  view = settings.view(cfg, 0, S, channels)
  assert (view.saturation, view.hue, view.gray_p) == (0, 0, 0)
  for n in range(6):
    d = draws.draw(jax.random.fold_in(keys[n], 0), view)
    expected = _by_hand(clips[n, 0], d, center)
    # Where solarizing decides, rounding may too.
    near = np.abs(np.where(d.solarize, 1 - expected, 1) - 0.6) < 1e-5
    # Ten operations on numbers up to 2, and a mean of up to 1,536 values by pairs.
    np.testing.assert_allclose(out[n, 0][~near], expected[~near], rtol=0, atol=40 * 2.0**-23)


def test_draws_are_those_of_rgb():
  """Other channels leave operations out, but never move a draw."""
  cfg, key = _jittered(), jax.random.key(1)
  rgb, bands = (draws.draw(key, settings.view(cfg, 0, S, c)) for c in (3, 12))
  for field in ("flip", "order", "brightness", "contrast", "solarize"):
    assert getattr(rgb, field) == getattr(bands, field)


def test_what_is_off_is_told():
  cfg = config.augment()
  assert settings.switched_off(cfg, 3) == ()
  assert settings.switched_off(cfg, 12) == ("saturation", "hue", "gray_p")
  cfg.jitter_p = 0.0
  assert settings.switched_off(cfg, 1) == ("gray_p",)
  assert settings.switched_off(presets.no_color(cfg), 1) == ()


def test_means_and_deviations():
  cfg = config.augment()
  cfg.mean, cfg.std = (0.45, 0.45, 0.45), (0.225,)
  assert settings.channels(cfg, "mean", 12) == (0.45,)
  assert settings.channels(cfg, "std", 12) == (0.225,)
  cfg.mean = tuple(np.linspace(0.1, 0.6, 12).tolist())
  clips = np.full((1, 2, 12), 255, np.uint8)
  out = augment.eval_preprocess(cfg, 12)(clips)
  expected = np.broadcast_to((1 - np.linspace(0.1, 0.6, 12)) / 0.225, (1, 2, 12))
  np.testing.assert_allclose(out, expected, rtol=0, atol=6 * 2.0**-24 / 0.225)
  cfg.mean = (0.4, 0.45, 0.5)
  for channels, need in ((1, "1 number"), (12, "1 or 12 numbers")):
    with pytest.raises(UserError, match=rf"augment\.mean.*give {need} for {channels} ch"):
      settings.channels(cfg, "mean", channels)


@pytest.mark.parametrize(
  "make", [augment.eval_preprocess, lambda c, n: augment.build(c, S, None, n)]
)
def test_clips_of_other_channels_are_refused(make):
  cfg = presets.none(config.augment())
  clips = np.zeros((1, 1, T, S, S, 3), np.uint8)
  arguments = (clips,) if make is augment.eval_preprocess else (jax.random.key(0)[None], clips)
  with pytest.raises(UserError, match=r"channels=12: the clips have 3 channels") as error:
    make(cfg, 12)(*arguments)
  assert "\n" not in str(error.value)
