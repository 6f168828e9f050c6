"""What a protocol says where the data does not suffice for it, whatever its settings."""

from __future__ import annotations

import numpy as np

from vssl_jax.errors import UserError


class TooFewVideos(UserError):
  """A protocol is impossible on this data; where it was not asked for by name it is left out."""


def require_labels(label: np.ndarray, split: str, protocol: str) -> None:
  """Checks that some video has a label.

  Args:
    label: int `[V]`; negative ones are unknown.
    split: "training" or "evaluation", for the message.
    protocol: what needs labels, in the plural.

  Raises:
    TooFewVideos: none has.
  """
  if not np.any(np.asarray(label) >= 0):
    raise TooFewVideos(f"no video of the {split} split has a label: {protocol} need labels")
