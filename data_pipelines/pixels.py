"""Channels and values of frames: what sources can give, and how values become uint8."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from vssl_jax.errors import UserError


class ValueRangeError(ValueError):
  """The values of a frame cannot become uint8."""


def require_channels(channels: int, known: Sequence[int], what: str) -> None:
  """Checks `config.data.channels` against what a source can give.

  Args:
    channels: the field.
    known: the numbers of channels that it can give.
    what: which file or data set it is, and what it has, for the message: "a.npy: it has …".

  Raises:
    UserError: it cannot give so many.
  """
  if channels not in known:
    choice = " or ".join(map(str, known))
    arrays = "" if channels in (1, 3) else "; arrays of them are read by config.data.source=arrays"
    raise UserError(
      f"{what}, but config.data.channels is {channels}; set it to {choice}, or give data of "
      f"{channels} channels{arrays}."
    )


def value_range(
  given: Any, channels: int = 1, name: str = "config.data.value_range"
) -> tuple[float, ...]:
  """A range of values as floats: (), (low, high), or low and high of each channel in turn.

  Args:
    given: the numbers.
    channels: number of channels that may have ranges of their own.
    name: of the field or flag, for the message.

  Raises:
    UserError: it has another length, or a low that is not below its high.
  """
  values = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
  good = all(isinstance(x, numbers.Real) and math.isfinite(x) for x in values)
  if not good or len(values) not in (0, 2, 2 * channels) or not _rises(values):
    each = f", or low and high of each of {channels} channels" if channels > 1 else ""
    raise UserError(
      f"{name}: {given}; give the two values that become 0 and 255, low and high with low < "
      f"high{each}."
    )
  return tuple(map(float, values))


def _rises(values: Sequence[float]) -> bool:
  return all(low < high for low, high in zip(values[::2], values[1::2], strict=False))


def to_uint8(values: np.ndarray, bounds: Sequence[float]) -> np.ndarray:
  """Maps values linearly to 0 … 255, rounded; values beyond the bounds become 0 or 255.

  Args:
    values: numbers `[..., C]`.
    bounds: (low, high), or low and high of each channel in turn.

  Raises:
    ValueRangeError: a value is NaN or infinite.
  """
  low, high = np.asarray(bounds, np.float64).reshape(-1, 2).T
  scaled = (values.astype(np.float64) - low) * 255.0 / (high - low)
  if not np.isfinite(scaled).all():
    raise ValueRangeError("it has NaN or infinity: replace these values before")
  return np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)
