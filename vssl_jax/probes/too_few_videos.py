"""The error of a protocol that cannot run on the given data, whatever its settings."""

from __future__ import annotations

import numpy as np

from vssl_jax.errors import UserError


class TooFewVideos(UserError):
  """A protocol cannot run on this data; it is skipped unless the user named it explicitly."""


def require_labels(label: np.ndarray, split: str, protocol: str) -> None:
  """Checks that some video has a label.

  Args:
    label: int `[V]`; negative means unknown.
    split: "training" or "evaluation", for the message.
    protocol: what needs labels, as a plural noun.

  Raises:
    TooFewVideos: no video has one.
  """
  if not np.any(np.asarray(label) >= 0):
    raise TooFewVideos(f"no video of the {split} split has a label: {protocol} need labels")
