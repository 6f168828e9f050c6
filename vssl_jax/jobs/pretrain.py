"""Pre-training, from the config to the RESULT line: open → fit → evaluate → report."""

from __future__ import annotations

import hashlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import files, former, methods, parallel, results
from vssl_jax.augment import mirror, settings
from vssl_jax.encoder import card, encoder, exported
from vssl_jax.errors import UserError, brief
from vssl_jax.evaluation import end_of_run, monitor
from vssl_jax.evaluation import splits as splits_lib
from vssl_jax.methods.base import Evaluator, Method, Variables
from vssl_jax.models import inflate
from vssl_jax.probes.views import Cached
from vssl_jax.training import checkpoints, loop, metrics_log, sources
from vssl_jax.training import step as step_lib

TRAINING = "training.json"  # how the training went, for a second look at a finished run


class Run(NamedTuple):
  """Everything that a run needs, after all checks.

  Attributes:
    config: the resolved config.
    workdir: folder of the run.
    mesh: all devices.
    source: the training split.
    method: the method to train.
    evaluator: the method's own scores, in addition to the probes.
    splits: both splits, if the method has no encoder and scores itself.
    monitor: evaluates the network during training.
    unprobed: why the encoder is not probed after training; "" if it is.
  """

  config: ConfigDict
  workdir: pathlib.Path
  mesh: Mesh
  source: Source
  method: Method
  evaluator: Evaluator
  splits: list[Cached]
  monitor: monitor.Monitor | None
  unprobed: str


def pretrain(
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  allow_config_change: bool = False,
  profile: int = 0,
) -> dict[str, Any]:
  """Trains `config.method`, and probes its encoder if the config asks for it.

  Args:
    config: locked or not; fields that depend on the data are filled in.
    workdir: folder of the run; an existing run is continued.
    allow_config_change: continue a run even if its config differs.
    profile: number of steps to trace.

  Returns:
    The contents of `result.json`.

  Raises:
    Preempted: SIGTERM was received; run again to continue.
    UserError: the config, the data or the folder cannot be used.
  """
  began = time.perf_counter()
  run = _open(config, workdir)
  result = loop.train(
    run.config,
    workdir,
    run.source,
    run.method,
    run.mesh,
    allow_config_change=allow_config_change,
    monitor=run.monitor,
    profile=profile,
  )
  if result.preempted:
    raise loop.stopped(result, f"step {result.steps} of {workdir}")
  outcome = _evaluate(run, result.state) | _describe(run, result)
  outcome["seconds"] = time.perf_counter() - began
  return report(outcome, workdir)


def _open(config: ConfigDict, workdir: pathlib.Path) -> Run:
  """Checks everything before the first step, so that errors are found early."""
  if (workdir / exported.CARD).exists():
    raise UserError(f"--workdir: {workdir} holds an exported encoder, which would hide the run's.")
  mesh = parallel.make_mesh()
  source = sources.load_source(config, config.data.train_split)
  source, held = _without_held_out(config, source)
  config = methods.resolve(config, source)
  with config.unlocked():  # a continued run must leave out the same videos
    told = json.dumps(held.tolist()).encode()
    config.data.held_out_sha256 = hashlib.sha256(told).hexdigest() if len(held) else ""
  for line in _notes(config, source.label_names):
    print(line, flush=True)
  config, method = build(config, mesh)
  evaluator = methods.evaluator(config, mesh)
  if method.encoder is None and (config.probe.run or config.knn.every_epochs > 0):
    raise UserError(
      f"config.probe.run, config.knn.every_epochs: {config.method} has no encoder of clips to "
      "probe; set config.probe.run=False and config.knn.every_epochs=0."
    )
  unprobed = "config.probe.run is False"
  if config.probe.run and (unprobed := end_of_run.check(config, mesh)):
    print(f"No probe after training: {unprobed}.", flush=True)
  itself = method.encoder is None and evaluator.scores is not None
  splits = splits_lib.splits(config) if itself else []
  watch = monitor.build(config, method, evaluator, mesh)
  return Run(config, workdir, mesh, source, method, evaluator, splits, watch, unprobed)


def _notes(config: ConfigDict, label_names: Sequence[str]) -> list[str]:
  """What a user may not expect of this config, one line each."""
  lines = []
  if off := settings.switched_off(config.augment, config.data.channels):
    lines.append(
      f"config.data.channels is {config.data.channels}, clips are not RGB: no effect has "
      f"config.augment.{', '.join(off)}."
    )
  lines += methods.notes(config)
  if methods.learns_from_labels(config):
    lines.append(mirror.note(config.augment.flip, label_names))
  return [line for line in lines if line]


def _without_held_out(config: ConfigDict, source: Source) -> tuple[Source, np.ndarray]:
  """The training videos; if labels are learned, without those that the monitor uses as queries."""
  if config.knn.every_epochs <= 0 or not methods.learns_from_labels(config):
    return source, np.empty(0, int)
  rest, held = splits_lib.hold_out(source, config.knn.held_out, config.seed)
  return source.only(rest.tolist()), held


def build(config: ConfigDict, mesh: Mesh | None) -> tuple[ConfigDict, Method]:
  """The method and its config; it starts from the encoder of `config.checkpoint`, if given.

  Raises:
    UserError: a field is impossible, the checkpoint's clips have other channels, or the method can
      only start from random weights.
  """
  if not config.checkpoint:
    return config, methods.build(config, mesh)
  trained, variables, _ = encoder.load_encoder(config.checkpoint)
  if trained.data.channels != config.data.channels:
    raise UserError(
      f"config.checkpoint={config.checkpoint}: its clips have {trained.data.channels} channels, "
      f"config.data.channels is {config.data.channels}; set it to {trained.data.channels} and give "
      "such data."
    )
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.encoder = trained.encoder
    config.encoder.bn_groups = 1  # those of pre-training are made for its batch
  return config, methods.build(config, mesh, encoder_variables=variables)


def _describe(run: Run, result: loop.Result) -> dict[str, Any]:
  """Trains, and returns the run with the result of training."""
  c = run.config
  return {
    "job": "pretrain",
    "name": c.name,
    "method": c.method,
    "seed": c.seed,
    "steps": result.steps,
    "train_videos": run.source.num_videos,
    **_training(result, run.workdir),
  }


def _training(result: loop.Result, workdir: pathlib.Path) -> dict[str, Any]:
  """Facts about training: as measured now or, for a run that was finished before, as saved.

  Raises:
    UserError: what was saved is damaged.
  """
  file = workdir / TRAINING
  if not result.metrics and file.is_file():
    return _saved(file)
  figures = {
    "clips_per_second": result.clips_per_second,
    "train_seconds": result.seconds,
    "final": {k: result.metrics[k] for k in loop.SHOWN if k in result.metrics},
  }
  if jax.process_index() == 0:
    results.write_json(figures, file)
  return figures


def _saved(file: pathlib.Path) -> dict[str, Any]:
  try:
    figures = files.read_json(file)
  except UserError:
    raise
  except ValueError as e:
    raise UserError(f"{file}: damaged, not JSON ({brief(e)}); restore or remove it.") from None
  if not isinstance(figures, dict):
    raise UserError(f"{file}: damaged, not figures of a training; restore or remove it.")
  return figures


def _evaluate(run: Run, state: step_lib.TrainState) -> dict[str, Any]:
  """The probes of the encoder, and the method's own scores."""
  config, method, evaluator = run.config, run.method, run.evaluator
  if method.encoder is None:
    return _own_scores(run, state) if evaluator.scores else {}
  variables = jax.device_get(method.encoder(state.params, state.method))
  if run.unprobed:
    return _kept(run, variables)
  outcome = end_of_run.probe(config, variables, run.workdir, run.mesh)
  if evaluator.scores is not None:
    whose = jax.device_get((state.params, state.method))
    own = evaluator.scores(*whose, *splits_lib.splits(config))
    outcome["headline"] |= own.pop("headline")
    outcome[config.method] = own
  return outcome


def _kept(run: Run, variables: Variables) -> dict[str, Any]:
  """What is reported without a probe: the scores that `result.json` has of these very weights."""
  lack = {"protocol": f"none: {run.unprobed}"} if run.config.probe.run else {}
  try:
    before = files.read_json(run.workdir / card.RESULT)
    scored = before["trained"]["encoder_sha256"]
  except (OSError, ValueError, LookupError, TypeError):  # no result, or none with scores
    return lack
  if scored != results.tree_hash(inflate.inflated(run.config, variables)[1]):
    return lack
  print(
    f"Nothing is probed: {run.unprobed}; {card.RESULT} keeps the scores that it has.", flush=True
  )
  return before


def _own_scores(run: Run, state: step_lib.TrainState) -> dict[str, Any]:
  """Scores of a method without an encoder: with its last and its best validated parameters."""
  config, (train, test) = run.config, run.splits

  def chosen_for(params: Variables) -> Evaluator:
    held = monitor.held_out_videos(config)
    choose = run.evaluator.choose
    return run.evaluator if held is None or choose is None else choose(params, held)

  def score(evaluator: Evaluator, state: step_lib.TrainState) -> dict[str, Any]:
    assert evaluator.scores is not None
    return evaluator.scores(jax.device_get(state.params), state.method, train, test)

  params = jax.device_get(state.params)
  evaluator = chosen_for(params)
  own = score(evaluator, state)
  headline = own.pop("headline")
  if evaluator.write_report is not None:
    own |= evaluator.write_report(params, state.method, train, test, run.workdir)
  if config.save.best:
    saver = checkpoints.Checkpoints(run.workdir, config.save, read_only=True)
    if (best := saver.best(state)) is not None:
      chosen = score(chosen_for(jax.device_get(best[1].params)), best[1])
      for name, figures in chosen.pop("headline").items():
        headline[name]["validation_chosen"] = figures["trained"]
      own["validation_chosen"] = {"step": best[0], **chosen}
    saver.close()
    logged = [row for row in metrics_log.read(run.workdir) if config.save.best in row]
    own["validation"] = {str(row["step"]): row[config.save.best] for row in logged}
  return {config.method: own, "headline": headline}


def report(outcome: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
  """Writes `result.json` (only process 0) and returns its contents."""
  if jax.process_index() == 0:
    results.write_json(outcome, workdir / card.RESULT)
  return results.plain(outcome)


former.callable_module(__name__, "pretrain")
