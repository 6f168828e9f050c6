"""Iterators of datasets that can be dropped anywhere, even by Python's garbage collector.

TensorFlow ends an iterator by waiting for the reads that it has begun. Some of these wait for
threads of this process that pass on what decoding processes answer. If the collector happened to
drop an iterator in one of these threads, both would wait forever. So a thread of its own ends them.
"""

from __future__ import annotations

import atexit
import functools
import queue
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_PATIENCE = 10.0  # seconds that iterators have to end when the program does


class Numpy(Iterator[Any]):
  """The elements of a dataset as NumPy arrays, as `as_numpy_iterator` gives them.

  Args:
    dataset: the dataset.
  """

  def __init__(self, dataset: tf.data.Dataset):
    self._ended = _ended()
    self._elements = dataset.as_numpy_iterator()

  def __next__(self) -> Any:
    return next(self._elements)

  def __del__(self):
    if elements := getattr(self, "_elements", None):
      self._ended.put([elements])


@functools.cache
def _ended() -> queue.SimpleQueue[list[Any] | None]:
  """The iterators to end, each alone in a list; None at the end of the program."""
  found: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()

  def end() -> None:
    while last := found.get():
      last.clear()

  thread = threading.Thread(target=end, name="end iterators", daemon=True)
  thread.start()

  def stop() -> None:
    found.put(None)
    thread.join(_PATIENCE)

  atexit.register(stop)
  return found
