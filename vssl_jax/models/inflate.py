"""2-D weights into a 3-D network (Carreira & Zisserman, CVPR 2017, §2.4)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.models.build import build_encoder

Tree = Any


def inflate(variables: Tree, like: Tree, *, how: str = "mean") -> Tree:
  """Gives every array of a 2-D network the shape that the video network has.

  Kernels [1, h, w, i, o] become [t, h, w, i, o]; all else (batch norm, shortcuts, heads) is
  copied. A clip of t equal frames then gives what the frame gave, away from the clip's ends: there
  zero padding in time takes part of the kernel's weight, as in every inflated network.

  Args:
    variables: of the 2-D network, {params, batch_stats}.
    like: of the video network, arrays or their shapes.
    how: `mean` repeats a kernel over time and divides by t; `centre` puts it at the middle and
      zeros elsewhere.

  Returns:
    A tree like `like`, dtypes of `variables`.

  Raises:
    UserError: the networks differ in more than the kernels' extent in time.
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
  """A network trained on single frames becomes the video network its probe needs."""
  if config.encoder.temporal:
    return config, variables
  config = config.copy_and_resolve_references()
  config.encoder.temporal = True
  encoder = build_encoder(config.encoder)
  e = config.data.eval
  clip = jax.ShapeDtypeStruct((1, e.frames, e.size, e.size, 3), jnp.float32)
  like = jax.eval_shape(encoder.init, jax.random.key(0), clip)
  return config, inflate(variables, like)
