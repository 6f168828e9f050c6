"""Layer-wise learning rates for fine-tuning: the nearer the input, the smaller.

Layer i of L moves at the rate times decay^(L − i), and what sits on the encoder at the rate itself
(Howard & Ruder 2018, discriminative fine-tuning; Bao et al. 2022, BEiT, for one factor a layer). A
transformer's last norm is no layer: as in BEiT's and MAE's code it moves at the head's rate, and
the last block at decay times that.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import optax

Params = Any
_NUMBER = re.compile(r"(\d+)(?:_(\d+)|([a-z])(?![a-z]))?")
_LAST = 1 << 20
_ON_TOP = (_LAST, 0)  # of what comes after the last layer


def place(name: str) -> tuple[int, int]:
  """Where a module of an encoder lies by its name, as a key to sort by.

  Stem and embedding come first, then numbered modules (`res3_1` and `slow_res3_1` alike, `block_7`,
  `mixed_4f`; a stage's lateral connection after its blocks), then what has no number (a last norm).
  """
  if "stem" in name or name == "embed":
    return -1, 0
  found = _NUMBER.search(name)
  if found is None:
    return _ON_TOP
  stage, block, letter = found.groups()
  inner = int(block) if block else ord(letter) - ord("a") if letter else 0
  return int(stage), _LAST if "lateral" in name else inner


def scales(params: Params, decay: float) -> Params:
  """Factor of each parameter's rate, in (0, 1].

  Args:
    params: a method's; what lies under `encoder` is layered, all else has factor 1, as has what
      has no number there (a last norm).
    decay: factor from one layer to the one before it.
  """

  def module(path: tuple[Any, ...]) -> str | None:
    keys = [str(getattr(k, "key", k)) for k in path]
    return keys[1] if len(keys) > 1 and keys[0] == "encoder" else None

  flat, tree = jax.tree_util.tree_flatten_with_path(params)
  names = [module(path) for path, _ in flat]
  order = sorted({place(n) for n in names if n is not None} - {_ON_TOP})
  factor = {key: decay ** (len(order) - i) for i, key in enumerate(order)} | {_ON_TOP: 1.0}
  return jax.tree.unflatten(tree, [1.0 if n is None else factor[place(n)] for n in names])


def scale_by_layer(decay: float) -> optax.GradientTransformation:
  """Multiplies updates by `scales`; after momentum and weight decay it is a rate a layer."""

  def update(updates: Params, state: optax.EmptyState, params: Params) -> tuple[Params, Any]:
    return jax.tree.map(lambda u, s: u * s, updates, scales(params, decay)), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
