"""What `main` can do: pre-train (and probe), probe a checkpoint, or describe a config."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import augment, methods, models, parallel, train
from vssl_jax import config as config_lib
from vssl_jax.errors import UserError
from vssl_jax.io import bundle
from vssl_jax.methods import classify
from vssl_jax.methods.base import Variables
from vssl_jax.models import cost, inflate
from vssl_jax.probes import monitor, report, run


class Preempted(Exception):
  """SIGTERM came and everything is saved; the message says what."""


def load_source(config: ConfigDict, split: str, *, batch_size: int | None = None) -> Any:
  """A split's source, of which this process reads its share of each batch.

  Args:
    config: `data`, `batch_size` and `seed` are read.
    split: the split's name.
    batch_size: videos a global batch, by default the config's.
  """
  from data_pipelines import source

  return source.load(
    config.data,
    split=split,
    batch_size=batch_size or config.batch_size,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def pretrain(config: ConfigDict, workdir: pathlib.Path, *, allow_config_change: bool) -> None:
  """Trains `config.method`, probes its encoder if asked, and prints the RESULT line.

  Raises:
    Preempted: SIGTERM came; run again to go on.
  """
  began = time.perf_counter()
  mesh = parallel.make_mesh()
  source = load_source(config, config.data.train_split)
  config = methods.resolve(config, source)
  method = methods.load(config.method).build(config, mesh)
  result = train.train(
    config, workdir, source, method, mesh, allow_config_change=allow_config_change,
    monitor=_monitor(config, mesh),
  )  # fmt: skip
  if result.preempted:
    raise Preempted(f"step {result.steps} of {workdir}")
  outcome = {
    "job": "pretrain", "name": config.name, "method": config.method, "seed": config.seed,
    "steps": result.steps, "train_videos": source.num_videos,
    "clips_per_second": result.clips_per_second, "train_seconds": result.seconds,
    "final": {k: result.metrics[k] for k in train.SHOWN if k in result.metrics},
  }  # fmt: skip
  if config.probe.run:
    variables = jax.device_get(method.encoder(result.state.params, result.state.method))
    outcome |= probe(config, variables, workdir, mesh)
    splits = _splits(config)
    if method.evaluate is not None and splits[1].label_names:
      state = jax.device_get((result.state.params, result.state.method))
      outcome[config.method] = method.evaluate(*state, *splits)
  outcome["seconds"] = time.perf_counter() - began
  _finish(outcome, workdir)


def _monitor(config: ConfigDict, mesh: Mesh) -> monitor.Monitor | None:
  """Nearest neighbours over the two splits while training, where the config asks for them."""
  if config.knn.every_epochs <= 0:
    return None
  return monitor.neighbours(config, *_splits(config), mesh=mesh)


def _splits(config: ConfigDict) -> list[run.Cached]:
  """The training and the evaluation split, for reading in order."""
  splits = (config.data.train_split, config.data.eval_split)
  return [run.Cached(load_source(config, x, batch_size=jax.process_count())) for x in splits]


def linear_probe(config: ConfigDict, workdir: pathlib.Path, *, allow_config_change: bool) -> None:
  """Probes the encoder of `config.checkpoint` and prints the RESULT line."""
  del allow_config_change
  if not config.checkpoint:
    raise UserError("config.checkpoint is empty: give the run folder, --config.checkpoint=runs/...")
  began = time.perf_counter()
  trained, variables, info = bundle.load_encoder(config.checkpoint)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.encoder = trained.encoder
    config.augment.mean, config.augment.std = trained.augment.mean, trained.augment.std
    if not config.data.path and not config.data.name:  # the data it was trained on
      for field in ("source", "path", "name", "train_split", "eval_split", "synthetic"):
        config.data[field] = trained.data[field]
  workdir.mkdir(parents=True, exist_ok=True)
  mesh = parallel.make_mesh()
  outcome = {"job": "linear_probe", "name": config.name, "method": trained.method, **info}
  outcome |= probe(config, variables, workdir, mesh)
  outcome["seconds"] = time.perf_counter() - began
  _finish(outcome, workdir)


def probe(
  config: ConfigDict, variables: Variables, workdir: pathlib.Path, mesh: Mesh
) -> dict[str, Any]:
  """Every protocol that `config.probe` switches on, as one dictionary for the RESULT line.

  Args:
    config: `probe`, `data`, `encoder`, `augment` and `seed` are read.
    variables: of the encoder that `config.encoder` describes.
    workdir: the linear probes' runs and the pictures go here.
    mesh: all devices.

  Returns:
    The protocol, and `trained`, `random_init` and `baselines` with their scores.
  """
  train_source, eval_source = _splits(config)
  if not eval_source.label_names:
    print("The data has no labels: nothing to probe.", flush=True)
    return {"protocol": "none: the data has no labels"}
  config, variables = _inflate(config, variables)
  outcome: dict[str, Any] = run.protocol(config, train_source, eval_source)
  encoder = models.build_encoder(config.encoder)
  encoders = {"trained": variables}
  if config.probe.random_init:
    calibration = load_source(linear_config(config, 2), config.data.train_split)
    encoders["random_init"] = run.random_variables(config, encoder, calibration)
  for name, values in encoders.items():
    folder = workdir / f"probe_{name}"
    scores: dict[str, Any] = {}
    if config.probe.quick:
      scores |= run.quick(
        config, encoder, values, train_source, eval_source, mesh=mesh,
        picture=folder / "logistic.png", progress=f"features ({name})",
      )  # fmt: skip
    if config.probe.linear:
      scores["linear"] = _linear(config, values, folder, mesh, eval_source)
    outcome[name] = scores
  if config.probe.baselines:
    outcome["baselines"] = run.baselines(config, train_source, eval_source)
  return outcome | _headline(outcome)


def _headline(outcome: dict[str, Any]) -> dict[str, Any]:
  """The figures to compare, side by side: top-1 of each encoder and of the baselines."""
  rows = {name: outcome[name] for name in ("trained", "random_init") if name in outcome}
  figures = {
    f"{protocol}_top1": {name: scores[protocol]["top1"] for name, scores in rows.items()}
    for protocol in ("linear", "logistic")
    if protocol in outcome["trained"]
  }
  if "retrieval" in outcome["trained"]:
    figures["R@1"] = {name: scores["retrieval"]["R@1"] for name, scores in rows.items()}
  baselines = outcome.get("baselines", {})
  for name, scores in baselines.items():
    figures.setdefault("logistic_top1", {})[name] = scores["top1"]
  return {"headline": figures}


def _inflate(config: ConfigDict, variables: Variables) -> tuple[ConfigDict, Variables]:
  """A network trained on single frames becomes the video network its probe needs."""
  if config.encoder.temporal:
    return config, variables
  config = config.copy_and_resolve_references()
  config.encoder.temporal = True
  encoder = models.build_encoder(config.encoder)
  e = config.data.eval
  clip = jax.ShapeDtypeStruct((1, e.frames, e.size, e.size, 3), jnp.float32)
  like = jax.eval_shape(encoder.init, jax.random.key(0), clip)
  return config, inflate.inflate(variables, like)


def linear_config(config: ConfigDict, classes: int) -> ConfigDict:
  """The config under which the linear probe's classifier is trained (CVRL §4.1).

  Args:
    config: `probe`, `data`, `encoder`, `augment` and `seed` are read.
    classes: labels of the data.

  Returns:
    A locked config of method `classify` with a frozen encoder, crops and flips only.
  """
  c = config_lib.base("classify")
  p = config.probe
  c.name, c.seed, c.batch_size, c.epochs = (
    f"{config.name}_linear",
    config.seed,
    p.batch_size,
    p.epochs,
  )
  c.data = config.data.copy_and_resolve_references()
  c.data.clips, c.data.frames, c.data.stride, c.data.size = p.clips, p.frames, p.stride, p.size
  c.data.interval = config_lib.data().interval
  c.data.interval.law = "independent"
  c.data.crop = config_lib.data().crop
  c.data.crop.area, c.data.crop.aspect = p.crop_area, p.crop_aspect
  augment.presets.none(c.augment)
  c.augment.flip, c.augment.mean, c.augment.std = p.flip, config.augment.mean, config.augment.std
  c.encoder = config.encoder.copy_and_resolve_references()
  c.classify.classes, c.classify.frozen, c.classify.normalise = classes, True, p.normalise
  c.optim.name, c.optim.lr, c.optim.lr_batch, c.optim.momentum = "sgd", p.lr, 1024, p.momentum
  c.optim.weight_decay, c.optim.warmup_epochs = p.weight_decay, p.warmup_epochs
  c.save.every = config.save.every
  c.log_every = config.log_every
  return c.lock()


def _linear(
  config: ConfigDict, variables: Variables, workdir: pathlib.Path, mesh: Mesh, eval_source: Any
) -> dict[str, Any]:
  settings = linear_config(config, len(eval_source.label_names))
  source = load_source(settings, settings.data.train_split)
  method = classify.build(settings, mesh, encoder_variables=variables)
  print(f"Linear probe in {workdir}", flush=True)
  result = train.train(settings, workdir, source, method, mesh, tensorboard=False)
  if result.preempted:
    raise Preempted(f"step {result.steps} of the linear probe in {workdir}")
  logits = classify.logits_fn(settings)
  scores = run.evaluate_classifier(
    settings,
    lambda trained, clips: logits(*trained, clips),
    (result.state.params, result.state.method),
    eval_source,
    mesh=mesh,
    picture=workdir / "linear.png",
  )
  o = settings.optim
  scores["protocol"] = (
    f"frozen encoder, {'L2-normalised ' * config.probe.normalise}features, {o.name} lr {o.lr} at "
    f"{o.lr_batch}, momentum {o.momentum}, weight decay {o.weight_decay}, batch "
    f"{settings.batch_size} x {config.probe.clips} clips, {settings.epochs} epochs, crops and "
    f"flips, {config.probe.frames} x {config.probe.stride} frames at {config.probe.size} px"
  )
  return scores


def _finish(outcome: dict[str, Any], workdir: pathlib.Path) -> None:
  if jax.process_index() == 0:
    report.write_json(outcome, workdir / "result.json")
    print(report.result_line(outcome), flush=True)


def describe(config: ConfigDict) -> str:
  """The resolved config, exact parameter counts, cost per clip and the devices."""
  method = methods.load(config.method).build(methods.resolve(config, None), None)
  params, state = jax.eval_shape(method.init, jax.random.key(0), method.example(2))
  total = cost.parameters(params)
  own = cost.parameters(method.encoder(params, state)["params"])
  d = config.data
  encoder = models.build_encoder(config.encoder)
  price = cost.count(encoder, (d.frames, d.size, d.size, 3))
  lines = [
    config_lib.to_json(config),
    f"parameters: encoder {own:,}, rest of the method {total - own:,}, total {total:,}",
    f"one clip ({d.frames} x {d.size} x {d.size}): {2 * price.macs:,} FLOPs forward "
    f"({price.macs / 1e9:.2f} G multiply-adds), {6 * price.macs:,} to train",
    f"bytes a clip: {d.frames * d.size * d.size * 3:,} as uint8 from the host, "
    f"{price.activation_bytes:,} of activations forward",
    f"devices: {jax.device_count()} x {jax.devices()[0].device_kind} "
    f"({jax.default_backend()}), {jax.process_count()} process(es)",
  ]
  return "\n".join(lines)


JOBS = {"pretrain": pretrain, "linear_probe": linear_probe}
