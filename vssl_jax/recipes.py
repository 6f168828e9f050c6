"""Pieces that the files under configs/ share: small networks, mild colour, the small data sets.

Each function changes the config it is given. A recipe of a method takes these and sets what is
its own: the optimiser, the schedule, the method's fields.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from vssl_jax.augment import presets


def small(c: ConfigDict) -> None:
  """R3D-18 of width 16 in float32, for CPUs, probed at the end."""
  c.encoder.depth, c.encoder.width, c.encoder.dtype = 18, 0.25, "float32"
  c.head.hidden, c.head.out, c.head.bn_momentum = (256,), 64, 0.9
  c.probe.run = c.probe.baselines = True
  c.save.every = 200
  c.log_every = 20


def mild_colour(c: ConfigDict) -> None:
  """Colour jitter of strength 0.4 and no blur: what small, small-featured clips bear."""
  presets.plain(c.augment)
  a = c.augment
  a.brightness = a.contrast = a.saturation = 0.4
  a.hue, a.blur_p = 0.1, (0.0,)


def demo(c: ConfigDict) -> None:
  """The embedded digit videos, 18 epochs with AdamW, then every probe."""
  small(c)
  mild_colour(c)
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


def ucf6(c: ConfigDict) -> None:
  """Six classes of UCF101 at 56 pixels, batch 16; records by data_pipelines.prepare."""
  small(c)
  mild_colour(c)
  a = c.augment
  a.hue = 0.08
  a.brightness = a.contrast = a.saturation = 0.32
  a.mean, a.std = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
  d = c.data
  d.frames, d.stride, d.size = 8, 4, 56
  d.eval.clips, d.eval.crops, d.eval.frames, d.eval.stride = 5, 1, 8, 4
  d.eval.resize, d.eval.size, d.eval.batch_size = 56, 56, 16
  c.batch_size, c.epochs = 16, 40.0
  o = c.optim
  o.lr, o.lr_batch, o.weight_decay, o.warmup_epochs = 0.05, 16, 1e-4, 0.0
  c.probe.linear = False
  p = c.probe
  p.epochs, p.batch_size, p.warmup_epochs = 50.0, 64, 0.0
  p.frames, p.stride, p.size = 8, 4, 56
