"""Named settings of `config.augment`; each function changes the given config and returns it."""

from __future__ import annotations

from ml_collections import ConfigDict


def code(cfg: ConfigDict) -> ConfigDict:
  """CVRL as in its authors' code: jitter of strength 1; blur and solarize differ between views.

  The first view is always blurred, the second with probability 0.1. Only the second is solarized.
  Source: TensorFlow Models, official/projects/video_ssl/dataloaders/video_ssl_input.py.
  """
  none(cfg)
  cfg.flip = 0.5
  cfg.jitter_p = 0.8
  cfg.brightness = cfg.contrast = cfg.saturation = 0.8
  cfg.hue = 0.2
  cfg.contrast_mean = "clip"
  cfg.saturation_space = "hsv"
  cfg.gray_p = 0.2
  cfg.blur_p = (1.0, 0.1)
  cfg.blur_sigma = (0.1, 2.0)
  cfg.blur_kernel = 0
  cfg.blur_padding = "zeros"
  cfg.solarize_p = (0.0, 0.2)
  cfg.solarize_threshold = 0.5
  cfg.invert_p = 0.0
  cfg.consistent = True
  return cfg


def plain(cfg: ConfigDict) -> ConfigDict:
  """CVRL as in the paper: like `code`, but all views have blur probability 0.5, none solarize."""
  code(cfg)
  cfg.blur_p = (0.5,)
  cfg.solarize_p = (0.0,)
  return cfg


def none(cfg: ConfigDict) -> ConfigDict:
  """Switches off everything random; `mean` and `std` do not change."""
  return no_geometry(no_color(cfg))


def no_color(cfg: ConfigDict) -> ConfigDict:
  """Switches off operations that change values: jitter, gray, blur, solarize, inversion."""
  cfg.jitter_p = cfg.invert_p = 0.0
  cfg.gray_p = 0.0
  cfg.blur_p = (0.0,)
  cfg.solarize_p = (0.0,)
  return cfg


def no_geometry(cfg: ConfigDict) -> ConfigDict:
  """Switches off operations that move pixels: flips and rotation."""
  cfg.flip = 0.0
  cfg.rotation_p = 0.0
  return cfg
