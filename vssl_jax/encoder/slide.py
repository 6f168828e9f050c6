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
FinishTask = Callable[[snippets.Task, dict[str, Any], np.ndarray], None]


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
  tasks = [snippets.Task(p, settings) for p in paths]
  how: Any = {"batch_size": batch_size, "workers": workers, "timeout": timeout}
  unreadable = slide_tasks(encode, tasks, lambda task, *made: finish(task.path, *made), **how)
  return {task.path: reason for task, reason in unreadable.items()}


def slide_tasks(
  encode: Encode,
  tasks: Sequence[snippets.Task],
  finish: FinishTask,
  *,
  batch_size: int,
  workers: int,
  timeout: float,
) -> dict[snippets.Task, str]:
  """`slide` for videos and spans of videos, which are all different.

  Their settings may differ in what does not change the shape of a snippet. `finish` is called with
  the task in place of the path, and the reasons are by task.
  """
  unreadable: dict[snippets.Task, str] = {}
  killed: set[snippets.Task] = set()  # whose worker was killed before
  batches = _Batches(encode, batch_size, finish)

  def crashed(task: snippets.Task, crash: workers_lib.Crash) -> snippets.Task | None:
    batches.drop(task)
    if crash.outside and task not in killed:
      killed.add(task)
      return task
    unreadable[task] = crash.reason
    return None

  results = workers_lib.run(
    snippets.send,
    tasks,
    workers=workers,
    timeout=timeout,
    on_crash=crashed,
    on_report=batches.add,
  )
  for task, facts in results:
    if "error" in facts:
      unreadable[task] = facts["error"]
      batches.drop(task)
    else:
      batches.end(task, facts)
  batches.flush()
  return unreadable


class _Batches:
  """Gathers snippets of several videos into full batches, and returns features by video."""

  def __init__(self, encode: Encode, size: int, finish: FinishTask):
    self._encode, self._size, self._finish = encode, size, finish
    self._waiting: list[tuple[snippets.Task, np.ndarray]] = []
    self._features: dict[snippets.Task, list[np.ndarray]] = collections.defaultdict(list)
    self._ended: dict[snippets.Task, dict[str, Any]] = {}

  def add(self, task: snippets.Task, snippet: np.ndarray) -> None:
    self._waiting.append((task, snippet))
    if len(self._waiting) == self._size:
      self.flush()

  def end(self, task: snippets.Task, facts: dict[str, Any]) -> None:
    self._ended[task] = facts
    self._settle()

  def drop(self, task: snippets.Task) -> None:
    self._waiting = [row for row in self._waiting if row[0] != task]
    self._features.pop(task, None)

  def flush(self) -> None:
    """Encodes the waiting snippets, in a batch padded with zeros so that its shape is constant."""
    if self._waiting:
      clips = np.stack([snippet for _, snippet in self._waiting])
      empty = np.zeros((self._size - len(clips), *clips.shape[1:]), clips.dtype)
      rows = self._encode(np.concatenate([clips, empty]))
      for (task, _), row in zip(self._waiting, rows, strict=False):
        self._features[task].append(row)
      self._waiting = []
    self._settle()

  def _settle(self) -> None:
    for task in [t for t, f in self._ended.items() if len(self._features[t]) == f["snippets"]]:
      self._finish(task, self._ended.pop(task), np.stack(self._features.pop(task)))
