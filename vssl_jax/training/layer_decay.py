"""Layer-wise learning rates for fine-tuning: layers nearer the input get smaller rates.

Layer i of L has the learning rate times decay^(L − i); the head on the encoder has the learning
rate itself (Howard & Ruder 2018, discriminative fine-tuning; Bao et al. 2022, BEiT, with one factor
per layer). The last norm of a transformer does not count as a layer: as in BEiT's and MAE's code it
has the head's rate, and the last block has decay times that rate.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import optax

Params = Any
_NUMBER = re.compile(r"(\d+)(?:_(\d+)|([a-z])(?![a-z]))?")
_LAST = 1 << 20
_ON_TOP = (_LAST, 0)  # the sort key of modules after the last layer


def place(name: str) -> tuple[int, int]:
  """The position of an encoder's module, derived from its name, as a sort key.

  Stem and embedding come first. Then come the numbered modules (`block_7`; `mixed_4f`; `res3_1` and
  `slow_res3_1` at the same position; a stage's lateral connection after the stage's blocks).
  Modules without a number (a last norm) come last.
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
  """The factor on each parameter's learning rate, in (0, 1].

  Args:
    params: parameters of a method. Those under `encoder` get a factor per layer. All others have
      factor 1, and so do the encoder's modules without a number (a last norm).
    decay: factor from one layer to the layer before it.
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
  """Multiplies updates by `scales`; after momentum and weight decay, this scales the rate."""

  def update(updates: Params, state: optax.EmptyState, params: Params) -> tuple[Params, Any]:
    return jax.tree.map(lambda u, s: u * s, updates, scales(params, decay)), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
