"""Pre-training, from the config to the RESULT line."""

from __future__ import annotations

import inspect
import json
import pathlib
import time
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import methods, parallel, results
from vssl_jax.encoder import encoder as encoder_lib
from vssl_jax.encoder import exported
from vssl_jax.errors import UserError
from vssl_jax.evaluation import end_of_run, monitor
from vssl_jax.evaluation import splits as splits_lib
from vssl_jax.methods.base import Method
from vssl_jax.training import checkpoints, loop, metrics_log, sources
from vssl_jax.training import step as step_lib

TRAINING = "training.json"  # how the training went, for a second look at a finished run


def pretrain(config: ConfigDict, workdir: pathlib.Path, *, allow_config_change: bool) -> None:
  """Trains `config.method`, probes its encoder if asked, and prints the RESULT line.

  Raises:
    Preempted: SIGTERM came; run again to go on.
  """
  began = time.perf_counter()
  if (workdir / exported.CARD).exists():
    raise UserError(f"--workdir: {workdir} holds an exported encoder, which would hide the run's.")
  mesh = parallel.make_mesh()
  source = sources.load_source(config, config.data.train_split)
  config = methods.resolve(config, source)
  config, method = _build(config, mesh)
  if method.encoder is None and (config.probe.run or config.knn.every_epochs > 0):
    raise UserError(
      f"config.probe.run, config.knn.every_epochs: {config.method} has no encoder of clips to "
      "probe; set config.probe.run=False and config.knn.every_epochs=0."
    )
  if config.probe.run and (lack := splits_lib.missing(config, mesh)):
    print(f"No probe after training: {lack}.", flush=True)
  scores_itself = method.encoder is None and method.evaluate is not None
  splits = splits_lib.splits(config) if scores_itself else []  # what is wrong in them is said now
  result = loop.train(
    config,
    workdir,
    source,
    method,
    mesh,
    allow_config_change=allow_config_change,
    monitor=_monitor(config, mesh, method),
  )
  if result.preempted:
    raise loop.Preempted(f"step {result.steps} of {workdir}")
  outcome = {
    "job": "pretrain",
    "name": config.name,
    "method": config.method,
    "seed": config.seed,
    "steps": result.steps,
    "train_videos": source.num_videos,
    **_training(result, workdir),
  }
  if config.probe.run:
    variables = jax.device_get(method.encoder(result.state.params, result.state.method))
    outcome |= end_of_run.probe(config, variables, workdir, mesh)
    if method.evaluate is not None and "headline" in outcome:
      state = jax.device_get((result.state.params, result.state.method))
      own = outcome[config.method] = method.evaluate(*state, *splits_lib.splits(config))
      if "top1" in own:
        outcome["headline"][f"{config.method}_top1"] = {"trained": own["top1"]}
  elif scores_itself:
    outcome |= _own(config, method, result.state, splits, workdir)
  outcome["seconds"] = time.perf_counter() - began
  finish(outcome, workdir)


def _build(config: ConfigDict, mesh: Mesh | None) -> tuple[ConfigDict, Method]:
  """The method, from the encoder of `config.checkpoint` where one is given, and its config."""
  module = methods.load(config.method)
  if not config.checkpoint:
    return config, module.build(config, mesh)
  if "encoder_variables" not in inspect.signature(module.build).parameters:
    raise UserError(
      f"config.checkpoint is {config.checkpoint}: {config.method} starts from random weights; "
      "config.method=classify fine-tunes a checkpoint, configs/linear_probe.py probes one."
    )
  trained, variables, _ = encoder_lib.load_encoder(config.checkpoint)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.encoder = trained.encoder
    config.encoder.bn_groups = 1  # those of pre-training are made for its batch
  return config, module.build(config, mesh, encoder_variables=variables)


def _training(result: loop.Result, workdir: pathlib.Path) -> dict[str, Any]:
  """How the training went: as measured now, or as noted when a finished run is run again."""
  file = workdir / TRAINING
  if not result.metrics and file.is_file():
    return json.loads(file.read_text(encoding="utf-8"))
  figures = {
    "clips_per_second": result.clips_per_second,
    "train_seconds": result.seconds,
    "final": {k: result.metrics[k] for k in loop.SHOWN if k in result.metrics},
  }
  if jax.process_index() == 0:
    results.write_json(figures, file)
  return figures


def _own(
  config: ConfigDict,
  method: Method,
  state: step_lib.TrainState,
  splits: list,
  workdir: pathlib.Path,
) -> dict[str, Any]:
  """Scores of a method without encoder: of its last parameters, and of those validation chose."""

  def score(state: step_lib.TrainState) -> dict[str, Any]:
    return method.evaluate(jax.device_get(state.params), state.method, *splits)

  own = score(state)
  headline = own.pop("headline")
  if method.illustrate is not None:
    own |= method.illustrate(jax.device_get(state.params), state.method, *splits, workdir)
  if config.save.best:
    saver = checkpoints.Checkpoints(workdir, config.save, read_only=True)
    if (best := saver.best(state)) is not None:
      chosen = score(best[1])
      for name, figures in chosen.pop("headline").items():
        headline[name]["validation_chosen"] = figures["trained"]
      own["validation_chosen"] = {"step": best[0], **chosen}
    saver.close()
    logged = [row for row in metrics_log.read(workdir) if config.save.best in row]
    own["validation"] = {str(row["step"]): row[config.save.best] for row in logged}
  return {config.method: own, "headline": headline}


def _monitor(config: ConfigDict, mesh: Mesh, method: Method) -> monitor.Monitor | None:
  """What is watched while training, where the config asks for it.

  That is nearest neighbours over the two splits, or what a method without encoder makes of the
  training videos that were held out.
  """
  if method.encoder is None:
    if method.validate is None or not config.data.localization.validation:
      return None
    from data_pipelines.untrimmed.sequences import held_out

    split = sources.load_source(config, held_out(config.data), batch_size=jax.process_count())
    return lambda params: method.validate(params, split)
  if config.knn.every_epochs <= 0:
    return None
  return monitor.neighbours(config, *splits_lib.splits(config), mesh=mesh)


def finish(outcome: dict[str, Any], workdir: pathlib.Path) -> None:
  """Writes `result.json` and prints the RESULT line (process 0 alone)."""
  if jax.process_index() == 0:
    results.write_json(outcome, workdir / "result.json")
    print(results.result_line(outcome), flush=True)
