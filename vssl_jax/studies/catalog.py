"""Finds the study of a name: one that ships with the package, or one in a file of the user."""

from __future__ import annotations

import os
import pathlib

from vssl_jax import config_file
from vssl_jax.errors import UserError
from vssl_jax.studies.papers import cvrl, dcc, provico, rho
from vssl_jax.studies.study import Study

SHIPPED: dict[str, Study] = cvrl.STUDIES | rho.STUDIES | provico.STUDIES | dcc.STUDIES


def find(name: str | os.PathLike[str]) -> tuple[str, Study]:
  """A study and its own name.

  Args:
    name: a name of `SHIPPED`, or a Python file with a dictionary `STUDIES`, which is run; after a
      colon the name of one of several.

  Raises:
    UserError: there is no such study, or the file has none.
  """
  name = os.fspath(name)
  if name in SHIPPED:
    return name, SHIPPED[name]
  first, colon, wanted = name.rpartition(":")
  if not colon or pathlib.Path(name).is_file():
    first, wanted = name, ""
  path = pathlib.Path(first)
  if not path.is_file():
    raise UserError(
      f"{name!r} is neither a study nor a file with studies; there are {', '.join(SHIPPED)}."
    )
  return _of_file(path, wanted)


def _of_file(path: pathlib.Path, wanted: str) -> tuple[str, Study]:
  found = getattr(config_file.execute(path, ""), "STUDIES", None)
  if not isinstance(found, dict) or not found:
    raise UserError(f"{path}: no studies there; it needs STUDIES = {{'name': Study(...)}}.")
  for key, study in found.items():
    if not isinstance(key, str) or not key.isidentifier() or not isinstance(study, Study):
      raise UserError(
        f"{path}: STUDIES has {key!r}: {type(study).__name__}; it needs names like 'my_study' and "
        "a vssl_jax.studies.Study for each."
      )
  if not wanted and len(found) == 1:
    return next(iter(found.items()))
  if wanted not in found:
    lack = f"no study {wanted!r}" if wanted else "several studies"
    raise UserError(f"{path}: {lack} there; give {path}:NAME, with one of {', '.join(found)}.")
  return wanted, found[wanted]
