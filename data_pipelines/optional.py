"""Imports packages of the extra `data` when needed; a missing one is reported in one line."""

from __future__ import annotations

import importlib
from types import ModuleType

from vssl_jax.errors import UserError
from vssl_jax.files.extras import install as install

PACKAGES = ("tensorflow", "tensorflow_datasets", "clu", "tensorboard")


def require(module: str, what: str, *, instead: str = "") -> ModuleType:
  """Imports a module of the extra's packages, or one of our modules that imports them.

  Args:
    module: full name of the module.
    what: what needs it, as the subject of the error message.
    instead: what the user can do instead of installing the package; "" if nothing.

  Raises:
    UserError: a package of the extra is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as e:
    package = (e.name or "").partition(".")[0]
    if package not in PACKAGES:
      raise
    way_out = f"{install('data')}, or {instead}" if instead else install("data")
    raise UserError(f"{what} needs {package}, which is not installed: {way_out}.") from None
