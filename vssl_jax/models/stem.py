"""Gives a network's stem another number of channels: from RGB to gray, or to many bands."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from vssl_jax.errors import UserError

Tree = Any


def adapt(variables: Tree, like: Tree, channels: int) -> Tree:
  """Changes the kernels that read red, green and blue to read C channels, as timm does.

  For one channel they are summed, so that a gray clip gives the output of the same clip as RGB. For
  other numbers they are repeated in turn (R, G, B, R, …) and multiplied by 3 / C, so that the size
  of the sums stays. timm: `adapt_input_conv` in timm/models/_manipulate.py. Both hold for inputs
  with the same mean and standard deviation in all channels.

  Args:
    variables: {params, batch_stats} of a network for RGB.
    like: variables of the same network for C channels, as arrays or shapes.
    channels: C.

  Returns:
    A tree with the structure and shapes of `like`, of NumPy arrays.

  Raises:
    UserError: the networks differ in more than the channels that their stems read.
  """
  have = dict(jax.tree_util.tree_flatten_with_path(variables)[0])
  want, structure = jax.tree_util.tree_flatten_with_path(like)
  if have.keys() != {path for path, _ in want}:
    raise UserError("stem: the two networks have other layers.")
  name = jax.tree_util.keystr
  return jax.tree.unflatten(
    structure, [_one(name(p), np.asarray(have[p]), x.shape, channels) for p, x in want]
  )


def _one(name: str, x: np.ndarray, shape: tuple[int, ...], channels: int) -> np.ndarray:
  """A kernel's inputs are its last axis but one; in ViT's, colors come last in each tubelet."""
  if x.shape == shape:
    return x
  inputs = x.shape[-2] if x.ndim > 1 else 0
  expected = (*x.shape[:-2], inputs // 3 * channels, *x.shape[-1:])
  if not inputs or inputs % 3 or shape != expected:
    raise UserError(f"stem: {name} has shape {list(x.shape)}, which cannot become {list(shape)}.")
  colors = x.reshape(*x.shape[:-2], inputs // 3, 3, x.shape[-1])
  if channels == 1:
    adapted = colors.sum(-2, keepdims=True)
  else:
    adapted = colors[..., np.arange(channels) % 3, :] * np.asarray(3 / channels, x.dtype)
  return adapted.reshape(shape).astype(x.dtype)
