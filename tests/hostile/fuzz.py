"""Tries a reader on damaged copies of a good file: it reads them, or refuses them in one line."""

import logging
import os
import pathlib
import shutil
import signal
import traceback

import numpy as np

from tests.hostile import mutate, readers
from vssl_jax.errors import UserError

LONGEST = 20.0  # seconds of one reading; far more than any takes
SEED = 20_240


class Hang(BaseException):
  """A reading took longer than `LONGEST`."""


def _hang(number, frame):
  raise Hang


def fuzz(folder: pathlib.Path, name: str, tries: int) -> tuple[list[str], int]:
  """Reads `tries` damaged copies of one reader's file.

  Args:
    folder: an empty folder.
    name: of `readers.READERS`.
    tries: number of mutations.

  Returns:
    What went wrong, each with its number and the end of its traceback; and how many were refused.
  """
  reader, place = readers.READERS[name], sorted(readers.READERS).index(name)
  good = folder / "good"
  good.mkdir()
  inside = reader.make(good).relative_to(good)
  content = {p.relative_to(good): p.read_bytes() for p in good.rglob("*") if p.is_file()}
  work = folder / "work"
  shutil.copytree(good, work)
  reader.read(work)  # the undamaged one
  faults, refused = [], 0
  before, sync = signal.signal(signal.SIGALRM, _hang), os.fsync
  logging.disable(logging.CRITICAL)
  os.fsync = lambda file: None  # what is read does not depend on it, and it takes most of the time
  try:
    for number in range(tries):
      rng = np.random.default_rng([SEED, place, number])
      _renew(work, content)
      (work / inside).write_bytes(mutate.mutate(content[inside], rng, text=reader.text))
      signal.setitimer(signal.ITIMER_REAL, LONGEST)
      try:
        reader.read(work)
      except UserError as e:
        refused += 1
        if "\n" in str(e):
          faults.append(f"{name} {number}: more than one line: {e!r}")
      except (Exception, Hang):
        faults.append(f"{name} {number}: {traceback.format_exc(limit=-3)}")
      finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
  finally:
    os.fsync = sync
    logging.disable(logging.NOTSET)
    signal.signal(signal.SIGALRM, before)
  return faults, refused


def _renew(work: pathlib.Path, content: dict[pathlib.Path, bytes]) -> None:
  """Brings a folder back to what it was before a reading that writes beside its file."""
  for path in sorted(work.rglob("*"), reverse=True):
    inside = path.relative_to(work)
    if path.is_file() and (inside not in content or path.read_bytes() != content[inside]):
      path.unlink()
  for inside, data in content.items():
    if not (work / inside).exists():
      (work / inside).write_bytes(data)
