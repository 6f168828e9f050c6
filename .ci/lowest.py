"""Prints pip constraints that pin each dependency in setup.cfg to the lowest version it allows."""

import configparser
import pathlib
import re

_BOUNDED = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)")


def lowest(text: str) -> dict[str, str]:
  """Lowest version by name, of `install_requires` and of every extra in a setup.cfg.

  Raises:
    ValueError: a name with two lower bounds.
  """
  config = configparser.ConfigParser()
  config.read_string(text)
  lines = config["options"]["install_requires"].splitlines()
  for extra in config["options.extras_require"].values():
    lines += extra.splitlines()
  found: dict[str, str] = {}
  for name, version in filter(None, (m and m.groups() for m in map(_BOUNDED.match, lines))):
    if found.setdefault(name, version) != version:
      raise ValueError(f"setup.cfg: {name} has the lower bounds {found[name]} and {version}.")
  return found


if __name__ == "__main__":
  path = pathlib.Path(__file__).resolve().parent.parent / "setup.cfg"
  for name, version in lowest(path.read_text(encoding="utf-8")).items():
    print(f"{name}=={version}")
