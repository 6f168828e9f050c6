"""Turns the weights of a 2-D network into those of a 3-D one (Carreira & Zisserman 2017, §2.4)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.models.build import build_encoder

Tree = Any


def inflate(variables: Tree, like: Tree, *, how: str = "mean") -> Tree:
  """Gives every array of a 2-D network the shape that it has in the video network.

  Kernels [1, h, w, i, o] become [t, h, w, i, o]; all other arrays (batch norm, shortcuts, heads)
  are copied. A clip of t equal frames then gives the same output as the frame, except near the ends
  of the clip, where the kernel covers zero padding in time, as in every inflated network.

  Args:
    variables: {params, batch_stats} of the 2-D network.
    like: variables of the video network, as arrays or shapes.
    how: `mean` repeats a kernel over time and divides by t; `centre` puts it in the middle, with
      zeros elsewhere.

  Returns:
    A tree with the structure and shapes of `like` and the dtypes of `variables`.

  Raises:
    UserError: the networks differ in more than the temporal size of the kernels.
  """
  if how not in ("mean", "centre"):
    raise UserError(f"inflate: {how!r} is unknown; choose mean or centre.")
  have = dict(jax.tree_util.tree_flatten_with_path(variables)[0])
  want, structure = jax.tree_util.tree_flatten_with_path(like)
  names = jax.tree_util.keystr
  if missing := [names(p) for p, _ in want if p not in have]:
    raise UserError(f"inflate: the 2-D network lacks {missing[0]} ({len(missing)} in all).")
  if extra := set(have) - {p for p, _ in want}:
    first = min(map(names, extra))
    raise UserError(f"inflate: the video network has no {first} ({len(extra)} in all).")
  return jax.tree.unflatten(structure, [_one(names(p), have[p], x.shape, how) for p, x in want])


def _one(name: str, x: jax.Array, shape: tuple[int, ...], how: str) -> jax.Array:
  if x.shape == shape:
    return x
  if len(shape) != 5 or x.shape[1:] != shape[1:] or x.shape[0] != 1:
    raise UserError(
      f"inflate: {name} has shape {list(x.shape)}, which cannot become {list(shape)}."
    )
  t = shape[0]
  if how == "mean":
    return jnp.repeat(x / t, t, axis=0)
  return jnp.zeros(shape, x.dtype).at[t // 2].set(x[0])


def inflated(config: ConfigDict, variables: dict[str, Any]) -> tuple[ConfigDict, dict[str, Any]]:
  """Inflates an encoder trained on single frames for probes on videos; leaves others unchanged.

  With `config.encoder.inflate = False` it stays as it is: its feature of a clip is then the mean of
  its features of the clip's frames.
  """
  if config.encoder.temporal or not config.encoder.inflate:
    return config, variables
  config = config.copy_and_resolve_references()
  config.encoder.temporal = True
  encoder = build_encoder(config.encoder)
  e = config.data.eval
  clip = jax.ShapeDtypeStruct((1, e.frames, e.size, e.size, config.data.channels), jnp.float32)
  like = jax.eval_shape(encoder.init, jax.random.key(0), clip)
  return config, inflate(variables, like)
