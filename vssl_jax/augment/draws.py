"""Draws the random parameters of the augmentation of a clip.

A draw depends only on the example's key, the view and the operation. It does not depend on the
batch, micro-batch or device of the clip, and switching off one operation does not change the draws
of the others.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vssl_jax.augment.settings import View

OPS = ("brightness", "contrast", "saturation", "hue")
ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)  # [24, 4]: op at each place
_USES = 14  # random numbers per clip; the index of each use must never change


class Draw(NamedTuple):
  """The parameters of one clip; all fields are scalars (or have the leading axes of a batch)."""

  flip: jax.Array  # bool
  turns: jax.Array  # int32, number of quarter turns, 0 to 3
  jitter: jax.Array  # bool
  order: jax.Array  # int32, row of ORDERS
  brightness: jax.Array  # factor
  contrast: jax.Array  # factor
  saturation: jax.Array  # factor
  hue: jax.Array  # share of the circle, in [-hue, hue]
  gray: jax.Array  # bool
  blur: jax.Array  # bool
  sigma: jax.Array  # pixels
  solarize: jax.Array  # bool
  invert: jax.Array  # bool


def uniforms(key: jax.Array) -> jax.Array:
  """One random number in [0, 1) for each use.

  Args:
    key: the clip's typed PRNG key, a scalar.

  Returns:
    float32 `[14]`.
  """
  return jax.random.uniform(key, (_USES,))


def resolve(u: jax.Array, view: View) -> Draw:
  """Converts the numbers of `uniforms` to parameters.

  Args:
    u: float32 `[..., 14]` in [0, 1).
    view: the view's settings.

  Returns:
    A `Draw` of arrays `[...]`. Factors are uniform in [max(0, 1 − s), 1 + s] for strength s, as
    in `tf.image.random_*`. The 24 orders have equal probability. A rotation is one, two or three
    quarter turns with equal probability.
  """

  def below(i, p):
    return u[..., i] < p  # u is in [0, 1): always at 1, never at 0

  def between(i, low, high):
    return low + u[..., i] * (high - low)

  def factor(i, strength):
    return between(i, max(0.0, 1.0 - strength), 1.0 + strength)

  def choice(i, n):
    return jnp.floor(u[..., i] * n).astype(jnp.int32)

  return Draw(
    flip=below(0, view.flip),
    turns=jnp.where(below(1, view.rotation_p), 1 + choice(2, 3), 0),
    jitter=below(3, view.jitter_p),
    order=choice(4, 24),
    brightness=factor(5, view.brightness),
    contrast=factor(6, view.contrast),
    saturation=factor(7, view.saturation),
    hue=between(8, -view.hue, view.hue),
    gray=below(9, view.gray_p),
    blur=below(10, view.blur_p),
    sigma=between(11, *view.blur_sigma),
    solarize=below(12, view.solarize_p),
    invert=below(13, view.invert_p),
  )


def draw(key: jax.Array, view: View) -> Draw:
  """Draws the parameters of one clip, all scalars."""
  return resolve(uniforms(key), view)
