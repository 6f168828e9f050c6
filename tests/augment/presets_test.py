"""Presets are the published values, whatever the config held before."""

import jax
import numpy as np
import pytest

from vssl_jax import augment, config
from vssl_jax.augment import presets


def scrambled():
  cfg = config.augment()
  cfg.flip, cfg.jitter_p, cfg.brightness, cfg.contrast, cfg.saturation = 0.1, 0.1, 0.1, 0.1, 0.1
  cfg.hue, cfg.gray_p, cfg.blur_p, cfg.blur_sigma, cfg.blur_kernel = (
    0.01,
    0.9,
    (0.3,),
    (1.0, 3.0),
    7,
  )
  cfg.solarize_p, cfg.solarize_threshold, cfg.rotation_p = (0.9,), 0.1, 0.5
  cfg.invert_p = 0.5
  cfg.contrast_mean, cfg.consistent = "grey", False
  return cfg


def test_code_is_the_default():
  assert presets.code(scrambled()) == config.augment()


def test_plain_differs_in_blur_and_solarize_alone():
  plain, code = presets.plain(scrambled()), presets.code(scrambled())
  assert {k for k in code if plain[k] != code[k]} == {"blur_p", "solarize_p"}
  assert plain.blur_p == (0.5,)
  assert plain.solarize_p == (0.0,)


def test_presets_leave_the_normalization():
  for preset in (presets.code, presets.plain, presets.none):
    cfg = config.augment()
    cfg.mean, cfg.std = (0.45,) * 3, (0.225,) * 3
    preset(cfg)
    assert cfg.mean == (0.45,) * 3
    assert cfg.std == (0.225,) * 3


@pytest.mark.parametrize("consistent", [True, False])
def test_none_changes_nothing(consistent):
  cfg = presets.none(config.augment())
  cfg.consistent = consistent
  clips = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 8, 8, 3), dtype=np.uint8)
  out = jax.jit(augment.build(cfg, 8))(jax.random.split(jax.random.key(0), 2), clips)
  np.testing.assert_array_equal(out, clips * np.float32(1 / 255))
  np.testing.assert_array_equal(out, augment.eval_preprocess(cfg)(clips))


def test_groups():
  cfg = presets.no_color(config.augment())
  assert cfg.flip == 0.5
  assert (cfg.jitter_p, cfg.gray_p, cfg.blur_p, cfg.solarize_p) == (0.0, 0.0, (0.0,), (0.0,))
  assert cfg.invert_p == 0
  cfg = presets.no_geometry(config.augment())
  assert (cfg.flip, cfg.rotation_p, cfg.jitter_p) == (0.0, 0.0, 0.8)
