"""The loop: resume bit for bit (on one machine), stop on NaN, SIGTERM, refresh, gates, collapse."""

import dataclasses
import itertools
import math
import os
import pathlib
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import toy
from vssl_jax import parallel
from vssl_jax.errors import Interrupted, UserError
from vssl_jax.files import lock
from vssl_jax.training import checkpoints, loop, metrics_log, watch
from vssl_jax.training import profile as profile_lib


def _train(path, source=None, method=None, devices=1, profile=0, **values):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  return loop.train(
    toy.config(**values),
    path,
    source or toy.Source(),
    method or toy.method(),
    mesh,
    tensorboard=False,
    profile=profile,
  )


class _Stop(Exception):
  pass


class _Dies(toy.Source):
  """Breaks at batch `at`, as a machine would."""

  def __init__(self, at):
    super().__init__()
    self.at = at

  def train_batches(self, start=0):
    for k, batch in enumerate(super().train_batches(start), start):
      if k == self.at:
        raise _Stop
      yield batch


def _same(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a.state, b.state
  )


def _stable(path):
  """The JSONL rows without the timings."""
  timed = ("_per_second", "input_wait", "eta_seconds")
  return [{k: v for k, v in r.items() if not k.endswith(timed)} for r in metrics_log.read(path)]


@pytest.mark.parametrize("at", [1, 5, 6, 11])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, at):
  whole = _train(tmp_path / "whole")
  with pytest.raises(_Stop):
    _train(tmp_path / "cut", source=_Dies(at))
  resumed = _train(tmp_path / "cut")
  assert whole.steps == resumed.steps == 12
  _same(whole, resumed)
  assert _stable(tmp_path / "whole") == _stable(tmp_path / "cut")


@pytest.mark.slow
def test_resume_on_eight_devices(tmp_path):
  whole = _train(tmp_path / "whole")
  with pytest.raises(_Stop):
    _train(tmp_path / "cut", source=_Dies(6), devices=8)
  resumed = _train(tmp_path / "cut", devices=1)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    jax.device_get(whole.state),
    jax.device_get(resumed.state),
  )


def test_finished_run_trains_no_further(tmp_path):
  first = _train(tmp_path)
  again = _train(tmp_path, source=_Dies(0))
  _same(first, again)
  assert again.steps == 12


def test_loss_falls_and_rows_hold_what_the_log_promises(tmp_path):
  result = _train(tmp_path, epochs=20.0)
  rows = metrics_log.read(tmp_path)
  assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
  assert rows[-1]["step"] == 80
  promised = {
    "loss",
    "lr",
    "grad_norm",
    "update_norm",
    "param_norm",
    "epoch",
    "uniformity",
    "embedding_std",
    "effective_rank",
    "effective_rank_share",
    "steps_per_second",
    "clips_per_second",
    "input_wait",
    "eta_seconds",
  }
  assert promised <= rows[-1].keys()
  assert 0 <= rows[-1]["input_wait"] <= 1
  assert rows[-1]["eta_seconds"] == 0
  assert math.isfinite(result.clips_per_second)


@pytest.mark.parametrize("poison", [0, 6, 11])
def test_nan_stops_naming_step_and_metric_and_keeps_the_last_good(tmp_path, poison):
  with pytest.raises(loop.NonFiniteError, match=rf"loss is nan at step {poison + 1}"):
    _train(tmp_path, source=toy.Source(poison=poison))
  folder = tmp_path / checkpoints.FOLDER
  steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
  assert steps == [s for s in (5, 10) if s <= poison]


class _Terminated(toy.Source):
  """Gets SIGTERM at batch `at`."""

  def __init__(self, at):
    super().__init__()
    self.at = at

  def train_batches(self, start=0):
    for k, batch in enumerate(super().train_batches(start), start):
      if k == self.at:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch


def _saved_metrics(path, **values):
  """What each checkpoint says of itself."""
  config = toy.config(**values).save
  reader = checkpoints.Checkpoints(path, config, read_only=True)
  found = {step: reader._manager.metrics(step) for step in reader.steps}
  reader.close()
  return found


def test_a_checkpoint_has_the_figures_of_its_own_step(tmp_path):
  values = {"save.best": "loss", "save.keep": 9}
  _train(tmp_path, source=_Terminated(6), **values)  # at step 7, which is not logged
  found = _saved_metrics(tmp_path, **values)
  rows = {r["step"]: r["loss"] for r in metrics_log.read(tmp_path)}
  assert found[5]["loss"] == rows[5]
  assert 7 not in rows
  assert not found[7]
  _train(tmp_path, **values)
  reader = checkpoints.Checkpoints(tmp_path, toy.config(**values).save, read_only=True)
  assert 7 in reader.steps
  reader.close()
  stopped = _train(tmp_path / "logged", source=_Terminated(7), **values)
  assert stopped.steps == 8
  assert _saved_metrics(tmp_path / "logged", **values)[8]["loss"] == stopped.metrics["loss"]


def test_the_logged_loss_is_the_mean_since_the_row_before(tmp_path):
  each = [r["loss"] for r in _rows(tmp_path / "each", log_every=1)]
  assert len(set(each)) == 12
  rows = _rows(tmp_path / "some", log_every=5)
  assert [r["step"] for r in rows] == [1, 5, 10, 12]
  bounds = [0, 1, 5, 10, 12]
  means = [np.mean(each[a:b]) for a, b in itertools.pairwise(bounds)]
  np.testing.assert_allclose([r["loss"] for r in rows], means, rtol=1e-12)
  assert [r["loss_last"] for r in rows] == [each[b - 1] for b in bounds[1:]]


def _rows(path, **values):
  result = _train(path, **values)
  rows = metrics_log.read(path)
  assert result.metrics["loss"] == rows[-1]["loss"]
  return rows


def test_a_run_stopped_between_two_rows_logs_the_same_means(tmp_path):
  whole = _rows(tmp_path / "whole", log_every=5)
  assert _train(tmp_path / "cut", source=_Terminated(6), log_every=5).steps == 7
  again = _rows(tmp_path / "cut", log_every=5)
  assert [r["loss"] for r in again] == [r["loss"] for r in whole]


@pytest.mark.parametrize("watched", [False, True])
def test_a_best_that_nobody_logs_is_told(tmp_path, watched):
  mesh = parallel.make_mesh(jax.devices()[:1])

  def train(best):
    values = {"save.best": best, "knn.every_epochs": 1.75 * watched, "save.every": 100}
    monitor = (lambda variables: {"knn_top1": 0.5}) if watched else None
    parts = (toy.Source(), toy.method(), mesh)
    options = {"tensorboard": False, "monitor": monitor}
    return loop.train(toy.config(**values), tmp_path, *parts, **options)

  logged = r"knn_top1, loss" if watched else r"loss"
  with pytest.raises(UserError, match=rf"save\.best is 'knn_top_1', .* not logged; .* {logged}"):
    train("knn_top_1")
  steps = [r["step"] for r in metrics_log.read(tmp_path)]
  assert max(steps) == (7 if watched else 1)
  if watched:  # what was trained until then is not lost
    assert set(_saved_metrics(tmp_path)) == {7}
    assert train("knn_top1").steps == 12


def test_sigterm_saves_and_the_next_run_goes_on(tmp_path):
  whole = _train(tmp_path / "whole")
  before = signal.getsignal(signal.SIGTERM)
  stopped = _train(tmp_path / "cut", source=_Terminated(6))
  assert stopped.preempted
  assert stopped.steps == 7
  assert signal.getsignal(signal.SIGTERM) is before
  resumed = _train(tmp_path / "cut", source=toy.Source())
  assert not resumed.preempted
  _same(whole, resumed)


def test_refresh_runs_before_each_epoch_also_after_a_resume(tmp_path):
  seen = []

  def on_epoch_start(params, state, source):
    seen.append(int(state.seen))
    return {**params, "bias": params["bias"] + 1.0}, state

  whole = _train(tmp_path / "whole", method=toy.method(on_epoch_start=on_epoch_start))
  assert seen == [0, 4, 8]
  with pytest.raises(_Stop):
    _train(tmp_path / "cut", source=_Dies(9), method=toy.method(on_epoch_start=on_epoch_start))
  _same(whole, _train(tmp_path / "cut", method=toy.method(on_epoch_start=on_epoch_start)))


def test_collapse_is_named(tmp_path, caplog):
  _train(tmp_path, method=toy.method(collapse=True), epochs=4.0)
  assert "Collapse at step" in caplog.text
  assert "Narrow embeddings at step" in caplog.text  # their rank is 0


def test_config_of_another_run_is_refused(tmp_path):
  _train(tmp_path)
  with pytest.raises(UserError, match=r"optim\.lr"):
    _train(tmp_path, **{"optim.lr": 0.3})


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"batch_size": 9}, r"config\.batch_size is 9.*the nearest is 8"),
    ({"epochs": 0.0}, r"config\.epochs is 0"),
    ({"optim.name": "lion"}, r"config\.optim\.name"),
  ],
)
def test_impossible_configs_fail_before_the_first_step(tmp_path, values, message):
  with pytest.raises(UserError, match=message):
    _train(tmp_path, source=_Dies(0), devices=8, **values)
  assert not (tmp_path / checkpoints.FOLDER).exists()


def test_a_trace_of_some_steps_and_of_a_resumed_run(tmp_path, capsys):
  plain = _train(tmp_path / "plain", steps=6)
  traced = _train(tmp_path / "run", steps=6, profile=2)
  _same(plain, traced)
  assert len(list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))) == 1
  said = capsys.readouterr().out
  assert f"Trace: {tmp_path}/run/profile; see tensorboard --logdir={tmp_path}/run" in said
  assert not (tmp_path / "plain" / "profile").exists()


def test_a_trace_of_more_steps_than_the_run_has_is_written_at_its_end(tmp_path):
  _train(tmp_path, steps=4, profile=100)
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_run_that_ends_before_the_trace_has_none_and_says_so(tmp_path, capsys):
  _train(tmp_path, steps=2, profile=5, **{"optim.warmup_epochs": 0.0})
  assert not (tmp_path / "profile").exists()
  said = capsys.readouterr().out
  assert said.count("No trace: the run ended before step 3,") == 1
  _train(tmp_path, steps=2, **{"optim.warmup_epochs": 0.0})
  assert "No trace" not in capsys.readouterr().out


def test_each_process_traces_into_its_own_folder(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  trace = profile_lib.Profile(tmp_path, 2, 0)
  assert trace.folder == tmp_path / "profile" / "process_1"


class _Slow(toy.Source):
  """Gives batches much later than they are wanted."""

  def train_batches(self, start=0):
    for batch in super().train_batches(start):
      time.sleep(0.05)
      yield batch


def test_waiting_for_input_is_told_once_with_what_to_do(tmp_path, caplog):
  _train(tmp_path, source=_Slow(), steps=8, log_every=1)
  told = [r.message for r in caplog.records if "the devices wait for it" in r.message]
  assert len(told) == 1
  assert "vssl prepare --short_side" in told[0]


def test_a_fast_source_is_not_complained_of(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(watch, "MOST_WAITING", 1.0)
  _train(tmp_path, steps=8, log_every=1)
  assert "the devices wait" not in caplog.text


class _Interrupted(toy.Source):
  """Gets Ctrl-C at some batches."""

  def __init__(self, *at, by=signal.SIGINT):
    super().__init__()
    self.at, self.by, self.raised = at, by, False

  def train_batches(self, start=0):
    for k, batch in enumerate(super().train_batches(start), start):
      for _ in range(self.at.count(k)):
        self.raised = True
        signal.raise_signal(self.by)
      yield batch


def test_ctrl_c_saves_as_sigterm_does(tmp_path, capsys):
  whole = _train(tmp_path / "whole")
  before = signal.getsignal(signal.SIGINT)
  stopped = _train(tmp_path / "cut", source=_Interrupted(6))
  assert (stopped.preempted, stopped.interrupted, stopped.steps) == (True, True, 7)
  assert isinstance(loop.stopped(stopped, "step 7"), Interrupted)
  assert "press it again to stop without it" in capsys.readouterr().out
  assert signal.getsignal(signal.SIGINT) is before
  resumed = _train(tmp_path / "cut")
  assert not resumed.preempted
  _same(whole, resumed)


def test_a_second_ctrl_c_ends_at_once(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    _train(tmp_path, source=_Interrupted(6, 6))
  assert set(_saved_metrics(tmp_path)) == {5}


@pytest.mark.parametrize("others", [False, True])
def test_all_processes_end_as_the_one_that_got_ctrl_c(monkeypatch, others):
  gather = lambda own: np.array([own, others])
  monkeypatch.setattr(loop.multihost_utils, "process_allgather", gather)
  asked = loop._Termination(lambda step: step == 3)
  assert [asked(2), asked.interrupted, asked(3), asked.interrupted] == [False, False, True, others]


def test_the_first_ctrl_c_of_a_process_is_no_second_one(monkeypatch):
  """It may come when another process has got one, and all are saving."""
  sent = []
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))
  with loop._termination() as asked:
    asked.interrupted = True
    try:
      signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
      pytest.fail("it ended at once")
    assert sent == [(os.getpid(), signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_who_lost_its_lock_saves_nothing_at_its_interrupt(tmp_path, monkeypatch, by):
  source = _Interrupted(6, by=by)
  monkeypatch.setattr(lock, "is_lost", lambda: source.raised)
  with pytest.raises(KeyboardInterrupt):
    _train(tmp_path, source=source)
  assert set(_saved_metrics(tmp_path)) == {5}


def test_a_callers_own_handler_of_ctrl_c_stays(tmp_path):
  seen = []
  before = signal.signal(signal.SIGINT, lambda *args: seen.append(args))
  try:
    assert not _train(tmp_path, source=_Interrupted(6)).preempted
  finally:
    signal.signal(signal.SIGINT, before)
  assert len(seen) == 1


def _normalizing(breaks_at, value):
  """A method with running statistics that overflow, while its loss does not see them."""
  plain = toy.method()

  def init(rng, batch):
    params, state = plain.init(rng, batch)
    return params, state.replace(slow={"norm": {"mean": jnp.zeros(3), "var": jnp.ones(3)}})

  def after_update(params, state, updates):
    bad = jnp.where(updates == breaks_at, value, 1.0)
    norm = state.slow["norm"]
    return params, state.replace(slow={"norm": {**norm, "var": norm["var"].at[1].mul(bad)}})

  return dataclasses.replace(plain, init=init, after_update=after_update)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_in_batch_statistics_stops_as_in_the_loss(tmp_path, value):
  message = r"batch_statistics is nan at step 7; the last good checkpoint is step 5"
  with pytest.raises(loop.NonFiniteError, match=message):
    _train(tmp_path, method=_normalizing(7, value))
  assert set(_saved_metrics(tmp_path)) == {5}
  assert all("batch_statistics" not in row for row in metrics_log.read(tmp_path))


def test_a_full_disk_while_logging_names_the_file_and_the_run_goes_on(tmp_path, monkeypatch):
  _train_until_full(tmp_path, tmp_path / metrics_log.FILE, monkeypatch)
  assert _train(tmp_path).steps == 12
  assert [row["step"] for row in metrics_log.read(tmp_path)] == [1, 4, 8, 12]


def _train_until_full(folder, path, monkeypatch):
  real = pathlib.Path.open

  def full(self, mode="r", *args, **kwargs):
    """The first rows fit, then the disk is full."""
    if self == path and mode == "a" and path.exists() and len(path.read_bytes()) > 300:
      return open("/dev/full", "w")
    return real(self, mode, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, "open", full)
    with pytest.raises(OSError, match="No space left") as error:
      _train(folder)
  assert error.value.filename == str(path)
