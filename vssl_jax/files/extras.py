"""The command that installs the packages of an extra of setup.cfg."""

from __future__ import annotations

import pathlib
import shlex
from importlib import metadata

from packaging.requirements import Requirement

_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


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
