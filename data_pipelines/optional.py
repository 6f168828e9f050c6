"""Packages of the extra `data`: imported where they are needed, else named in one line."""

from __future__ import annotations

import importlib
from types import ModuleType

from vssl_jax.errors import UserError

PACKAGES = ("tensorflow", "tensorflow_datasets", "clu", "tensorboard")
INSTALL = "pip install 'vssl_jax[data]'"


def require(module: str, what: str, *, instead: str = "") -> ModuleType:
  """Imports a module of the extra's packages, or one of ours that imports them.

  Args:
    module: its full name.
    what: that needs it, as an error message names it.
    instead: another way out, if there is one.

  Raises:
    UserError: one of the extra's packages is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as e:
    package = (e.name or "").partition(".")[0]
    if package not in PACKAGES:
      raise
    way_out = f"{INSTALL}, or {instead}" if instead else INSTALL
    raise UserError(f"{what} needs {package}, which is not installed: {way_out}.") from None
