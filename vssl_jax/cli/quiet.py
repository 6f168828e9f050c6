"""Hides the output of libraries, so that the user sees the lines that matter.

There are three kinds of such output. TensorFlow's C++ code writes to file descriptor 2 while it is
imported, before its own settings take effect; what it writes later is controlled by an environment
variable; Python libraries warn through absl's log and through `warnings`. Warnings of this package
and all errors are shown.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import pathlib
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from absl import logging as absl_logging

_OWN = tuple(str(pathlib.Path(__file__).resolve().parents[2] / x) for x in ("vssl_jax", "data_"))
_LOUD = "tensorflow"
# Orbax logs the error of a thread that writes, and then raises it where we wait for the thread.
_RETOLD = f"{os.sep}orbax{os.sep}checkpoint{os.sep}"
_FOLLOWS = "Event loop is closed"  # TensorStore's threads find it so after another's error
_NOISE = re.compile(
  rb"WARNING: All log messages before absl|[IWE]\d{4} [\d:. ]+|\d{4}-[-\d:. ]+ [IWE] "
)


def silence() -> None:
  """Silences libraries in this process and its child processes; keeps what the user has set."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
  if not any(isinstance(f, _Finder) for f in sys.meta_path):
    sys.meta_path.insert(0, _Finder())
  # Made by absl itself, which finds the file that logs; a plain logger of this name finds absl's.
  logger = absl_logging.get_absl_logger()
  logger.removeFilter(_ours)
  logger.addFilter(_ours)
  if sys.unraisablehook is sys.__unraisablehook__:
    sys.unraisablehook = _unless_it_follows
  if not sys.warnoptions:
    warnings.simplefilter("ignore")


def _ours(record: logging.LogRecord) -> bool:
  if record.exc_info and _RETOLD in record.pathname:
    return False
  return record.levelno >= logging.ERROR or record.pathname.startswith(_OWN)


def _unless_it_follows(unraisable: Any) -> None:
  """Prints an exception that nobody could catch, but for one that follows from what is told."""
  error = unraisable.exc_value
  if not (isinstance(error, RuntimeError) and str(error) == _FOLLOWS):
    sys.__unraisablehook__(unraisable)


class _Finder(importlib.abc.MetaPathFinder):
  """Finds TensorFlow as the other finders do, but captures what is printed while it is loaded."""

  def find_spec(
    self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
  ) -> importlib.machinery.ModuleSpec | None:
    """See `importlib.abc.MetaPathFinder`."""
    if name != _LOUD:
      return None
    spec = importlib.machinery.PathFinder.find_spec(name, path, target)
    if spec is None or spec.loader is None:
      return spec
    loader, load = spec.loader, spec.loader.exec_module

    def load_quietly(module: ModuleType) -> None:
      with _kept_back():
        load(module)

    loader.exec_module = load_quietly  # type: ignore[method-assign]
    return spec


@contextlib.contextmanager
def _kept_back() -> Iterator[None]:
  """Captures what is written to file descriptor 2, and then prints it without the noise.

  After an exception, everything is printed.
  """
  sys.stderr.flush()
  noise = _NOISE
  with tempfile.TemporaryFile() as file:
    real = os.dup(2)
    try:
      os.dup2(file.fileno(), 2)
      yield
    except BaseException:
      noise = re.compile(rb"(?!)")
      raise
    finally:
      sys.stderr.flush()
      os.dup2(real, 2)
      os.close(real)
      file.seek(0)
      for line in file:
        if not noise.match(line):
          os.write(2, line)
