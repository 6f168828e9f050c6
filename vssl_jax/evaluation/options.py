"""Options of an evaluation, and the configs of the protocols that train."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from data_pipelines.clips.sampler import PLACEMENTS
from vssl_jax import config as config_lib
from vssl_jax.errors import UserError

SOLVERS = ("auto", "sklearn", "device")  # of `probes.logistic`, which is slow to import
MOTION_SCORES = ("logistic", "knn", "retrieval", "few_shot")  # of the protocol motion
_LR_BATCH = 64  # videos at which fine-tuning's rate is meant


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings of the protocols; 0, "" or None in `FROM_CHECKPOINT`: the value of the checkpoint."""

  clips: int = 0
  crops: int = 0
  frames: int = 0
  stride: int = 0
  resize: int = 0
  size: int = 0
  placement: str = ""
  target_fps: float | None = None
  flip: float | None = None
  seed: int | None = None
  linear: str = "own"
  linear_epochs: float = 0.0
  k: int = 0
  knn_bound: bool | None = None
  temperature: float = 0.0
  solver: str = "auto"
  epochs: float = 20.0
  batch_size: int = 32
  optimizer: str = "sgd"
  lr: float = 0.05
  lr_steps: tuple[float, ...] = ()
  nesterov: bool = False
  weight_decay: float = 1e-4
  dropout: float = 0.0
  label_smoothing: float = 0.0
  layer_decay: float = 1.0
  fractions: tuple[float, ...] = (0.01, 0.1)
  subsets: tuple[str, ...] = ()
  subset_seeds: tuple[int, ...] = (0,)
  semi_epochs: float = 0.0
  shots: tuple[int, ...] = (1, 5)
  ways: int = 5
  queries: int = 15
  episodes: int = 600
  gallery: int = 8
  motion_scores: tuple[str, ...] = MOTION_SCORES[:3]
  untrimmed: str = ""
  page: bool = True


FROM_CHECKPOINT = (
  "clips",
  "crops",
  "frames",
  "stride",
  "resize",
  "size",
  "placement",
  "target_fps",
  "flip",
  "seed",
  "k",
  "knn_bound",
  "temperature",
)
_NOT_NEGATIVE = (
  *(x for x in FROM_CHECKPOINT if x not in ("seed", "placement")),
  "linear_epochs",
  "semi_epochs",
  "lr",
  "weight_decay",
)
FORMER_FLAGS = {"optimizer": ("--optimiser",)}  # former names
HELP = {
  "clips": "test clips per video",
  "crops": "test crops per clip",
  "frames": "frames per test clip",
  "stride": "source frames from one frame of a test clip to the next",
  "resize": "short side of the frames before the test crop, pixels",
  "size": "side of the test crop, pixels",
  "placement": "where test clips start: ends, up to the last start, or starts, at i / n of it",
  "target_fps": "frames per second at which frames and stride are meant; 0: a video's own",
  "flip": "training of classifiers: probability of a mirrored clip; 0: left differs from right",
  "seed": "seed of all random draws",
  "linear": f"settings of the linear probe: own, {', '.join(config_lib.LINEAR_PROBES)}",
  "linear_epochs": "epochs of the linear probe; 0: as published or configured",
  "k": "nearest neighbors: number that vote",
  "knn_bound": "nearest neighbors: at most as many as the smallest class has training videos",
  "temperature": "nearest neighbors: temperature of their votes",
  "solver": "logistic regression: sklearn, device, or auto, which takes the devices for large data",
  "epochs": "fine-tuning: number of epochs",
  "batch_size": "fine-tuning: videos per batch",
  "optimizer": "fine-tuning: sgd, adamw, lars or adam",
  "lr": f"fine-tuning: learning rate at {_LR_BATCH} videos per batch",
  "lr_steps": "fine-tuning: epochs at which the learning rate falls to a tenth; none: half-cosine",
  "nesterov": "fine-tuning: SGD with Nesterov's momentum",
  "weight_decay": "fine-tuning: weight decay",
  "dropout": "fine-tuning: dropout before the classifier",
  "label_smoothing": "fine-tuning: label smoothing",
  "layer_decay": "fine-tuning: learning rate of a layer, relative to the layer after it",
  "fractions": "semi-supervised: fractions of the labels",
  "subsets": "semi-supervised: lists of videos to use instead, as a run writes them",
  "subset_seeds": "semi-supervised: seeds, each for one subset of each fraction",
  "semi_epochs": "semi-supervised: epochs per subset; 0: five times those of fine-tuning",
  "shots": "few-shot: support videos per class",
  "ways": "few-shot: classes per episode",
  "queries": "few-shot: queries per class and episode",
  "episodes": "few-shot: number of episodes",
  "gallery": "retrieval: queries shown in the picture",
  "motion_scores": f"motion: scores to repeat, of {', '.join(MOTION_SCORES)}",
  "untrimmed": "localization_features: folder of untrimmed videos",
  "page": "write report.html, a page with the videos, if the extra `report` is installed",
}


def make(**values: Any) -> Options:
  """Options from arguments of a function: a list may be any sequence, or a single value.

  Raises:
    TypeError: an option that there is not.
  """
  lists = {f.name for f in dataclasses.fields(Options) if isinstance(f.default, tuple)}
  given: dict[str, Any] = {k: _tuple(v) if k in lists else _plain(v) for k, v in values.items()}
  return Options(**given)


def _tuple(value: Any) -> tuple[Any, ...]:
  several = isinstance(value, Iterable) and not isinstance(value, str | os.PathLike)
  return tuple(_plain(x) for x in (value if several else [value]) if x != "")


def _plain(value: Any) -> Any:
  return os.fspath(value) if isinstance(value, os.PathLike) else value


def check(options: Options) -> None:
  """Checks everything that needs neither data nor checkpoint.

  Raises:
    UserError: a negative seed or number, an unknown solver, an empty list, or two files of videos
      under one name.
  """
  for name in _NOT_NEGATIVE:
    if (getattr(options, name) or 0) < 0:
      raise UserError(f"--{name}: {getattr(options, name)} is negative; give 0 or more.")
  if (options.flip or 0) > 1:
    raise UserError(f"--flip: {options.flip} is not a probability; give 0 to 1.")
  seeds = {"seed": (options.seed or 0,), "subset_seeds": options.subset_seeds}
  for name, values in seeds.items():
    if bad := [x for x in values if x < 0]:
      raise UserError(f"--{name}: {bad[0]} is negative; seeds are 0 or more.")
  if options.placement not in ("", *PLACEMENTS):
    raise UserError(f"--placement={options.placement}: choose one of {', '.join(PLACEMENTS)}.")
  if options.solver not in SOLVERS:
    raise UserError(f"--solver={options.solver}: choose one of {', '.join(SOLVERS)}.")
  if unknown := [x for x in options.motion_scores if x not in MOTION_SCORES]:
    raise UserError(f"--motion_scores={unknown[0]}: choose some of {', '.join(MOTION_SCORES)}.")
  for name in ("shots", "fractions", "subset_seeds", "motion_scores"):
    if not getattr(options, name):
      raise UserError(f"--{name}: nothing given; give one value or more, or leave the flag out.")
    if len(set(getattr(options, name))) < len(getattr(options, name)):
      raise UserError(f"--{name}: a value stands there twice.")
  stems = [pathlib.PurePath(f).stem for f in options.subsets]
  if twice := next((s for s in stems if stems.count(s) > 1), None):
    raise UserError(
      f"--subsets: two files are named {twice!r}, and so would their results be; rename one."
    )


def resolved(trained: ConfigDict, options: Options) -> ConfigDict:
  """The checkpoint's config, with the options for views, seed, linear probe and kNN applied.

  Raises:
    UserError: an unknown linear probe.
  """
  c = trained.copy_and_resolve_references().unlock()
  c.data.fraction = 1.0
  for field in ("clips", "crops", "frames", "stride", "resize", "size", "placement"):
    if value := getattr(options, field):
      c.data.eval[field] = value
  if options.size and not options.resize and c.data.eval.resize < options.size:
    c.data.eval.resize = options.size
  if options.target_fps is not None:
    c.data.target_fps = float(options.target_fps)
  if options.flip is not None:
    c.probe.flip = float(options.flip)
  if options.seed is not None:
    c.seed = options.seed
  c.knn.k = options.k or c.knn.k
  if options.knn_bound is not None:
    c.knn.bound = options.knn_bound
  c.knn.temperature = options.temperature or c.knn.temperature
  if options.linear not in ("own", *config_lib.LINEAR_PROBES):
    raise UserError(
      f"--linear={options.linear}: choose one of own, {', '.join(config_lib.LINEAR_PROBES)}."
    )
  if options.linear != "own":
    c.probe.update(config_lib.linear_probe(options.linear))
  if options.linear_epochs:
    share = options.linear_epochs / c.probe.epochs
    c.probe.warmup_epochs *= min(1.0, share)
    c.probe.epochs = options.linear_epochs
  return c


def finetuning(config: ConfigDict, classes: int, options: Options, epochs: float) -> ConfigDict:
  """The config for training the whole network with labels, starting from the checkpoint.

  Clips, crops and flips are those of the linear probe.

  Args:
    config: its `probe`, `data`, `encoder`, `augment` and `seed` are used.
    classes: number of classes of the data.
    options: settings of fine-tuning.
    epochs: length of this run.

  Returns:
    A locked config of method `classify`.

  Raises:
    UserError: a number is impossible.
  """
  from vssl_jax.evaluation import classifier  # slow to import, and not needed for flags

  for name, value, fits, what in (
    ("epochs", epochs, epochs > 0, "above 0"),
    ("batch_size", options.batch_size, options.batch_size >= 1, "1 or more"),
    ("dropout", options.dropout, 0 <= options.dropout < 1, "in [0, 1)"),
    ("label_smoothing", options.label_smoothing, 0 <= options.label_smoothing < 1, "in [0, 1)"),
    ("layer_decay", options.layer_decay, 0 < options.layer_decay <= 1, "in (0, 1]"),
  ):
    if not fits:
      raise UserError(f"--{name}: {value} is not {what}.")
  if options.lr_steps and not all(0 < x < epochs for x in options.lr_steps):
    told = ",".join(f"{x:g}" for x in options.lr_steps)
    raise UserError(f"--lr_steps={told}: give epochs between 0 and the {epochs:g} of the run.")
  c = classifier.linear_config(config, classes)
  with c.unlocked():
    c.name = f"{config.name}_finetune"
    c.batch_size, c.epochs, c.data.clips = options.batch_size, epochs, 1
    k = c.classify
    k.frozen, k.normalize = False, False
    k.dropout, k.label_smoothing = options.dropout, options.label_smoothing
    o = c.optim
    o.name, o.lr, o.lr_batch, o.momentum = options.optimizer, options.lr, _LR_BATCH, 0.9
    o.weight_decay, o.layer_decay = options.weight_decay, options.layer_decay
    o.nesterov = options.nesterov
    if options.lr_steps:
      o.schedule, o.lr_steps = "steps", options.lr_steps
    o.warmup_epochs = min(1.0, epochs / 10)
  return c


def describe_training(settings: ConfigDict) -> dict[str, object]:
  """The important settings of a training config, JSON-able."""
  d, o, k = settings.data, settings.optim, settings.classify
  optimizer: dict[str, object] = {
    "name": o.name,
    "lr": o.lr,
    "at_batch": o.lr_batch,
    "momentum": o.momentum,
    "weight_decay": o.weight_decay,
    "layer_decay": o.layer_decay,
    "warmup_epochs": o.warmup_epochs,
    "schedule": "half-cosine" if o.schedule == "cosine" else o.schedule,
  }
  clips: dict[str, object] = {"frames": d.frames, "stride": d.stride, "size": d.size}
  # What came later is told only where it is used: results of before then stay comparable.
  if o.nesterov:
    optimizer["nesterov"] = True
  if o.schedule == "steps":
    optimizer |= {"lr_steps": o.lr_steps, "lr_shares": o.lr_shares}
  if d.target_fps:
    clips["target_fps"] = d.target_fps
  return {
    "optimizer": optimizer,
    "batch_size": settings.batch_size,
    "epochs": settings.epochs,
    "clips_a_video": d.clips,
    **clips,
    "crop_area": d.crop.area,
    "crop_aspect": d.crop.aspect,
    "crop_short": d.crop.short,
    "flip": settings.augment.flip,
    "normalized_features": k.normalize,
    "dropout": k.dropout,
    "label_smoothing": k.label_smoothing,
    "encoder": "frozen" if k.frozen else "trained",
    "bn_mode_while_training": "inference, unchanged" if k.frozen else "batch statistics, moving",
  }
