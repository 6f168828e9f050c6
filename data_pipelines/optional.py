"""Imports packages of the extra `data` when needed; a missing one is reported in one line."""

from __future__ import annotations

import importlib
import pathlib
import shlex
from importlib import metadata
from types import ModuleType

from packaging.requirements import Requirement

from vssl_jax.errors import UserError

PACKAGES = ("tensorflow", "tensorflow_datasets", "clu", "tensorboard")
_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent


def install(extra: str) -> str:
  """The command that installs the packages of an extra of setup.cfg.

  It names the packages themselves: pip would take `vssl_jax[data]` from an index, where the name
  may be somebody else's.

  Args:
    extra: its name, such as "data".
  """
  try:
    lines = metadata.requires("vssl_jax") or []
  except metadata.PackageNotFoundError:
    lines = []
  found = []
  for asked in map(Requirement, lines):
    where = asked.marker
    # What is asked for without any extra is there.
    if where and where.evaluate({"extra": extra}) and not where.evaluate({"extra": ""}):
      asked.marker = None
      found.append(shlex.quote(str(asked)))
  if found:
    return f"pip install {' '.join(found)}"
  return f"pip install -e '.[{extra}]' in {_CHECKOUT}"


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
