"""Runs the probes at the end of training: the protocols that `config.probe` switches on."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import models, parallel
from vssl_jax.errors import UserError
from vssl_jax.evaluation import classifier, protocols, untrimmed_features
from vssl_jax.evaluation.options import Options
from vssl_jax.evaluation.splits import missing, splits, whole
from vssl_jax.evaluation.task import Task
from vssl_jax.methods.base import Variables
from vssl_jax.models.inflate import inflated
from vssl_jax.probes import baselines, calibrate
from vssl_jax.probes.too_few_videos import TooFewVideos
from vssl_jax.probes.views import BN_MODE, Cached, protocol
from vssl_jax.training import sources

QUICK = ("logistic", "knn", "retrieval")
_HEADLINES = {"retrieval": ("R@1", "R@1")}  # protocol -> (name of the figure, key of its score)


def asked(config: ConfigDict) -> list[str]:
  """The names of the protocols that `config.probe` switches on.

  Raises:
    UserError: a protocol is unknown, or reads data that a run does not have.
  """
  p = config.probe
  names = [*(QUICK if p.quick else ()), *(("linear",) if p.linear else ()), *p.protocols]
  if unknown := [name for name in names if name not in protocols.PROTOCOLS]:
    raise UserError(
      f"config.probe.protocols: no protocol {unknown[0]!r}; there are "
      f"{', '.join(protocols.PROTOCOLS)}."
    )
  if untrimmed_features.FOLDER in names:
    raise UserError(
      f"config.probe.protocols: {untrimmed_features.FOLDER} reads untrimmed videos, which a run "
      f"has none of; leave it out, and run vssl evaluate --protocols={untrimmed_features.FOLDER} "
      "--untrimmed=DIR."
    )
  return list(dict.fromkeys(names))


def check(config: ConfigDict, mesh: Mesh) -> str:
  """Checks before training what the probes would find impossible after it.

  Returns:
    The reason why the data at hand cannot be probed, in one line, or "" if it can.

  Raises:
    UserError: a protocol cannot be run, or a field of `config.probe` is impossible.
  """
  names = asked(config)
  if config.probe.random_init:
    calibrate.check(config)
  lack = missing(config, mesh)
  if not lack and "linear" in names:
    classifier.check_linear(config, splits(config)[0].num_videos, mesh)
  return lack


def probe(
  config: ConfigDict, variables: Variables, workdir: pathlib.Path, mesh: Mesh
) -> dict[str, Any]:
  """Runs all protocols that `config.probe` switches on, as one dictionary for the RESULT line.

  Args:
    config: the fields `probe`, `knn`, `data`, `encoder`, `augment` and `seed` are read.
    variables: variables of the encoder that `config.encoder` describes.
    workdir: the run's folder; pictures and training runs of the protocols go to its subfolders
      `probe_trained` and `probe_random_init`.
    mesh: all devices.

  Returns:
    The facts of `views.protocol`; the scores under `trained`, `random_init` and `baselines`; and
    `headline`.

  Raises:
    UserError: the data cannot be probed, or see `check`.
    Preempted: SIGTERM was received; calling this function again continues.
  """
  if lack := check(config, mesh):
    raise UserError(f"Nothing can be probed: {lack.rstrip('.')}.")
  names, config = asked(config), whole(config)
  train, test = splits(config)
  config, variables = inflated(config, variables)
  outcome: dict[str, Any] = protocol(config, train, test)
  encoders = {"trained": variables}
  if config.probe.random_init:
    encoders["random_init"] = _random(config, train, mesh)
  for name, values in encoders.items():
    folder, progress = workdir / f"probe_{name}", f"features ({name})"
    outcome[name] = scores(
      names, config, values, train, test, mesh=mesh, folder=folder, progress=progress
    )
  if config.probe.baselines:
    outcome["baselines"] = baselines.evaluate(config, train, test)
  return outcome | {"headline": _headline(outcome, names)}


def _random(config: ConfigDict, train: Source, mesh: Mesh) -> Variables:
  settings = classifier.linear_config(config, 2)
  size = classifier.fitting(config.probe.batch_size, train.num_videos, mesh)
  source = sources.load_source(settings, config.data.train_split, batch_size=size)
  return calibrate.random_variables(config, models.build_encoder(settings.encoder), source)


def scores(
  names: Sequence[str],
  config: ConfigDict,
  variables: Variables,
  train: Cached,
  test: Cached,
  *,
  mesh: Mesh,
  folder: pathlib.Path | None = None,
  progress: str = "",
) -> dict[str, Any]:
  """Runs protocols for one encoder, on splits that are already open.

  Args:
    names: of `evaluation.protocols.PROTOCOLS`; those of `QUICK` train nothing.
    config: the fields `probe`, `data`, `encoder`, `augment`, `knn` and `seed` are read.
    variables: variables of the encoder that `config.encoder` describes.
    train: the training split.
    test: the evaluation split.
    mesh: all devices.
    folder: folder for pictures and training runs; None draws no pictures, and protocols that train
      need one.
    progress: text of the progress bars; "" for none.

  Returns:
    Scores by protocol, and the facts that all protocols share.
  """
  task = Task(config, Options(gallery=0), variables, train, test, folder, None, mesh, progress)
  found: dict[str, Any] = {"encoder_sha256": task.encoder_sha256, "bn_mode": BN_MODE}
  if any(protocols.PROTOCOLS[name].frozen and name != "linear" for name in names):
    began = time.perf_counter()
    videos, _, width = task.bank.features.shape
    read = {"train": videos, "eval": len(task.queries.label)}
    seconds = time.perf_counter() - began
    e = task.config.data.eval
    found |= {
      "videos": read,
      "feature": f"{width} numbers per view after global average pooling, mean over views",
      "clips_per_second": sum(read.values()) * e.clips * e.crops / seconds,
      "seconds": seconds,
    }
  for name in names:
    try:
      scored = protocols.scores(name, task)
    except TooFewVideos as e:
      parallel.say(f"{name} is left out: {e}")
      found[name] = {"left_out": str(e)}
      continue
    scored.pop("headline")
    found[name] = scored
  return found


def _headline(outcome: dict[str, Any], names: list[str]) -> dict[str, Any]:
  """The main figures of each encoder and of the baselines, side by side."""
  rows = {name: outcome[name] for name in ("trained", "random_init") if name in outcome}
  figures: dict[str, Any] = {}
  for name in names:
    figure, key = _HEADLINES.get(name, (f"{name}_top1", "top1"))
    values = {row: scores[name][key] for row, scores in rows.items() if key in scores[name]}
    figures |= {figure: values} if values else {}
  for name, scores in outcome.get("baselines", {}).items():
    figures.setdefault("logistic_top1", {})[name] = scores["top1"]
  return figures
