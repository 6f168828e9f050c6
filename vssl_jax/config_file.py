"""Finds the config of a name: a file, or a recipe of the package; and changes its fields.

`configs/cvrl.py:demo` is a file and the argument of its `get_config`. `cvrl:demo` is the same for
the recipe `cvrl`, a file in `configs/` (in a checkout) or `vssl_jax/configs` (if installed).
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.machinery
import os
import pathlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax.errors import UserError, brief
from vssl_jax.files import local

_PACKAGE = pathlib.Path(__file__).resolve().parent


def recipes() -> dict[str, pathlib.Path]:
  """The files of the recipes of the package, by name."""
  folder = _PACKAGE / "configs"
  if not folder.is_dir():  # a checkout
    folder = _PACKAGE.parent / "configs"
  return {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}


def load(name: str | os.PathLike[str]) -> ConfigDict:
  """Loads the config of a name.

  A config file can call this for a recipe or another file to start from, and import modules that
  lie beside it.

  Args:
    name: a file or a recipe, optionally with a variant after a colon, such as "cvrl:demo".

  Returns:
    An unlocked config, as the file returns it: some fields may have former names.

  Raises:
    UserError: no such file or recipe, no such variant, or the file is not a config file.
  """
  path, variant = _find(os.fspath(name))
  module = execute(path, "--config: ")
  try:
    with _found_in(path.resolve().parent):
      config = module.get_config(*variant)
  except UserError:
    raise
  except Exception as e:  # it is the user's program
    raise UserError(f"--config: {path}: {type(e).__name__}: {brief(e)}") from e
  if not isinstance(config, ConfigDict):
    raise UserError(f"--config: {path}: get_config gave a {type(config).__name__}, no ConfigDict.")
  return config.unlock()


def execute(path: pathlib.Path, flag: str) -> types.ModuleType:
  """Runs a Python file that the user has named; modules beside it can be imported meanwhile.

  Args:
    path: the file.
    flag: beginning of the message of an error.

  Returns:
    The file as a module.

  Raises:
    UserError: it cannot be run; the message says why.
  """
  if path not in recipes().values():
    find_modules_here()
  try:
    loader = importlib.machinery.SourceFileLoader(f"vssl_config_{path.stem}", str(path))
    module = types.ModuleType(loader.name)
    module.__file__ = str(path)
    sys.modules[loader.name] = module  # where dataclasses and pickle look for a class's module
    with _found_in(path.resolve().parent):
      loader.exec_module(module)
  except UserError:
    raise
  except Exception as e:  # it is the user's program
    raise UserError(f"{flag}{path}: {type(e).__name__}: {brief(e)}") from e
  return module


def find_modules_here() -> None:
  """Lets modules that the user's own flags or config file name lie in this folder, as with `-m`.

  Called only where the user has named a program: the current folder may be a downloaded one, and
  what lies in it must not take the place of a library.
  """
  importlib.import_module("data_pipelines")  # first, so that it comes from where this package does
  with contextlib.suppress(OSError):  # this folder has been removed
    here = os.getcwd()
    if not sys.flags.safe_path and not {here, ""} & set(sys.path):
      sys.path.insert(0, here)


@contextlib.contextmanager
def _found_in(folder: pathlib.Path) -> Iterator[None]:
  """Modules of a folder can be imported meanwhile, before others of the same names."""
  sys.path.insert(0, str(folder))
  try:
    yield
  finally:
    with contextlib.suppress(ValueError):  # the config file has removed it
      sys.path.remove(str(folder))


def _find(name: str) -> tuple[pathlib.Path, list[str]]:
  """The file, and a list with the variant, or an empty list."""
  first, colon, variant = name.partition(":")
  if not local(first).is_file() and local(name).is_file():  # C:\..., or odd names
    first, colon, variant = name, "", ""
  path, known = pathlib.Path(first), recipes()
  if not path.is_file():
    if first not in known:
      raise UserError(
        f"--config: {first!r} is neither a file nor a recipe; the recipes are {', '.join(known)}."
      )
    path = known[first]
  return path, [variant] if colon else []


def resolve(
  config: ConfigDict | str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> ConfigDict:
  """A config, given by name or as a `ConfigDict`, with some fields changed.

  Args:
    config: a name, see `load`, or a config, which is not changed.
    overrides: values by dotted names, such as {"optim.lr": 0.1}; former names are accepted too.

  Returns:
    A new, locked config.

  Raises:
    UserError: see `load`; or no such field, or a value of another type.
  """
  if isinstance(config, ConfigDict):
    config = config.copy_and_resolve_references().unlock()
  else:
    config = load(config)
  config_lib.rename_fields(config)
  for name, value in (overrides or {}).items():
    _set(config, config_lib.RENAMED.get(name, name), value)
  return config.lock()


def require(config: ConfigDict, name: str) -> None:
  """Checks that a config has a field.

  Args:
    config: any config.
    name: the field's dotted name.

  Raises:
    UserError: there is no such field; the message names the nearest one, or the same name elsewhere
      in the config.
  """
  group, at = config, "config"
  for field in name.split("."):
    fields = list(group) if isinstance(group, ConfigDict) else []
    if field not in fields:
      near = difflib.get_close_matches(field, fields, n=1)
      near = near or [n for n in _names(config) if n.rpartition(".")[2] == field][:1]
      meant = f" Did you mean {near[0]!r}?" if near else ""
      raise UserError(f"{at} has no field {field!r}.{meant}")
    group, at = group[field], f"{at}.{field}"


def _names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
  for key, value in config.items():
    yield prefix + key
    if isinstance(value, ConfigDict):
      yield from _names(value, f"{prefix}{key}.")


def _set(config: ConfigDict, name: str, value: Any) -> None:
  require(config, name)
  parents, _, field = name.rpartition(".")
  group = config
  for parent in filter(None, parents.split(".")):
    group = group[parent]
  if isinstance(value, os.PathLike):
    value = os.fspath(value)
  if isinstance(group[field], tuple) and isinstance(value, list):
    value = tuple(value)
  try:
    group[field] = value
  except (TypeError, ValueError) as e:
    raise UserError(f"config.{name}: {brief(e)}") from None
