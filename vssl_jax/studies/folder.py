"""The folder of a study: what it was begun with, which runs are done, and what they found.

study.json            the cells' configs, as the study was begun
<cell>_s<seed>/       a run, as `vssl train` writes it
locks/                one file per run that a process is training
table.md, table.json, plot.png
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vssl_jax import files, results
from vssl_jax.errors import UserError
from vssl_jax.files import lock
from vssl_jax.studies import configs
from vssl_jax.studies.study import RESULT, UNCERTAINTY, Cell, Study

RECORD, FAILED, LOCKS = "study.json", "failed.json", "locks"
DONE, STARTED, MISSING = "done", "started", "missing"
_WAITS = 60.0  # seconds for another process to write a small file
# Fields that may differ from one call to the next, because they change no number.
_FREE = (
  *("name", "seed", "log_every", "distributed", "data.threads", "data.prefetch"),
  *("data.cache_folder", "data.videos.cache", "data.videos.timeout", "save.every"),
)


class Run(NamedTuple):
  """One cell with one seed.

  Attributes:
    cell: the cell.
    seed: the seed.
    folder: folder of the run.
    study: the study.
  """

  cell: Cell
  seed: int
  folder: pathlib.Path
  study: Study

  @property
  def name(self) -> str:
    """The name of the folder."""
    return self.folder.name

  def state(self) -> str:
    """How far the run is: `DONE`, `STARTED` or `MISSING`.

    Raises:
      UserError: its result is damaged, or another run's.
    """
    if self.result(RESULT) is None:
      return STARTED if (self.folder / "config.json").exists() else MISSING
    if self.study.uncertainty and self.result(UNCERTAINTY) is None:
      return STARTED
    return DONE

  def result(self, file: str) -> Any:
    """What a file of the run holds; None if there is none yet.

    Raises:
      UserError: it is damaged, or another run's.
    """
    path = self.folder / file
    try:
      found = files.read_json(path)
    except FileNotFoundError:
      return None
    except UserError:
      raise
    except ValueError as e:
      raise UserError(f"{path}: damaged, not JSON ({e}); remove it, and it is made again.") from e
    if file == RESULT and (not isinstance(found, dict) or found.get("seed") != self.seed):
      raise UserError(f"{path}: not the result of seed {self.seed}; remove the folder.")
    return found


def runs(
  study: Study, output: pathlib.Path, cells: list[Cell], seeds: tuple[int, ...]
) -> list[Run]:
  """All runs, every cell with one seed before any with the next: the table is soon whole."""
  return [
    Run(cell, seed, output / f"{cell.name}_s{seed}", study) for seed in seeds for cell in cells
  ]


@contextlib.contextmanager
def locked(output: pathlib.Path, name: str, wait: float = 0.0) -> Iterator[None]:
  """Holds a lock of the study, of a run by its name or of a file.

  Raises:
    lock.Held: another process holds it, and `wait` is 0.
    UserError: another process has held it for `wait` seconds.
  """
  files.make_folder(output / LOCKS)
  end = time.monotonic() + wait
  with contextlib.ExitStack() as held:
    while True:
      try:
        held.enter_context(lock.hold(output / LOCKS / name))
        break
      except lock.Held:
        if not wait:
          raise
        if time.monotonic() > end:
          raise UserError(
            f"{output / name}: another process has been writing it for {wait:g} s; run the same "
            "command again when that has ended."
          ) from None
        time.sleep(0.2)
    yield


def check(
  output: pathlib.Path, name: str, found: Mapping[str, ConfigDict], overrides: Mapping[str, Any]
) -> dict[str, Any]:
  """Compares a study with the record of how it was begun in this folder.

  Args:
    output: the folder.
    name: the study's name.
    found: the configs of its cells, by name.
    overrides: the user's fields.

  Returns:
    The record to write: of these cells and those of earlier calls.

  Raises:
    UserError: the folder has another study, or the same with other fields or recipes.
  """
  given = {k: v for k, v in results.plain(overrides, results.EXACT).items() if not _free(k)}
  flats = {cell: configs.flat(config) for cell, config in found.items()}
  try:
    began = files.read_json(output / RECORD)
    before = {cell: {**began["all"], **own} for cell, own in began["cells"].items()}
    recorded = (began["study"], dict(began["overrides"]))
  except FileNotFoundError:
    before, recorded = {}, (name, given)
    if stray := [p for p in files.matching(output, "*") if p.name != LOCKS and p.name[0] != "."]:
      raise UserError(
        f"{output}: no study, but {stray[0].name} is there; give another --output."
      ) from None
  except (ValueError, TypeError, KeyError) as e:
    raise UserError(f"{output / RECORD}: damaged ({e!r}); give another --output.") from None
  if recorded[0] != name:
    raise UserError(f"{output}: holds the study {recorded[0]}, not {name}; give another --output.")
  apart = [
    f"{k}: {before[cell][k]!r} -> {values.get(k)!r}"
    for cell, values in flats.items()
    for k in before.get(cell, ())
    if before[cell][k] != values.get(k) and not _free(k)
  ]
  if apart or recorded[1] != given:
    flags = " ".join(f"--config.{k}={v}" for k, v in recorded[1].items()) or "none"
    what = f" ({'; '.join(list(dict.fromkeys(apart))[:3])})" if apart else ""
    raise UserError(
      f"{output}: was begun with other fields{what}; give another --output, or the flags it was "
      f"begun with: {flags}."
    )
  every = {**flats, **before}
  first = next(iter(every.values()))
  equal = {k: v for k, v in first.items() if all(k in f and f[k] == v for f in every.values())}
  own = {c: {k: v for k, v in f.items() if k not in equal} for c, f in every.items()}
  return {"study": name, "overrides": given, "all": equal, "cells": own}


def _free(field: str) -> bool:
  return any(field == f or field.startswith(f"{f}.") for f in _FREE)


def begin(
  output: pathlib.Path, name: str, found: Mapping[str, ConfigDict], overrides: Mapping[str, Any]
) -> None:
  """Writes the record, after `check`.

  Raises:
    UserError: see `check`.
  """
  check(output, name, found, overrides)
  with locked(output, RECORD, _WAITS):
    record = check(output, name, found, overrides)
    text = json.dumps(results.plain(record, results.EXACT), indent=2, ensure_ascii=False)
    files.write_text(output / RECORD, f"{text}\n")
