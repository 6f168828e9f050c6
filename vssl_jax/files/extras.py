"""The packages of an extra of setup.cfg: what they are, which are missing, how to install them."""

from __future__ import annotations

import configparser
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
  found = _of_distribution(extra)
  if found:
    return f"pip install {' '.join(shlex.quote(str(r)) for r in found)}"
  return f"pip install -e '.[{extra}]' in {_CHECKOUT}"


def requirements(extra: str = "") -> list[Requirement]:
  """What an extra asks for on this machine, without markers; with "", what is always needed.

  It is read from the installed package, or else from the setup.cfg of a checkout; empty if there is
  neither, or no such extra.
  """
  return _of_distribution(extra) or _of_checkout(extra)


def lacking(asked: Requirement) -> str:
  """What keeps an installed package from being what is asked for; "" if nothing does.

  Packages are looked up by name and version, and not imported. The extras of the package, such as
  `cuda12` of `jax[cuda12]`, are looked up too.
  """
  try:
    version = metadata.version(asked.name)
  except metadata.PackageNotFoundError:
    return f"{asked.name} is missing"
  if not asked.specifier.contains(version, prereleases=True):
    return f"{asked.name} {version} is not {asked.specifier}"
  own = metadata.requires(asked.name) or []
  for extra in sorted(asked.extras):
    for inner in _chosen(own, extra):
      if reason := "" if inner.name == asked.name else lacking(inner):
        return reason
  return ""


def _of_distribution(extra: str) -> list[Requirement]:
  try:
    return _chosen(metadata.requires("vssl_jax") or [], extra)
  except metadata.PackageNotFoundError:
    return []


def _of_checkout(extra: str) -> list[Requirement]:
  stored = configparser.ConfigParser()
  stored.read(_CHECKOUT / "setup.cfg", encoding="utf-8")
  section, key = ("options.extras_require", extra) if extra else ("options", "install_requires")
  lines = stored.get(section, key, fallback="").splitlines()
  return _chosen([x for x in lines if x and not x.startswith("#")], "")


def _chosen(lines: list[str], extra: str) -> list[Requirement]:
  """Those that hold on this machine with the extra; with one, those that need it."""
  found = []
  for asked in map(Requirement, lines):
    where = asked.marker
    # What is asked for without any extra is there.
    if extra and not (where and not where.evaluate({"extra": ""})):
      continue
    if where and not where.evaluate({"extra": extra}):
      continue
    asked.marker = None
    found.append(asked)
  return found
