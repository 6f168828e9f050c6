"""Checks `config.augment` and converts it to the settings of one view."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence

from ml_collections import ConfigDict

from vssl_jax.augment import blur
from vssl_jax.errors import UserError

_CHOICES = {
  "contrast_mean": ("clip", "grey"),
  "saturation_space": ("hsv", "luma"),
  "blur_padding": blur.PADDINGS,
}


@dataclasses.dataclass(frozen=True)
class View:
  """The settings of one view. All are Python numbers, so operations that are off cost nothing."""

  flip: float
  rotation_p: float
  jitter_p: float
  brightness: float
  contrast: float
  saturation: float
  hue: float
  contrast_mean: str
  saturation_space: str
  gray_p: float
  blur_p: float
  blur_sigma: tuple[float, float]
  taps: int
  blur_padding: str
  solarize_p: float
  solarize_threshold: float
  invert_p: float

  def without_color(self) -> View:
    """The same without what only red, green and blue have: saturation, hue and a gray value."""
    return dataclasses.replace(self, saturation=0.0, hue=0.0, gray_p=0.0)

  @property
  def jitters(self) -> bool:
    """Whether color jitter can change anything."""
    strengths = (self.brightness, self.contrast, self.saturation, self.hue)
    return self.jitter_p > 0 and any(strengths)


def _fail(field: str, value, need: str):
  raise UserError(f"config.augment.{field} = {value!r}: {need}.")


def _number(cfg: ConfigDict, field: str, low: float, high: float, value=None) -> float:
  value = cfg[field] if value is None else value
  good = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not good or not low <= value <= high or not math.isfinite(value):
    span = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
    _fail(field, cfg[field], f"give a number {span}")
  return float(value)


def _list(cfg: ConfigDict, field: str) -> tuple:
  value = cfg[field]
  if isinstance(value, numbers.Real):
    return (value,)
  if isinstance(value, str) or not isinstance(value, Sequence) or not value:
    _fail(field, value, "give a number or a non-empty list of numbers")
  return tuple(value)


def by_view(cfg: ConfigDict, field: str) -> tuple[float, ...]:
  """The probabilities of a field by view: view v uses entry v % length.

  Raises:
    UserError: an entry is not a number in [0, 1], or the list is empty.
  """
  return tuple(_number(cfg, field, 0, 1, p) for p in _list(cfg, field))


def period(cfg: ConfigDict) -> int:
  """The number of views after which the settings repeat."""
  return math.lcm(len(by_view(cfg, "blur_p")), len(by_view(cfg, "solarize_p")))


def channels(cfg: ConfigDict, field: str, count: int = 3) -> tuple[float, ...]:
  """`mean` or `std`: one number per channel, or one for all channels.

  Three equal numbers, as in most configs for RGB, count as one for all channels.

  Args:
    cfg: `config.augment`.
    field: "mean" or "std".
    count: C, the number of channels.

  Raises:
    UserError: there are not 1 or C finite numbers, or a `std` is not positive.
  """
  values = _list(cfg, field)
  if len(values) not in (1, count):
    if len(values) != 3 or len(set(values)) > 1:
      need = "1 number" if count == 1 else f"1 or {count} numbers"
      _fail(field, cfg[field], f"give {need} for {count} channels, not {len(values)}")
    values = values[:1]
  for v in values:
    if not isinstance(v, numbers.Real) or not math.isfinite(v):
      _fail(field, cfg[field], "give finite numbers")
    if field == "std" and v <= 0:
      _fail(field, cfg[field], "give numbers above 0")
  return tuple(float(v) for v in values)


def switched_off(cfg: ConfigDict, channels: int) -> tuple[str, ...]:
  """The fields that are on, but have no effect on clips of this number of channels."""
  jittered = ("saturation", "hue") if cfg.jitter_p else ()
  return () if channels == 3 else tuple(f for f in (*jittered, "gray_p") if cfg[f])


def view(cfg: ConfigDict, index: int, size: int, channels: int = 3) -> View:
  """The settings of view `index` for frames of side `size`.

  Args:
    cfg: `config.augment`.
    index: index of the clip among the clips of the video.
    size: side of the square frames, pixels.
    channels: C; unless it is 3, operations on red, green and blue are off.

  Raises:
    UserError: a field has an impossible value; the message names the field.
  """
  for field, values in _CHOICES.items():
    if cfg[field] not in values:
      _fail(field, cfg[field], "choose " + " or ".join(f'"{v}"' for v in values))
  if not isinstance(cfg.consistent, bool):
    _fail("consistent", cfg.consistent, "choose True or False")
  kernel = cfg.blur_kernel
  if not isinstance(kernel, int) or kernel < 0 or (kernel and kernel % 2 == 0):
    _fail("blur_kernel", kernel, f"give an odd number of taps, or 0 for {blur.taps(size)}")
  sigma = _list(cfg, "blur_sigma")
  if len(sigma) != 2:
    _fail("blur_sigma", cfg.blur_sigma, f"give 2 numbers (low, high), not {len(sigma)}")
  low, high = (_number(cfg, "blur_sigma", 0, math.inf, s) for s in sigma)
  if not 0 < low <= high < math.inf:
    _fail("blur_sigma", cfg.blur_sigma, "needs 0 < low <= high, in pixels")
  blur_p, solarize_p = by_view(cfg, "blur_p"), by_view(cfg, "solarize_p")
  found = View(
    flip=_number(cfg, "flip", 0, 1),
    rotation_p=_number(cfg, "rotation_p", 0, 1),
    jitter_p=_number(cfg, "jitter_p", 0, 1),
    brightness=_number(cfg, "brightness", 0, math.inf),
    contrast=_number(cfg, "contrast", 0, math.inf),
    saturation=_number(cfg, "saturation", 0, math.inf),
    hue=_number(cfg, "hue", 0, 0.5),
    contrast_mean=cfg.contrast_mean,
    saturation_space=cfg.saturation_space,
    gray_p=_number(cfg, "gray_p", 0, 1),
    blur_p=blur_p[index % len(blur_p)],
    blur_sigma=(low, high),
    taps=blur.taps(size, kernel),
    blur_padding=cfg.blur_padding,
    solarize_p=solarize_p[index % len(solarize_p)],
    solarize_threshold=_number(cfg, "solarize_threshold", 0, 1),
    invert_p=_number(cfg, "invert_p", 0, 1),
  )
  return found if channels == 3 else found.without_color()
