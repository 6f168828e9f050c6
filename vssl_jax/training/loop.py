"""The train loop of every method: restore → step → log → checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Batches, Source
from vssl_jax import parallel
from vssl_jax.errors import Interrupted, NonFiniteError, UserError
from vssl_jax.errors import Preempted as Preempted
from vssl_jax.files import lock, make_folder
from vssl_jax.methods.base import Method, Params, Variables
from vssl_jax.ops import embed_stats
from vssl_jax.training import (
  checkpoints,
  device_frames,
  metrics_log,
  optim,
  run_config,
  sources,
  watch,
)
from vssl_jax.training import profile as profile_lib
from vssl_jax.training import step as step_lib

LOSS = "loss_since_row"  # the note of a checkpoint about steps that no row has yet
WATCHED = ("loss", "grad_norm", step_lib.STATISTICS)
SHOWN = ("loss", "contrast_accuracy", "accuracy", "knn_top1")


@dataclasses.dataclass(frozen=True)
class Result:
  """How a run ended.

  Attributes:
    state: the last state.
    method: the method that was trained.
    steps: the last step.
    preempted: whether SIGTERM or Ctrl-C ended the run early; its state was saved first.
    seconds: wall time since this process started or resumed the run, compilation included.
    clips_per_second: over all steps but the first, waiting for input included.
    metrics: the last logged row; `loss` is its mean over the steps since the row before.
    interrupted: whether it was Ctrl-C that ended the run early.
  """

  state: step_lib.TrainState
  method: Method
  steps: int
  preempted: bool
  seconds: float
  clips_per_second: float
  metrics: dict[str, float]
  interrupted: bool = False


def train(
  config: ConfigDict,
  workdir: pathlib.Path,
  source: Source,
  method: Method,
  mesh: Mesh,
  *,
  allow_config_change: bool = False,
  tensorboard: bool = True,
  monitor: Callable[[Variables | Params], dict[str, float]] | None = None,
  profile: int = 0,
) -> Result:
  """Trains until the last step, SIGTERM or Ctrl-C; continues the run in `workdir` if there is one.

  Args:
    config: the resolved config.
    workdir: the run's folder, created if missing.
    source: gives `train_batches(start)` (the rows of this process) and `steps_per_epoch`.
    method: the method to train.
    mesh: all devices of all processes.
    allow_config_change: continue a run even if its config differs from `config`.
    tensorboard: also write TensorBoard files, if TensorFlow is installed.
    monitor: evaluates the encoder and returns numbers to log. It runs every
      `config.knn.every_epochs` epochs and at the end. For a method without an encoder it gets the
      parameters and runs at each checkpoint. Its time is left out of the measured rates.
    profile: number of steps to trace, see `training.profile`; 0 for none.

  Returns:
    The result; its state is also the last checkpoint.

  Raises:
    UserError: the config is impossible, or differs from that of the run in `workdir`; or
      `config.save.best` is not logged, which shows at the first row, or the monitor's first.
    NonFiniteError: the loss or gradient is not finite; the last good checkpoint is kept.
  """
  make_folder(workdir)
  with checkpoints.sole_writer(workdir):
    if not allow_config_change:
      run_config.check_config(workdir, config)
    return _train(config, workdir, source, method, mesh, tensorboard, monitor, profile)


def _train(
  config: ConfigDict,
  workdir: pathlib.Path,
  source: Source,
  method: Method,
  mesh: Mesh,
  tensorboard: bool,
  monitor: Callable[[Variables | Params], dict[str, float]] | None,
  profile: int,
) -> Result:
  if config.data.echo > 1 and method.encoder is None:
    raise UserError(
      f"config.data.echo is {config.data.echo}: {config.method} augments nothing on the device, so "
      "it would see the same batch again; set 1."
    )
  if config.log_every < 1:
    raise UserError(f"config.log_every is {config.log_every}: it must be at least 1.")
  tx, advance, total, schedule = step_lib.assemble(config, method, mesh, source.steps_per_epoch)
  state = step_lib.init(method, tx, config.seed, mesh, config.batch_size)

  saver = checkpoints.Checkpoints(workdir, config.save)
  restored = saver.restore(state)
  start, state = restored if restored is not None else (0, state)
  unlogged = saver.notes(start).get(LOSS, {}) if restored is not None else {}
  run_config.write_config(workdir, config)
  lead = jax.process_index() == 0
  if lead:
    print(optim.describe(*schedule[:4], state.params, epoch=schedule[4]), flush=True)
    if method.frozen_steps:
      print(f"  the first {method.frozen_steps:,} steps update nothing", flush=True)
  if restored is not None:
    print(
      f"Resuming {workdir} at step {start} of {total}: parameters, method state, optimizer, "
      "schedules and data position.",
      flush=True,
    )
  if lead:
    metrics_log.cut_back(workdir, start)

  with (
    metrics_log.open_writer(workdir, enabled=lead, tensorboard=tensorboard) as writer,
    contextlib.closing(profile_lib.Profile(workdir, profile, start)) as trace,
    _termination() as terminated,
  ):
    loop = _Loop(config, source, method, mesh, advance, saver, writer, total, monitor, trace)
    loop.loss = metrics_log.RunningMean(**unlogged)
    try:
      return loop.run(state, start, terminated)
    finally:
      saver.close()


class _Loop:
  """Holds what stays fixed during the loop, so that each phase below is one short method."""

  def __init__(self, config, source, method, mesh, advance, saver, writer, total, monitor, trace):
    self.trace = trace
    self.config, self.source, self.method, self.mesh = config, source, method, mesh
    self.advance, self.saver, self.writer, self.total = advance, saver, writer, total
    self.clips = config.batch_size * config.data.clips
    self.monitor = monitor
    period = round(config.knn.every_epochs * source.steps_per_epoch)
    self.period = max(1, period if method.encoder else config.save.every or total)
    self.row: dict[str, float] = {}
    self.loss, self.checked = metrics_log.RunningMean(), 0  # of the steps up to `checked`
    self.complete = False  # whether a row had all that is logged, the monitor's figures too
    self.watch = watch.Watch(guess=method.guess, decodes=method.encoder is not None)

  def run(self, state: step_lib.TrainState, start: int, terminated: Any) -> Result:
    source = device_frames.on_device(self.source, self.config.data, self.mesh)
    batches = sources.train_batches(source, start, echo=self.config.data.echo)
    with contextlib.closing(batches):
      return self._run(state, start, batches, terminated)

  def _run(
    self, state: step_lib.TrainState, start: int, batches: Batches, terminated: Any
  ) -> Result:
    began = time.perf_counter()
    clock, waited, measured = began, 0.0, 0
    window, window_wait, window_start = began, 0.0, start
    previous: tuple[int, Any] | None = None
    step, preempted = start, False
    for step in range(start + 1, self.total + 1):
      if self.method.on_epoch_start and (step - 1) % self.source.steps_per_epoch == 0:
        params, method_state = self.method.on_epoch_start(state.params, state.method, self.source)
        state = state.replace(
          params=parallel.put_replicated(self.mesh, params),
          method=parallel.put(self.mesh, method_state, self.method.state_spec),
        )
      with self.trace.step(step):
        asked = time.perf_counter()
        batch = self._device_batch(next(batches))
        pause = time.perf_counter() - asked
        state, metrics = self.advance(state, batch)
      self.trace.after(step, metrics)

      # Read the previous step's metrics while this step runs: the device never waits for the host.
      if previous is not None:
        self._check(*previous)
      previous = (step, metrics)
      if step == start + 1:
        jax.block_until_ready(metrics)  # leave compilation out of the measured rates
        clock = window = time.perf_counter()
        window_start = step
      else:
        waited, window_wait, measured = waited + pause, window_wait + pause, measured + 1
      last = step == self.total
      preempted = not last and terminated(step)
      if lock.is_lost():  # several processes are told of it by the same signal as of a preemption
        raise KeyboardInterrupt
      watched = self.monitor is not None and (last or step % self.period == 0)
      every = self.config.save.every
      saves = last or (every > 0 and step % every == 0)
      ranked = saves and bool(self.config.save.best)
      logs = step % self.config.log_every == 0 or last or step == 1 or watched or ranked
      lacks_best = False
      if logs:
        self._check(*previous)
        now = time.perf_counter()
        seen = self._watch(state) if watched else {}
        clock += time.perf_counter() - now
        self._log(step, metrics, now - window, window_wait, step - window_start, seen)
        window, window_wait, window_start = time.perf_counter(), 0.0, step
        lacks_best = self._lacks_best(watched)
      # The steps before the monitor's first pass may be many; a wrong name must not lose them.
      if saves or preempted or (lacks_best and watched):
        self._check(*previous)
        self.writer.flush()
        # A checkpoint has the figures of its own step or none: the best is chosen by them.
        notes = {LOSS: dataclasses.asdict(self.loss)} if self.loss.steps else None
        self.saver.save(step, state, self.row if logs else None, notes)
      if lacks_best:
        raise UserError(
          f"config.save.best is {self.config.save.best!r}, which is not logged; choose one of "
          f"{', '.join(sorted(self.row))}."
        )
      if preempted:
        break
    seconds = time.perf_counter() - clock
    speed = measured * self.clips / seconds if measured else math.nan
    total_seconds = time.perf_counter() - began
    interrupted = preempted and getattr(terminated, "interrupted", False)
    return Result(state, self.method, step, preempted, total_seconds, speed, self.row, interrupted)

  def _device_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    wanted = {*self.method.batch_spec, "label", "video"}
    return parallel.put_batch(self.mesh, {k: v for k, v in batch.items() if k in wanted})

  def _watch(self, state: step_lib.TrainState) -> dict[str, float]:
    if self.method.encoder is None:
      return self.monitor(jax.device_get(state.params))
    return self.monitor(jax.device_get(self.method.encoder(state.params, state.method)))

  def _check(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Refuses numbers that are not finite, and counts the loss of a step that is new."""
    if step == self.checked:
      return
    for name in WATCHED:
      value = float(metrics.get(name, 0.0))
      if not math.isfinite(value):
        good = self.saver.steps
        kept = f"the last good checkpoint is step {good[-1]}" if good else "no checkpoint was saved"
        raise NonFiniteError(
          f"{name} is {value} at step {step}; {kept}. Try a lower config.optim.lr, a longer "
          "config.optim.warmup_epochs, or config.optim.clip_norm."
        )
    self.loss.add(float(metrics["loss"]))
    self.checked = step

  def _log(
    self, step: int, metrics: Any, seconds: float, waited: float, steps: int, seen: dict[str, float]
  ) -> None:
    unlogged = (step_lib.EMBEDDINGS, step_lib.STATISTICS)
    row = {k: float(v) for k, v in metrics.items() if k not in unlogged} | seen
    row |= {"loss": self.loss.take(), "loss_last": row["loss"]}
    row["epoch"] = step / self.source.steps_per_epoch
    row["unreadable_videos"] = self.source.unreadable
    if step_lib.EMBEDDINGS in metrics:
      stats = embed_stats.summary(metrics[step_lib.EMBEDDINGS])
      row |= {k: float(v) for k, v in stats.items()}
      self.watch.collapse(step, row)
      self.watch.narrow(step, row)
    if self.method.guess is not None:
      row["loss_of_guessing"] = self.method.guess.loss
      if step > self.method.frozen_steps:
        self.watch.guessing(step, row)
    note = ""
    if steps > 0:
      rate = steps / seconds
      row |= {"steps_per_second": rate, "clips_per_second": rate * self.clips}
      row["input_wait"] = waited / seconds
      self.watch.waiting(step, row["input_wait"])
      row["eta_seconds"] = (self.total - step) / rate
      note = (
        f"  {row['clips_per_second']:.0f} clips/s  input wait {row['input_wait']:.0%}"
        f"  ETA {_duration(row['eta_seconds'])}"
      )
    self.row = row
    self.writer.write(step, row)
    if jax.process_index() == 0:
      shown = [f"{k} {row[k]:.4g}" for k in SHOWN if k in row]
      print(f"step {step}/{self.total}  {'  '.join(shown)}{note}", flush=True)

  def _lacks_best(self, watched: bool) -> bool:
    """Whether the first row that has all figures lacks `config.save.best`."""
    if self.complete or not (watched or self.monitor is None):
      return False
    self.complete = True
    best = self.config.save.best
    return bool(best) and best not in self.row


def _duration(seconds: float) -> str:
  hours, rest = divmod(int(seconds), 3600)
  return f"{hours}h{rest // 60:02d}m" if hours else f"{rest // 60}m{rest % 60:02d}s"


def stopped(result: Result, what: str) -> Preempted:
  """The exception for a run that a signal ended early.

  Args:
    result: how the run ended; it is `preempted`.
    what: what was saved.
  """
  return (Interrupted if result.interrupted else Preempted)(what)


@contextlib.contextmanager
def _termination() -> Iterator[_Termination]:
  """Yields a function of the step that says whether to save and stop; one answer for all processes.

  SIGTERM and the first Ctrl-C ask for it. A second Ctrl-C in the same process saves nothing more;
  it waits only for a checkpoint that is being written.
  """
  several = jax.process_count() > 1
  asked = _Termination(multihost_utils.reached_preemption_sync_point if several else None)

  def handler(signum: int, frame: Any) -> None:
    if lock.is_lost():  # the folder is another process's now
      raise KeyboardInterrupt
    if signum == signal.SIGINT:
      if asked.pressed:
        raise KeyboardInterrupt
      asked.pressed = asked.interrupted = True
      print("Ctrl-C: saving after this step; press it again to stop without it.", flush=True)
      if several:  # all processes must stop after one step, which JAX agrees on at SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
    asked.set = True

  wanted = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
  before: dict[signal.Signals, Any] = {}
  try:
    for number in wanted:
      # A caller with a handler of its own keeps it; ignored is what a shell makes of background.
      if number != signal.SIGINT or signal.getsignal(number) is signal.default_int_handler:
        before[number] = signal.signal(number, handler)
  except ValueError:  # not the main thread: the caller handles its own signals
    pass
  try:
    yield asked
  finally:
    for number, former in before.items():
      signal.signal(number, former)


class _Termination:
  """Whether to stop after a step.

  Attributes:
    set: whether a signal asked for it in this process.
    pressed: whether Ctrl-C did.
    interrupted: whether Ctrl-C did, in any process as soon as they stop: all then end alike.
  """

  def __init__(self, agreed: Callable[[int], bool] | None):
    self._agreed = agreed
    self.set = self.pressed = self.interrupted = False

  def __call__(self, step: int) -> bool:
    if self._agreed is None:
      return self.set
    stops = self._agreed(step)
    if stops:
      pressed = multihost_utils.process_allgather(np.array(self.pressed))
      self.interrupted = bool(np.any(pressed))
    return stops
