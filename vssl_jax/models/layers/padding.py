"""Padding of convolutions and pooling: as in TensorFlow, as in PyTorch, none, or explicit."""

from __future__ import annotations

from collections.abc import Sequence

from jax import lax

from vssl_jax.errors import UserError

Pair = tuple[int, int]
Triple = tuple[int, int, int]
Pads = tuple[Pair, Pair, Pair]
Padding = str | Sequence[Pair]


def pads(
  size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: Padding
) -> tuple[Pair, ...]:
  """Explicit `(before, after)` padding of each axis.

  Args:
    size: Input sizes of the windowed axes.
    kernel: Window sizes.
    strides: Strides.
    padding: "SAME" (TensorFlow: output = ceil(size / stride), an odd row of padding at the end),
      "symmetric" (kernel // 2 on both sides, usual in PyTorch), "VALID" (none), or explicit pairs.

  Raises:
    UserError: The padding's name is unknown.
  """
  if not isinstance(padding, str):
    return tuple((int(before), int(after)) for before, after in padding)
  if padding in ("SAME", "VALID"):
    return tuple(lax.padtype_to_pads(tuple(size), tuple(kernel), tuple(strides), padding))
  if padding == "symmetric":
    return tuple((k // 2, k // 2) for k in kernel)
  raise UserError(f'padding "{padding}" is unknown: use SAME, symmetric or VALID')


def output_size(
  size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: Sequence[Pair]
) -> tuple[int, ...]:
  """Number of windows along each axis, for explicit padding."""
  return tuple(
    (n + sum(pad) - k) // s + 1 for n, k, s, pad in zip(size, kernel, strides, padding, strict=True)
  )
