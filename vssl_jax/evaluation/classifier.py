"""Trains classifiers on an encoder, which is frozen (the linear probe) or fine-tuned."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import augment, methods, parallel, results
from vssl_jax import config as config_lib
from vssl_jax.augment import mirror
from vssl_jax.errors import UserError
from vssl_jax.methods import classify
from vssl_jax.methods.base import Variables
from vssl_jax.probes import classifier as classifier_lib
from vssl_jax.training import loop, metrics_log, optim, run_config, sources


def linear_config(config: ConfigDict, classes: int) -> ConfigDict:
  """The training config of the linear probe's classifier (CVRL §4.1).

  Args:
    config: the fields `probe`, `data`, `encoder`, `augment` and `seed` are read.
    classes: number of classes in the data.

  Returns:
    A locked config of method `classify` with a frozen encoder; it augments by crops and flips only.
  """
  c = methods.base_config("classify")
  p = config.probe
  c.name, c.seed, c.batch_size, c.epochs = (
    f"{config.name}_linear",
    config.seed,
    p.batch_size,
    p.epochs,
  )
  c.data = config.data.copy_and_resolve_references()
  c.data.held_out_sha256 = ""  # it learns from all training videos
  c.data.clips, c.data.frames, c.data.stride, c.data.size = p.clips, p.frames, p.stride, p.size
  c.data.interval = config_lib.data().interval
  c.data.interval.distribution = "independent"
  c.data.crop = config_lib.data().crop
  c.data.crop.area, c.data.crop.aspect = p.crop_area, p.crop_aspect
  c.data.crop.short = p.crop_short
  augment.presets.none(c.augment)
  c.augment.flip = config_lib.probe_flip(config)
  c.augment.mean, c.augment.std = config.augment.mean, config.augment.std
  c.encoder = config.encoder.copy_and_resolve_references()
  c.encoder.bn_groups = 1  # the groups of pre-training fit only its batch size
  c.classify.classes, c.classify.frozen, c.classify.normalize = classes, True, p.normalize
  c.optim.name, c.optim.lr, c.optim.lr_batch, c.optim.momentum = "sgd", p.lr, 1024, p.momentum
  c.optim.weight_decay, c.optim.warmup_epochs = p.weight_decay, p.warmup_epochs
  c.optim.nesterov = p.nesterov
  c.save.every = config.save.every
  c.log_every = config.log_every
  return c.lock()


def fitting(wanted: int, videos: int, mesh: Mesh) -> int:
  """The batch size `wanted`, reduced if the split is small, and a multiple of the devices."""
  wanted = min(wanted, videos)
  return wanted - wanted % mesh.size


def check_linear(config: ConfigDict, videos: int, mesh: Mesh) -> None:
  """Checks that the linear probe can be trained, before anything is.

  Args:
    config: `probe` is read.
    videos: number of training videos, at least one per device.
    mesh: all devices.

  Raises:
    UserError: a field of `config.probe` is impossible, or the probe makes no step after warm-up.
  """
  p = config.probe
  for field, fits, what in (
    ("batch_size", p.batch_size >= mesh.size, f"at least one video per device ({mesh.size})"),
    ("lr", p.lr >= 0, "0 or more"),
    ("weight_decay", p.weight_decay >= 0, "0 or more"),
    ("momentum", 0 <= p.momentum < 1, "in [0, 1)"),
    ("warmup_epochs", p.warmup_epochs >= 0, "0 or more"),
  ):
    if not fits:
      raise UserError(f"config.probe.{field} is {p[field]}: give {what}.")
  epoch = videos // fitting(p.batch_size, videos, mesh)
  steps, warmup = round(p.epochs * epoch), p.warmup_epochs * epoch
  if steps < 1:
    raise UserError(f"config.probe.epochs is {p.epochs}: the linear probe would make no step.")
  if warmup >= steps:
    raise UserError(
      f"config.probe.warmup_epochs is {p.warmup_epochs}: the linear probe's warm-up takes all of "
      f"its {p.epochs} epochs; make it shorter, or config.probe.epochs larger."
    )


def linear(
  config: ConfigDict,
  variables: Variables,
  workdir: pathlib.Path,
  mesh: Mesh,
  train_source: Source,
  eval_source: Source,
) -> dict[str, Any]:
  """Runs the linear probe that `config.probe` describes, with the train loop of all methods.

  Args:
    config: the fields `probe`, `data`, `encoder`, `augment` and `seed` are read.
    variables: the encoder's variables, which do not change.
    workdir: the folder for the probe's run folder and pictures.
    mesh: all devices.
    train_source: the training split.
    eval_source: the evaluation split.

  Returns:
    Scores as from `probes.classifier.evaluate_classifier`, and `protocol`, a description.

  Raises:
    Preempted: SIGTERM was received; calling this function again continues the probe.
  """
  settings = linear_config(config, len(eval_source.label_names))
  scores = classifier(settings, variables, workdir, mesh, train_source, eval_source, name="linear")
  o = settings.optim
  batch = fitting(settings.batch_size, train_source.num_videos, mesh)
  momentum = f"{o.momentum}{' nesterov' * o.nesterov}"
  flips = " and flips" if settings.augment.flip else ""
  scores["protocol"] = (
    f"frozen encoder, {'L2-normalized ' * config.probe.normalize}features, {o.name} lr {o.lr} at "
    f"{o.lr_batch}, momentum {momentum}, weight decay {o.weight_decay}, batch "
    f"{batch} x {config.probe.clips} clips, {settings.epochs} epochs, crops"
    f"{flips}, {config.probe.frames} x {config.probe.stride} frames at {config.probe.size} px"
  )
  return scores


def classifier(
  settings: ConfigDict,
  variables: Variables,
  workdir: pathlib.Path,
  mesh: Mesh,
  train_source: Source,
  eval_source: Source,
  *,
  name: str,
  videos: Sequence[int] | None = None,
) -> dict[str, Any]:
  """Trains a classifier on an encoder (frozen or not) and scores it; continues an interrupted run.

  Args:
    settings: a config of method `classify`; the batch size is reduced to the number of videos.
    variables: the encoder's initial variables.
    workdir: gets `<name>-<hash of the deciding config fields>/`, `<name>.png` and `<name>.md`.
    mesh: all devices.
    train_source: the training split.
    eval_source: the evaluation split.
    name: name of the protocol.
    videos: indices of the training videos to learn from; None takes all.

  Returns:
    Scores as from `probes.classifier.evaluate_classifier`, and `trained_with`.

  Raises:
    Preempted: SIGTERM was received; calling this function again continues the run.
    RuntimeError: an encoder that should be frozen changed, which would be a bug.
  """
  count = train_source.num_videos if videos is None else len(videos)
  before = results.tree_hash(variables)
  settings = settings.copy_and_resolve_references()
  with settings.unlocked():
    settings.batch_size = fitting(settings.batch_size, count, mesh)
    # The result depends on the encoder and the videos, so other ones need another run folder.
    settings.classify.encoder_sha256 = before
    settings.data.fingerprint = train_source.fingerprint
    if videos is not None:
      subset = f"{settings.data.fingerprint} {[int(v) for v in videos]}"
      settings.data.fingerprint = hashlib.sha256(subset.encode()).hexdigest()
  source = sources.load_source(settings, settings.data.train_split)
  if videos is not None:
    source = source.only(videos)
  with settings.unlocked():
    settings.steps_per_epoch = source.steps_per_epoch  # so that the hash includes the total steps
  decisive = json.dumps(run_config.bound(settings), sort_keys=True).encode()
  folder = workdir / f"{name}-{hashlib.sha256(decisive).hexdigest()[:12]}"
  method = classify.build(settings, mesh, encoder_variables=variables)
  parallel.say(f"{name.replace('_', ' ').capitalize()}: trained in {folder}")
  if note := mirror.note(settings.augment.flip, train_source.label_names):
    parallel.say(note)
  result = loop.train(settings, folder, source, method, mesh, tensorboard=False)
  if result.preempted:
    raise loop.stopped(result, f"step {result.steps} of {name.replace('_', ' ')} in {folder}")
  if settings.classify.frozen:
    assert method.encoder is not None
    results.unchanged(method.encoder(result.state.params, result.state.method), before)
  logits = classify.logits_fn(settings)
  scores = classifier_lib.evaluate_classifier(
    settings,
    lambda trained, clips: logits(trained[0], trained[1], clips),
    (result.state.params, result.state.method),
    eval_source,
    mesh=mesh,
    picture=workdir / f"{name}.png",
    progress=name.replace("_", " "),
  )
  # The batch size may have been reduced to the number of videos, and the learning rate with it.
  used = {
    "batch_size": settings.batch_size,
    "steps": result.steps,
    "peak_lr": optim.peak_lr(settings.optim, settings.batch_size),
    "unreadable_reads": _unreadable(folder),
  }
  return scores | {"trained_with": used}


def _unreadable(folder: pathlib.Path) -> int:
  """How often training replaced an unreadable video by another, before and after resuming."""
  return int(max((row.get("unreadable_videos", 0) for row in metrics_log.read(folder)), default=0))
