"""Color jitter: brightness, contrast, saturation and hue in any of 24 orders, as one program.

Hue and saturation commute, so one pass does both. Brightness and contrast are both affine. So every
order can be written as

  hue-saturation · affine · hue-saturation · affine · hue-saturation

with contrast in the first or the second affine step, and hue and saturation each in one of three
slots. The drawn order only decides in which slots a factor is active.

torchvision's saturation (`saturation_space = "luma"`) does not commute with hue, but is a blend of
a clip with a center, like brightness (0) and contrast (a mean). So every order is

  hue · blend · hue · blend · hue · blend · hue

where each blend takes factor and center of one operation, and hue is active in one of four slots.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vssl_jax.augment import branch, color
from vssl_jax.augment.draws import OPS, ORDERS, Draw
from vssl_jax.augment.settings import View


def _slots() -> dict[str, np.ndarray]:
  """For each operation and order: how many of brightness and contrast come before the operation."""
  place = {op: np.argmax(k == ORDERS, axis=1) for k, op in enumerate(OPS)}
  return {
    op: np.add(place["brightness"] < place[op], place["contrast"] < place[op], dtype=np.int32)
    for op in OPS
  }


_SLOTS = _slots()


def jitter(planes: color.Planes, d: Draw, view: View) -> color.Planes:
  """Applies the four operations in the drawn order, clipped to [0, 1] after each.

  Args:
    planes: channels of one clip, in [0, 1]; hue and saturation need red, green and blue.
    d: the clip's draw; its field `jitter` is not used.
    view: the settings; an operation with strength 0 is not computed.

  Returns:
    Planes in [0, 1].
  """
  if view.saturation and view.saturation_space == "luma":
    return _blends(planes, d, view)
  slot = {op: jnp.asarray(table)[d.order] for op, table in _SLOTS.items()}
  for i in range(3):
    if i > 0 and (view.brightness or view.contrast):
      planes = _affine(planes, d, view, slot["contrast"] == i - 1)
    if view.hue or view.saturation:
      turns, scales = slot["hue"] == i, slot["saturation"] == i
      hue = jnp.where(turns, d.hue, 0.0)
      saturation = jnp.where(scales, d.saturation, 1.0)
      planes = branch.apply_if(
        turns | scales,
        lambda x, h=hue, s=saturation: color.hue_saturation(x, h, s),
        planes,
      )
  return planes


def _affine(planes, d, view, contrast: jax.Array):
  """Contrast if `contrast`, otherwise brightness, which is contrast with center 0."""
  factor = jnp.where(contrast, d.contrast, d.brightness)
  center: tuple[jax.Array | float, ...] = (0.0,) * len(planes)
  if view.contrast:
    means = color.contrast_center(planes, view.contrast_mean)
    center = tuple(jnp.where(contrast, m, 0.0) for m in means)
  return color.affine(planes, factor, center)


def _blends(planes: color.Planes, d: Draw, view: View) -> color.Planes:
  """The jitter with torchvision's saturation."""
  active = [k for k, op in enumerate(OPS[:3]) if getattr(view, op)]
  place = np.argsort(ORDERS, axis=1)  # [24, operation]
  ranked = np.asarray(active, np.int32)[np.argsort(place[:, active], axis=1)]  # [24, blend]
  hue_slot = np.sum(place[:, active] < place[:, [OPS.index("hue")]], axis=1, dtype=np.int32)

  slot, ops = jnp.asarray(hue_slot)[d.order], jnp.asarray(ranked)[d.order]
  factors = jnp.stack([getattr(d, op) for op in OPS[:3]])
  for i in range(len(active) + 1):
    if i > 0:
      planes = _blend(planes, view, ops[i - 1], factors[ops[i - 1]])
    if view.hue:
      planes = branch.apply_if(slot == i, lambda x: color.hue_saturation(x, d.hue, 1.0), planes)
  return planes


def _blend(planes, view, op: jax.Array, factor: jax.Array):
  """Brightness, contrast or saturation, which the number `op` tells."""
  saturates, contrasts = op == OPS.index("saturation"), op == OPS.index("contrast")
  gray = color.luma(planes)
  mean = color.contrast_center(planes, view.contrast_mean) if view.contrast else (0.0,) * 3
  center = tuple(jnp.where(saturates, gray, jnp.where(contrasts, m, 0.0)) for m in mean)
  return color.affine(planes, factor, center)
