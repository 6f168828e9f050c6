"""Color operations on clips in [0, 1].

They work on planes: a clip `[..., C]` split into one array per channel. A CPU can vectorize whole
planes, but not pixels with three interleaved values.

The results are those of CVRL's published input pipeline (TensorFlow Models,
official/projects/video_ssl): `tf.image.adjust_contrast`, `adjust_saturation`, `adjust_hue` and
`rgb_to_grayscale` on the clip reshaped to one tall image, and a multiplicative brightness. Contrast
and saturation also have the form of torchvision, which the ρ-study uses.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Planes = tuple[jax.Array, ...]

LUMA = (0.2989, 0.587, 0.114)  # tf.image.rgb_to_grayscale, and torchvision's


def split(clip: jax.Array) -> Planes:
  """Splits `[..., C]` into C planes `[...]`."""
  return tuple(clip[..., k] for k in range(clip.shape[-1]))


def merge(planes: Planes) -> jax.Array:
  """Undoes `split`."""
  return jnp.stack(planes, axis=-1)


def unit(planes: Planes) -> Planes:
  """Clips values to [0, 1]."""
  return tuple(jnp.clip(p, 0.0, 1.0) for p in planes)


def luma(planes: Planes) -> jax.Array:
  """The gray value of red, green and blue planes."""
  r, g, b = planes
  return LUMA[0] * r + LUMA[1] * g + LUMA[2] * b


def contrast_center(planes: Planes, mean: str) -> Planes:
  """The value that contrast does not change, one scalar per channel.

  Args:
    planes: channels of one clip.
    mean: "clip", each channel's own mean over all frames (`tf.image.adjust_contrast` on the tall
      image), or "grey", the mean gray value for every channel (torchvision's); without red, green
      and blue, the mean over all channels.
  """
  if mean == "grey":
    gray = luma(planes) if len(planes) == 3 else sum(planes[1:], planes[0]) / len(planes)
    return (jnp.mean(gray),) * len(planes)
  return tuple(jnp.mean(p) for p in planes)


def affine(
  planes: Planes, factor: jax.Array | float, center: tuple[jax.Array | float, ...]
) -> Planes:
  """`center + factor · (plane − center)`, exact at factor 1, clipped to [0, 1].

  A center is a scalar, or has the shape of a plane.
  """
  rest = 1.0 - factor
  return unit(tuple(factor * p + rest * c for p, c in zip(planes, center, strict=True)))


def hue_saturation(planes: Planes, hue: jax.Array | float, saturation: jax.Array | float) -> Planes:
  """Rotates the hue by the share `hue` of a full circle and scales HSV saturation, in one pass.

  The two operations commute: one changes only H of HSV, the other only S. Let d be the circular
  distance of the hue from that of a channel, in sextants. The value of the channel is
  `V − chroma · (1 − t)` with t = clip(2 − d, 0, 1). Scaling S scales the chroma, up to at most V.
  Red, green and blue differ only by their cyclic order, so one function serves all three.

  Args:
    planes: red, green and blue in [0, 1].
    hue: in [-0.5, 0.5].
    saturation: at least 0.
  """
  return tuple(
    _one_channel(planes[k], planes[k - 2], planes[k - 1], hue, saturation) for k in range(3)
  )


def _one_channel(own, following, previous, hue, saturation):
  top = jnp.maximum(jnp.maximum(own, following), previous)
  chroma = top - jnp.minimum(jnp.minimum(own, following), previous)
  first, second = own == top, following == top
  rise = jnp.where(first, following - previous, jnp.where(second, previous - own, own - following))
  sextant = jnp.where(first, 0.0, jnp.where(second, 2.0, 4.0))
  # A gray pixel has chroma 0 for any hue; the bound keeps the quotient finite.
  turned = jnp.abs(rise / jnp.maximum(chroma, 1e-20) + (sextant + 6.0 * hue))
  distance = jnp.minimum(turned, jnp.abs(6.0 - turned))  # turned is in [0, 8]
  scaled = jnp.minimum(saturation * chroma, top)
  return top - scaled * jnp.clip(distance - 1.0, 0.0, 1.0)


def grey_planes(planes: Planes) -> Planes:
  """Every channel replaced by the gray value."""
  return (luma(planes),) * 3


def inverted(planes: Planes) -> Planes:
  """The negative: x becomes 1 − x in every channel."""
  return tuple(1.0 - p for p in planes)


def adjust_brightness(clip: jax.Array, factor: jax.Array | float) -> jax.Array:
  """Multiplies by `factor` and clips to [0, 1] (SimCLR v2's brightness).

  Args:
    clip: float `[T, H, W, C]` in [0, 1].
    factor: at least 0; 1 changes nothing.

  Returns:
    float `[T, H, W, C]` in [0, 1].
  """
  return jnp.clip(clip * factor, 0.0, 1.0)


def adjust_contrast(clip: jax.Array, factor: jax.Array | float, mean: str = "clip") -> jax.Array:
  """Moves values away from (factor > 1) or toward (< 1) a mean over the whole clip.

  Args:
    clip: float `[T, H, W, C]` in [0, 1].
    factor: at least 0; 1 changes nothing.
    mean: "clip" (each channel's own; TensorFlow on the tall image) or "grey" (torchvision).

  Returns:
    float `[T, H, W, C]` in [0, 1].
  """
  planes = split(clip)
  return merge(affine(planes, factor, contrast_center(planes, mean)))


def adjust_saturation(clip: jax.Array, factor: jax.Array | float, space: str = "hsv") -> jax.Array:
  """Makes colors stronger (factor > 1) or weaker (< 1).

  Args:
    clip: float `[T, H, W, 3]` in [0, 1].
    factor: at least 0; 1 changes nothing.
    space: "hsv" scales the saturation of HSV, like `tf.image.adjust_saturation`, and factor 0
      leaves each pixel's largest channel; "luma" moves each pixel away from or toward its luma,
      like torchvision, and factor 0 leaves the luma.

  Returns:
    float `[T, H, W, 3]` in [0, 1].
  """
  planes = split(clip)
  if space == "luma":
    return merge(affine(planes, factor, (luma(planes),) * 3))
  return merge(hue_saturation(planes, 0.0, factor))


def adjust_hue(clip: jax.Array, delta: jax.Array | float) -> jax.Array:
  """Rotates the hue of HSV, like `tf.image.adjust_hue`.

  Args:
    clip: float `[T, H, W, 3]` in [0, 1].
    delta: share of a full circle, any number; whole turns change nothing.

  Returns:
    float `[T, H, W, 3]` in [0, 1].
  """
  return merge(hue_saturation(split(clip), delta - jnp.round(delta), 1.0))


def to_grayscale(clip: jax.Array) -> jax.Array:
  """Replaces every channel by the gray value 0.2989 R + 0.587 G + 0.114 B.

  Args:
    clip: float `[T, H, W, 3]`.

  Returns:
    float `[T, H, W, 3]`, three equal channels.
  """
  return merge(grey_planes(split(clip)))


def solarize(clip: jax.Array, threshold: float = 0.5) -> jax.Array:
  """Inverts values at or above `threshold`: x becomes 1 − x.

  Args:
    clip: float array of any shape, in [0, 1].
    threshold: in [0, 1].

  Returns:
    float array of the same shape, in [0, 1].
  """
  return jnp.where(clip < threshold, clip, 1.0 - clip)
