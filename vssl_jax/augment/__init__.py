"""Augmentation on the device: uint8 clips in, float32 clips out, one draw per clip."""

from vssl_jax.augment import presets
from vssl_jax.augment.blur import gaussian_blur
from vssl_jax.augment.color import (
  adjust_brightness,
  adjust_contrast,
  adjust_hue,
  adjust_saturation,
  solarize,
  to_grayscale,
)
from vssl_jax.augment.geometry import flip, rotate
from vssl_jax.augment.pipeline import build, eval_preprocess

__all__ = [
  "adjust_brightness",
  "adjust_contrast",
  "adjust_hue",
  "adjust_saturation",
  "build",
  "eval_preprocess",
  "flip",
  "gaussian_blur",
  "presets",
  "rotate",
  "solarize",
  "to_grayscale",
]
