"""Slides an encoder over videos: decodes in worker processes, encodes in full batches."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines.videos import snippets
from data_pipelines.videos import workers as workers_lib

Encode = Callable[[np.ndarray], np.ndarray]  # uint8 [N, T, H, W, C] to float32 [N, D]
Finish = Callable[[pathlib.Path, dict[str, Any], np.ndarray], None]


def slide(
  encode: Encode,
  paths: Sequence[pathlib.Path],
  finish: Finish,
  *,
  settings: snippets.SnippetSettings,
  batch_size: int,
  workers: int,
  timeout: float,
) -> dict[pathlib.Path, str]:
  """Encodes all snippets of some videos.

  Args:
    encode: the encoder; called with `batch_size` snippets each time.
    paths: the videos.
    finish: called once for each video that was read, as soon as its last snippet is encoded, with
      its path, its facts (`frames`, `fps`, `seconds`, number of `snippets`, perhaps `notes`) and
      its features, float32 `[snippets, D]`.
    settings: how snippets are cut.
    batch_size: N, snippets per call of the encoder; the last batch is padded with zeros.
    workers: number of decoding processes.
    timeout: seconds that decoding a video may take before it counts as unreadable; a video of more
      than two minutes may take this time for each two minutes of it. 0 for no limit, in which case
      a single worker decodes in this process.

  Returns:
    The reasons why videos could not be read, by path.
  """
  unreadable: dict[pathlib.Path, str] = {}
  killed: set[pathlib.Path] = set()  # whose worker was killed before
  batches = _Batches(encode, batch_size, finish)

  def crashed(task: snippets.Task, crash: workers_lib.Crash) -> snippets.Task | None:
    batches.drop(task.path)
    if crash.outside and task.path not in killed:
      killed.add(task.path)
      return task
    unreadable[task.path] = crash.reason
    return None

  results = workers_lib.run(
    snippets.send,
    [snippets.Task(p, settings) for p in paths],
    workers=workers,
    timeout=timeout,
    on_crash=crashed,
    on_report=lambda task, snippet: batches.add(task.path, snippet),
  )
  for task, facts in results:
    if "error" in facts:
      unreadable[task.path] = facts["error"]
      batches.drop(task.path)
    else:
      batches.end(task.path, facts)
  batches.flush()
  return unreadable


class _Batches:
  """Gathers snippets of several videos into full batches, and returns features by video."""

  def __init__(self, encode: Encode, size: int, finish: Finish):
    self._encode, self._size, self._finish = encode, size, finish
    self._waiting: list[tuple[pathlib.Path, np.ndarray]] = []
    self._features: dict[pathlib.Path, list[np.ndarray]] = collections.defaultdict(list)
    self._ended: dict[pathlib.Path, dict[str, Any]] = {}

  def add(self, path: pathlib.Path, snippet: np.ndarray) -> None:
    self._waiting.append((path, snippet))
    if len(self._waiting) == self._size:
      self.flush()

  def end(self, path: pathlib.Path, facts: dict[str, Any]) -> None:
    self._ended[path] = facts
    self._settle()

  def drop(self, path: pathlib.Path) -> None:
    self._waiting = [row for row in self._waiting if row[0] != path]
    self._features.pop(path, None)

  def flush(self) -> None:
    """Encodes the waiting snippets, in a batch padded with zeros so that its shape is constant."""
    if self._waiting:
      clips = np.stack([snippet for _, snippet in self._waiting])
      empty = np.zeros((self._size - len(clips), *clips.shape[1:]), clips.dtype)
      rows = self._encode(np.concatenate([clips, empty]))
      for (path, _), row in zip(self._waiting, rows, strict=False):
        self._features[path].append(row)
      self._waiting = []
    self._settle()

  def _settle(self) -> None:
    for path in [p for p, f in self._ended.items() if len(self._features[p]) == f["snippets"]]:
      self._finish(path, self._ended.pop(path), np.stack(self._features.pop(path)))
