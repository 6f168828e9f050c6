"""CVRL (Qian et al., CVPR 2021): contrast two clips of a video, R3D-50.

  python -m vssl_jax.main --config=configs/cvrl.py --config.data.path=RECORDS

Variants, after a colon:
  (none), k400   Kinetics-400, 200 epochs, batch 1,024. K400 linear top-1 63.8 (66.1 at 800
                 epochs, --config.epochs=800): *published*. About 17 H100-hours at 40 % of the
                 bf16 peak by arithmetic: 240k videos x 200 epochs x 2 clips x 273 GFLOP. *not run*
  k600           Kinetics-600, 800 epochs: 68.5 on K400, 70.4 on K600: *published*. *not run*
  r3d152x2       R3D-152 of twice the width on K600: 72.9 on K600: *published*. *not run*
  demo           embedded digit videos, then probed; minutes on 2 CPU cores: see README.
  ucf6           six classes of UCF101, R3D-18 of width 16, then probed: see README.
  ucf6_supervised  the same network trained with labels from scratch, for comparison.

The paper's ablations are added after a comma, e.g. configs/cvrl.py:k400,uniform
  uniform, increasing, constant   law of the interval between the two clips (constant: 2 s)
  same_time      both clips at one time (no temporal augmentation)
  no_spatial     no spatial augmentation: central crops, no colour, blur or flips
  per_frame      spatial augmentation drawn anew for each frame (inconsistent)
  rotation       random multiples of 90 degrees added
  plain          blur with probability 0.5 on both views and no solarisation
  half, tenth    a fraction of the training videos (any: --config.data.fraction=0.25)
  inflated       a 2-D network trained on single frames, inflated for the probe
"""

from vssl_jax import augment
from vssl_jax import config as config_lib


def k400(c):
  """The paper's Kinetics-400 recipe; all other values are the defaults."""
  c.probe.run = True


def k600(c):
  """Kinetics-600, the headline schedule."""
  k400(c)
  c.epochs = 800.0


def r3d152x2(c):
  """R3D-152 with twice the channels, 327.7 M parameters."""
  k600(c)
  c.encoder.depth, c.encoder.width, c.encoder.remat = 152, 2.0, True


def small(c):
  """R3D-18 of width 16 in float32, for CPUs."""
  c.encoder.depth, c.encoder.width, c.encoder.dtype = 18, 0.25, "float32"
  c.head.hidden, c.head.out, c.head.bn_momentum = (256,), 64, 0.9
  c.probe.run = c.probe.baselines = True
  c.save.every = 200
  c.log_every = 20


def _mild(c):
  """Colour jitter of strength 0.4 and no blur: what small, small-featured clips bear."""
  augment.presets.plain(c.augment)
  a = c.augment
  a.brightness = a.contrast = a.saturation = 0.4
  a.hue, a.blur_p = 0.1, (0.0,)


def demo(c):
  """The embedded digit videos: everything in one command."""
  small(c)
  _mild(c)
  c.augment.flip = 0.0  # handwriting is not symmetric
  d = c.data
  d.source, d.path = "digits", "runs/data"
  d.frames, d.stride, d.size = 4, 2, 24
  d.crop.area, d.crop.aspect = (0.6, 1.0), (0.75, 1.33)
  d.eval.clips, d.eval.crops, d.eval.frames, d.eval.stride = 5, 1, 4, 2
  d.eval.resize, d.eval.size, d.eval.batch_size = 24, 24, 64
  c.batch_size, c.epochs = 64, 18.0
  o = c.optim
  o.name, o.lr, o.lr_batch, o.weight_decay, o.warmup_epochs = "adamw", 2e-3, 64, 1e-4, 1.0
  p = c.probe
  p.epochs, p.batch_size, p.warmup_epochs, p.lr = 10.0, 64, 1.0, 128.0
  p.flip, p.crop_area, p.crop_aspect = 0.0, d.crop.area, d.crop.aspect
  p.clips, p.frames, p.stride, p.size = 4, 4, 2, 24


def ucf6(c):
  """Six classes of UCF101 at 56 pixels; records by data_pipelines.prepare."""
  small(c)
  _mild(c)
  a = c.augment
  a.hue = 0.08
  a.brightness = a.contrast = a.saturation = 0.32
  a.mean, a.std = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
  d = c.data
  d.frames, d.stride, d.size = 8, 4, 56
  d.eval.clips, d.eval.crops, d.eval.frames, d.eval.stride = 5, 1, 8, 4
  d.eval.resize, d.eval.size, d.eval.batch_size = 56, 56, 16
  c.batch_size, c.epochs = 16, 40.0
  if c.method == "cvrl":
    c.cvrl.loss_scale = 1.0
  o = c.optim
  o.lr, o.lr_batch, o.weight_decay, o.warmup_epochs = 0.05, 16, 1e-4, 0.0
  c.probe.linear = False
  p = c.probe
  p.epochs, p.batch_size, p.warmup_epochs = 50.0, 64, 0.0
  p.frames, p.stride, p.size = 8, 4, 56


def ucf6_supervised(c):
  """The ucf6 network trained with labels from scratch: crops and flips, 40 epochs."""
  ucf6(c)
  c.batch_size, c.epochs, c.data.clips, c.data.interval.law = 64, 40.0, 1, "independent"
  augment.presets.none(c.augment)
  c.augment.flip, c.optim.lr, c.optim.lr_batch = 0.5, 0.1, 64
  c.classify.frozen = c.classify.normalise = False


VARIANTS = {
  "k400": k400,
  "k600": k600,
  "r3d152x2": r3d152x2,
  "demo": demo,
  "ucf6": ucf6,
  "ucf6_supervised": ucf6_supervised,
}
METHODS = {"ucf6_supervised": "classify"}


def _law(name):
  def change(c):
    c.data.interval.law = name
    if name == "constant":
      c.data.interval.gap, c.data.interval.unit = 2.0, "seconds"

  return change


def no_spatial(c):
  """Neither crops nor colour nor blur nor flips."""
  augment.presets.none(c.augment)
  c.augment.flip, c.data.crop.random = 0.0, False


def per_frame(c):
  """One draw a frame: what temporal consistency is worth."""
  c.augment.consistent = c.data.crop.consistent = False


def inflated(c):
  """SimCLR on single frames with a 2-D network, whose kernels the probe repeats in time."""
  c.encoder.temporal = False
  c.data.frames = 1


ABLATIONS = {
  "uniform": _law("uniform"),
  "increasing": _law("increasing"),
  "constant": _law("constant"),
  "same_time": _law("same"),
  "no_spatial": no_spatial,
  "per_frame": per_frame,
  "rotation": lambda c: c.augment.update({"rotation_p": 0.5}),
  "plain": lambda c: augment.presets.plain(c.augment),
  "half": lambda c: c.data.update({"fraction": 0.5}),
  "tenth": lambda c: c.data.update({"fraction": 0.1}),
  "inflated": inflated,
}


def get_config(variant: str = ""):
  """The config of a variant, with ablations after commas."""
  return config_lib.compose(
    variant or "k400", VARIANTS, ABLATIONS, prefix="cvrl", method="cvrl", methods=METHODS
  )
