"""The random numbers of one clip's augmentation, apart from what they are used for.

A draw depends on the example's key, the view and the operation alone: it is the same whatever
batch, micro-batch or device the clip is in, and switching one operation off leaves the draws of
the others as they were.
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


class Draw(NamedTuple):
  """One clip's parameters; every field is a scalar (or has the batch's leading axes)."""

  flip: jax.Array  # bool
  turns: jax.Array  # int32, quarter turns, 0 to 3
  jitter: jax.Array  # bool
  order: jax.Array  # int32, row of ORDERS
  brightness: jax.Array  # factor
  contrast: jax.Array  # factor
  saturation: jax.Array  # factor
  hue: jax.Array  # share of the circle, in [-hue, hue]
  gray: jax.Array  # bool
  blur: jax.Array  # bool
  sigma: jax.Array  # pixels
  solarise: jax.Array  # bool


def draw(key: jax.Array, view: View) -> Draw:
  """Draws one clip's parameters.

  Args:
    key: the clip's typed PRNG key, a scalar.
    view: the view's settings.

  Returns:
    A `Draw` of scalars. Factors are uniform in [max(0, 1 − s), 1 + s] for strength s, as in
    `tf.image.random_*`; orders are uniform over the 24.
  """
  keys = [jax.random.fold_in(key, i) for i in range(13)]

  def happens(i, p):
    return jax.random.uniform(keys[i]) < p  # uniform is in [0, 1): certain at 1, never at 0

  def between(i, low, high):
    return jax.random.uniform(keys[i], minval=low, maxval=high)

  def factor(i, strength):
    return between(i, max(0.0, 1.0 - strength), 1.0 + strength)

  turns = jax.random.randint(keys[1], (), 1, 4)
  return Draw(
    flip=happens(0, view.flip),
    turns=jnp.where(happens(2, view.rotation_p), turns, 0),
    jitter=happens(3, view.jitter_p),
    order=jax.random.randint(keys[4], (), 0, 24),
    brightness=factor(5, view.brightness),
    contrast=factor(6, view.contrast),
    saturation=factor(7, view.saturation),
    hue=between(8, -view.hue, view.hue),
    gray=happens(9, view.gray_p),
    blur=happens(10, view.blur_p),
    sigma=between(11, *view.blur_sigma),
    solarise=happens(12, view.solarise_p),
  )
