"""Self-supervised video representation learning in JAX.

encoder = vssl_jax.load("runs/mine")                 # a run, an export or converted weights
features = encoder.apply(encoder.params, clips)      # uint8 [N, T, H, W, 3] to float32 [N, F]
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vssl_jax._version import __version__

if TYPE_CHECKING:
  from vssl_jax.encoder.encoder import Encoder


__all__ = ["__version__", "load"]


def load(path: str | os.PathLike[str]) -> Encoder:
  """The encoder in a folder, with `apply(params, clips)`; see `vssl_jax.encoder.encoder.load`."""
  from vssl_jax.encoder import encoder  # what it needs is loaded when it is needed

  return encoder.load(path)
