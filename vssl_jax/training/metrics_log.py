"""Logs metrics to a JSONL file, and to TensorBoard if CLU and TensorFlow are installed.

To an object in a bucket nothing can be appended. There, both are written to this machine, and
uploaded again every `EVERY` seconds, before each checkpoint, and at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping

from absl import logging

from data_pipelines import optional
from vssl_jax import files
from vssl_jax.errors import UserError

FILE = "metrics.jsonl"
EVERY = 30.0  # seconds between two uploads to a bucket


@dataclasses.dataclass
class RunningMean:
  """The mean of a number over the steps since the last logged row; a checkpoint keeps its fields.

  Attributes:
    total: sum over these steps.
    steps: their number.
  """

  total: float = 0.0
  steps: int = 0

  def add(self, value: float) -> None:
    """Takes in the value of one more step."""
    self.total, self.steps = self.total + value, self.steps + 1

  def take(self) -> float:
    """The mean; starts anew."""
    mean = self.total / self.steps
    self.total, self.steps = 0.0, 0
    return mean


class Writer:
  """Writes the scalars of each step; only process 0 writes."""

  def __init__(self, workdir: pathlib.Path, *, enabled: bool = True, tensorboard: bool = True):
    self._path = workdir / FILE
    self._enabled = enabled
    self._clu = None
    self._bucket: pathlib.Path | None = None
    if enabled and files.is_remote(workdir):
      self._bucket, self._place = workdir, tempfile.TemporaryDirectory(prefix="vssl-")
      self._uploaded, self._changed = time.monotonic(), False
      workdir = pathlib.Path(self._place.name)
      if self._path.exists():
        files.download(str(self._path), workdir / FILE)
      self._path = workdir / FILE
    if enabled and tensorboard:
      try:
        clu = optional.require("clu.metric_writers", "a log for TensorBoard")
      except UserError as e:
        print(f"Metrics are written to {FILE} only: {e}", flush=True)
      else:
        self._clu = clu.SummaryWriter(str(workdir))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Appends one row; NaN and infinity are written as strings, so that the JSON stays valid."""
    if not self._enabled:
      return
    row = {"step": step, **{k: v if math.isfinite(v) else str(v) for k, v in scalars.items()}}
    with files.named_errors(self._path), self._path.open("a", encoding="utf-8") as f:
      f.write(json.dumps(row) + "\n")
    if self._clu is not None:
      with files.named_errors(self._path.parent):
        self._clu.write_scalars(step, dict(scalars))
    if self._bucket is not None:
      self._changed = True
      if time.monotonic() - self._uploaded > EVERY:
        self.flush()

  def flush(self, *, patient: bool = True) -> None:
    """Uploads the rows so far if the run's folder is in a bucket.

    Args:
      patient: only warn if it fails; all is uploaded again the next time.

    Raises:
      OSError: it fails, and that must not be.
    """
    if self._bucket is None or not self._changed:
      return
    if self._clu is not None:
      self._clu.flush()
    self._uploaded = time.monotonic()
    try:
      files.upload(self._path.parent, self._bucket)
    except OSError as e:
      if not patient:
        raise
      logging.warning("%s: the metrics could not be uploaded (%s); trying again.", self._bucket, e)
    else:
      self._changed = False

  def close(self) -> None:
    """Flushes what TensorBoard has not written yet."""
    if self._clu is not None:
      self._clu.close()
      self._clu = None
    if self._bucket is not None:
      with self._place:
        self.flush(patient=False)


@contextlib.contextmanager
def open_writer(workdir: pathlib.Path, **kwargs: bool) -> Iterator[Writer]:
  """A `Writer` that is always closed at the end of the block, also after an error."""
  writer = Writer(workdir, **kwargs)
  try:
    yield writer
  finally:
    writer.close()


def cut_back(workdir: pathlib.Path, step: int) -> None:
  """Removes rows after `step` and an incomplete last line; a resumed run then has one history."""
  path = workdir / FILE
  if not path.exists():
    return
  kept = [line + "\n" for line, row in _rows(path) if row["step"] <= step]
  with files.replacing(path) as file:
    file.write("".join(kept).encode())


def read(workdir: pathlib.Path) -> list[dict[str, float]]:
  """All rows of a run's JSONL file, oldest first, without one that is not yet written whole."""
  path = workdir / FILE
  return [row for _, row in _rows(path)] if path.exists() else []


def _rows(path: pathlib.Path) -> Iterator[tuple[str, dict[str, float]]]:
  """Lines and rows; the last line is cut short where a run was killed, or is still writing it."""
  for whole in path.read_bytes().splitlines():
    try:
      line = whole.decode()
      row = files.parse_json(line)
    except ValueError:
      continue
    if isinstance(row, dict) and isinstance(row.get("step"), int):
      yield line, row
