"""A Python environment with what `pip install '.[test]'` would bring, and no TensorFlow.

It is made out of the environment that runs the tests, without a network: the packages that
setup.cfg asks for and all that these ask for are linked file by file, the rest is left out. So a
package that only ever arrived along with TensorFlow is missing in it, as it would be for a user.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import pathlib
import subprocess
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent


def make(folder: pathlib.Path, extras: tuple[str, ...] = ("test",)) -> pathlib.Path:
  """Makes the environment in `folder`; returns its Python."""
  subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
  (site,) = folder.glob("lib/python*/site-packages")
  for distribution in distributions(extras):
    for file in distribution.files or ():
      if ".." in file.parts:  # commands, which lie in bin/
        continue
      link = site / file
      link.parent.mkdir(parents=True, exist_ok=True)
      if not link.exists():
        os.symlink(pathlib.Path(file.locate()).resolve(), link)
  return folder / "bin" / "python"


def distributions(extras: tuple[str, ...] = ()) -> list[importlib.metadata.Distribution]:
  """What setup.cfg asks for with these extras, and what that asks for, all the way down."""
  config = configparser.ConfigParser()
  config.read(ROOT / "setup.cfg", encoding="utf-8")
  asked = config["options"]["install_requires"]
  asked += "".join(config["options.extras_require"][extra] for extra in extras)
  queue = [Requirement(line) for line in asked.splitlines() if line.strip()]
  found: dict[tuple[str, str], importlib.metadata.Distribution] = {}
  while queue:
    wanted = queue.pop()
    for extra in ("", *wanted.extras):
      key = canonicalize_name(wanted.name), extra
      if key in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
        continue
      found[key] = importlib.metadata.distribution(wanted.name)
      for line in found[key].requires or ():
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
          needed.marker = None
          queue.append(needed)
  return [distribution for (_, extra), distribution in found.items() if not extra]
