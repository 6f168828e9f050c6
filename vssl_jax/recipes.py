"""Building blocks shared by the files in configs/: small networks, mild color, small data sets.

Each function changes the given config. A method's recipe calls some of them and then sets its own
optimizer, schedule and method fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax import methods as methods_lib
from vssl_jax.augment import presets
from vssl_jax.errors import UserError

Change = Callable[[ConfigDict], None]
_RENAMED = {"no_colour": "no_color"}  # changes by their former names


def small(c: ConfigDict) -> None:
  """R3D-18 with a quarter of the channels (from 16), float32, for CPUs; probed at the end."""
  c.encoder.depth, c.encoder.width, c.encoder.dtype = 18, 0.25, "float32"
  c.knn.bound = False  # so the published results were measured
  c.head.hidden, c.head.out, c.head.bn_momentum = (256,), 64, 0.9
  c.probe.run = c.probe.baselines = True
  c.save.every = 200
  c.log_every = 20


def mild_color(c: ConfigDict) -> None:
  """Color jitter of strength 0.4 and no blur, for small clips with small details."""
  presets.plain(c.augment)
  a = c.augment
  a.brightness = a.contrast = a.saturation = 0.4
  a.hue, a.blur_p = 0.1, (0.0,)


def demo(c: ConfigDict) -> None:
  """The built-in digit videos: 40 epochs with AdamW and four clips per video, then all probes.

  The look of a shot is a shortcut: clips of one shot share it, and it says nothing about the digit.
  So clips are always gray, and half of them are negatives. Clips of two frames and an eighth of the
  width pay for many updates; all methods need some hundreds before they begin to learn.
  """
  small(c)
  c.encoder.width = 0.125
  mild_color(c)
  c.augment.flip = 0.0  # handwriting is not symmetric
  c.augment.gray_p, c.augment.invert_p = 1.0, 0.5
  d = c.data
  d.source, d.path = "digits", "runs/data"
  d.frames, d.stride, d.size = 2, 2, 24
  d.interval.max_seconds = (
    1.0  # farther apart, clips have so little in common that learning starts late
  )
  d.crop.area, d.crop.aspect = (0.6, 1.0), (0.75, 1.33)
  d.eval.clips, d.eval.crops, d.eval.frames, d.eval.stride = 5, 1, 2, 2
  d.eval.resize, d.eval.size, d.eval.batch_size = 24, 24, 64
  c.batch_size, c.epochs = 64, 40.0
  o = c.optim
  o.name, o.lr, o.lr_batch, o.weight_decay, o.warmup_epochs = "adamw", 1e-3, 64, 1e-4, 1.0
  p = c.probe
  p.epochs, p.batch_size, p.warmup_epochs, p.lr = 10.0, 64, 1.0, 128.0
  p.flip, p.crop_area, p.crop_aspect = 0.0, d.crop.area, d.crop.aspect
  p.clips, p.frames, p.stride, p.size = 4, 2, 2, 24


def motion(c: ConfigDict) -> None:
  """After a recipe for the digit videos: the built-in videos whose movement is the class.

  Clips are longer, and all else stays. Mirroring and rotations by 90 degrees turn one class into
  another, so they are off; reversed time would, too. The protocol `motion` joins the probes.
  """
  c.data.source = "motion"
  clip_length(8, 1)(c)
  c.augment.flip = c.augment.rotation_p = c.probe.flip = 0.0
  c.probe.protocols = (*c.probe.protocols, "motion")


def batch_normalized(c: ConfigDict) -> None:
  """Batch norm on the embeddings, for small batches.

  Without it, the embeddings of the digits collapse into a narrow cone within a few updates, and
  the loss stays near that of guessing for long.
  """
  c.head.out_bn = True


def ucf6(c: ConfigDict) -> None:
  """Six classes of UCF101 at 56 pixels, AdamW at batch 16; reads records of data_pipelines.prepare.

  Two choices were made by cross-validation over the recordings of the training split: color jitter
  of strength 0.4 instead of 1, and AdamW instead of SGD. Each gains several points.
  """
  small(c)
  mild_color(c)
  a = c.augment
  a.hue = 0.08
  a.brightness = a.contrast = a.saturation = 0.32
  a.mean, a.std = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
  d = c.data
  d.frames, d.stride, d.size = 8, 4, 56
  d.interval.distribution = "independent"
  d.eval.clips, d.eval.crops, d.eval.frames, d.eval.stride = 5, 1, 8, 4
  d.eval.resize, d.eval.size, d.eval.batch_size = 56, 56, 16
  c.batch_size, c.epochs = 16, 40.0
  o = c.optim
  o.name, o.lr, o.lr_batch, o.weight_decay, o.warmup_epochs = "adamw", 2e-3, 16, 1e-2, 0.0
  c.probe.linear = False
  p = c.probe
  p.epochs, p.batch_size, p.warmup_epochs = 50.0, 64, 0.0
  p.frames, p.stride, p.size = 8, 4, 56


def published_probe(c: ConfigDict) -> None:
  """After training, the linear probe alone, as the papers report it.

  What else the small recipes run would take days on Kinetics: features of 240,000 training videos
  in several views for logistic regression, and all of it again for the random initialization.
  """
  c.probe.run = c.probe.linear = True
  c.probe.quick = c.probe.random_init = False


def rho_k400(c: ConfigDict) -> None:
  """Common to all methods of the ρ-study on Kinetics-400: Slow-R50 8x8, 200 epochs, batch 512.

  Clips are 8 frames of 64 at 30 frames per second. The records must know their frame rates, as
  those of `vssl prepare` do.
  """
  c.batch_size, c.epochs = 512, 200.0
  c.encoder.name, c.encoder.bn_momentum, c.head.bn_momentum = "slow", 0.9, 0.9
  c.head.init = "c2_xavier"
  d = c.data
  d.frames, d.stride, d.size = 8, 8, 224
  d.interval.distribution = "independent"
  d.crop.short = (0.7, 0.875)  # like scaling the short side to U[256, 320] and cropping 224 x 224
  d.target_fps = 30.0
  d.eval.frames, d.eval.stride, d.eval.placement = 8, 8, "starts"
  _rho_color(c, 0.5)
  c.augment.mean, c.augment.std = (0.45,), (0.225,)
  o = c.optim
  o.lr_batch, o.momentum, o.nesterov, o.warmup_epochs = 512, 0.9, True, 35.0
  o.warmup_lr, o.decay_bias = 0.008, True
  p = c.probe
  p.update(config_lib.LINEAR_PROBES["rho"])
  p.frames, p.stride = 8, 8
  published_probe(c)


def lars(c: ConfigDict) -> None:
  """LARS as in the ρ-study's SimCLR, BYOL and SwAV: rate 4.8 at 512 videos, weight decay 1e-6.

  Batch norm uses statistics of 64 videos, as in the study, where it covers the 8 GPUs of a machine.
  """
  c.encoder.bn_groups = c.head.bn_groups = 8
  c.optim.name, c.optim.lr, c.optim.weight_decay = "lars", 4.8, 1e-6


def rho_demo(c: ConfigDict) -> None:
  """The built-in digits for a method with ρ clips: four, drawn independently in time."""
  demo(c)
  c.data.clips, c.data.interval.distribution = 4, "independent"


def _rho_color(c: ConfigDict, strength: float) -> None:
  """The study's color augmentation, the same for all views; the study's default is s = 0.5.

  With strength s: jitter 0.8s, hue 0.2s; gray with probability 0.2, blur with 0.5. As torchvision
  does it: contrast is relative to the mean luma of the clip, saturation to that of each pixel, and
  the blur extends the edges of a frame.
  """
  presets.plain(c.augment)
  a = c.augment
  a.brightness = a.contrast = a.saturation = 0.8 * strength
  a.hue, a.contrast_mean = 0.2 * strength, "grey"
  a.saturation_space, a.blur_padding = "luma", "edge"


def aug_plus(c: ConfigDict) -> None:
  """The study's aug+: crops of 0.2 to 0.766 of the area, aspect 3/4 to 4/3, color of 0.75.

  The logarithm of the aspect is uniform, as in torchvision.
  """
  _rho_color(c, 0.75)
  c.data.crop.area, c.data.crop.aspect = (0.2, 0.766), (0.75, 1.3333)
  c.data.crop.short, c.data.crop.log_aspect = (0.0, 0.0), True


def no_spatial(c: ConfigDict) -> None:
  """No spatial augmentation: the central square, never mirrored."""
  c.probe.flip = config_lib.probe_flip(c)  # those of the probes stay
  presets.no_geometry(c.augment)
  c.data.crop.random = False


def rho(clips: int) -> Change:
  """ρ clips per video; ρ = 1 means two crops of one clip."""

  def change(c: ConfigDict) -> None:
    c.data.clips = max(clips, 2)
    if clips == 1:
      c.data.interval.distribution, c.data.interval.max_seconds = "same", 0.0

  return change


def span(seconds: float) -> Change:
  """All clips of a video start within `seconds`; with 0, at the same time."""

  def change(c: ConfigDict) -> None:
    c.data.interval.distribution = "independent" if seconds else "same"
    c.data.interval.max_seconds = seconds

  return change


def clip_length(frames: int, stride: int) -> Change:
  """Sets the frames per clip and their stride, for pre-training, probes and evaluation."""

  def change(c: ConfigDict) -> None:
    for part in (c.data, c.data.eval, c.probe):
      part.frames, part.stride = frames, stride

  return change


def field(name: str, value: Any) -> Change:
  """Sets one of the method's own fields."""

  def change(c: ConfigDict) -> None:
    c[c.method][name] = value

  return change


def momentum(base: float | None) -> Change:
  """A constant momentum instead of an annealed one: `base`, or the recipe's value if None."""

  def change(c: ConfigDict) -> None:
    fields = c[c.method]
    fields.anneal = False
    if base is not None:
      fields.momentum = base

  return change


RHO_CHANGES = {
  **{f"rho{n}": rho(n) for n in (1, 2, 3, 4)},
  **{f"span{s}": span(float(s)) for s in (0, 1, 2, 4, 10, 30)},
  "no_temporal": span(0.0),
  "4x16": clip_length(4, 16),
  "16x4": clip_length(16, 4),
  "aug_plus": aug_plus,
  "no_spatial": no_spatial,
  "no_color": lambda c: presets.no_color(c.augment),
  "joint": field("statistics", "joint"),
}
MOMENTUM_CHANGES = {
  "fixed": momentum(None),
  "momentum0": momentum(0.0),
  "sequential": field("sequential", True),
  "query_sum": field("queries", "sum"),
}


def compose(
  variant: str,
  variants: Mapping[str, Callable[[ConfigDict], None]],
  changes: Mapping[str, Callable[[ConfigDict], None]],
  *,
  prefix: str,
  method: str,
  methods: Mapping[str, str] | None = None,
) -> ConfigDict:
  """Makes the config of `variant[,change...]`: the defaults, the variant, then each change in turn.

  Two changes that set the same field differently are refused, because the name of the run would
  contain both.

  Args:
    variant: the text after the colon of --config, e.g. "demo,uniform".
    variants: the recipes, by name.
    changes: the ablations, by name.
    prefix: first part of the config's name, before the variant.
    method: method of all variants that are not in `methods`.
    methods: method by variant name, for the other variants.

  Returns:
    An unlocked config whose `name` is e.g. "cvrl_demo_uniform".

  Raises:
    UserError: a variant or change is unknown (the message lists those that exist), or a change
      sets a field differently than an earlier change.
  """
  first, *rest = variant.split(",")
  changes = {**changes, **{old: changes[new] for old, new in _RENAMED.items() if new in changes}}
  for name, known, what in [(first, variants, "variant"), *((r, changes, "change") for r in rest)]:
    if name not in known:
      there = ", ".join(k for k in known if k not in _RENAMED)
      raise UserError(f"--config: no {what} {name!r} of {prefix}; there are {there}.")
  c = methods_lib.base_config((methods or {}).get(first, method))
  c.name = "_".join([prefix, first, *rest])
  variants[first](c)
  set_by: dict[str, str] = {}
  for name in rest:
    before = _leaves(c)
    changes[name](c)
    for field, value in _leaves(c).items():
      if value == before.get(field):
        continue
      if field in set_by:
        raise UserError(
          f"--config: {name!r} undoes {set_by[field]!r} (both set config.{field}); leave one out."
        )
      set_by[field] = name
  return c


def _leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
  """All values of a config, by dotted field names."""
  found: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      found |= _leaves(value, f"{prefix}{key}.")
    else:
      found[prefix + key] = value
  return found
