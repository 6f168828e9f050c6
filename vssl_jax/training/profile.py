"""Traces a few train steps, for TensorBoard's profile tab or xprof."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from typing import Any

import jax

from vssl_jax import files

FOLDER = "profile"
SKIPPED = 2  # steps before the trace: the first compiles, the second may still fill buffers


class Profile:
  """A trace of consecutive steps, written once.

  A step is traced from its batch to its result, so that waiting for input shows too.
  """

  def __init__(self, folder: pathlib.Path, steps: int, start: int):
    """Plans a trace.

    Args:
      folder: the run's folder; the trace is written under `profile/`, with several processes each
        under its own `profile/process_<index>/`.
      steps: number of steps; 0 for no trace.
      start: the step that the run begins or continues at.
    """
    self.folder = folder / FOLDER
    if jax.process_count() > 1:  # those of one host would write files of the same name
      self.folder /= f"process_{jax.process_index()}"
    self._run = folder
    self._waiting = steps > 0
    self._first = start + 1 + SKIPPED
    self._last = self._first + steps - 1
    self._running = False

  def step(self, step: int) -> contextlib.AbstractContextManager[Any]:
    """Marks a step in the trace; begins the trace before its first step."""
    if not self._first <= step <= self._last:
      return contextlib.nullcontext()
    if not self._running:
      self._place = tempfile.TemporaryDirectory(prefix="vssl-")
      remote = files.is_remote(self.folder)
      jax.profiler.start_trace(self._place.name if remote else str(self.folder))
      self._running, self._waiting = True, False
    return jax.profiler.StepTraceAnnotation("train", step_num=step)

  def after(self, step: int, result: Any) -> None:
    """Ends the trace after its last step.

    Args:
      step: the step that was started.
      result: its result, which is waited for.
    """
    if self._running and step >= self._last:
      jax.block_until_ready(result)
      self.close()

  def close(self) -> None:
    """Writes the trace if it has begun, also when the run ends early; else says there is none."""
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
      with self._place:
        if files.is_remote(self.folder):
          try:
            files.upload(pathlib.Path(self._place.name), self.folder)
          except OSError as e:  # no reason to end the run
            print(f"No trace: it could not be uploaded to {self.folder} ({e}).", flush=True)
            return
      if jax.process_index() == 0:
        print(f"Trace: {self.folder}; see tensorboard --logdir={self._run}", flush=True)
    elif self._waiting:
      self._waiting = False
      if jax.process_index() == 0:
        print(
          f"No trace: the run ended before step {self._first}, the first that --profile would "
          f"trace (the {SKIPPED} before it only warm up); train for more steps.",
          flush=True,
        )
