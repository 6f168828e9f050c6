"""Every configuration field, its default and its meaning; a config file only changes values."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import ml_collections

from vssl_jax.errors import UserError

ConfigDict = ml_collections.ConfigDict


def data() -> ConfigDict:
  """Fields of `config.data`: where clips come from and how they are cut."""
  c = ConfigDict()
  c.source = "tfrecord"  # tfrecord | tfds | digits | synthetic | features | dmvr
  c.path = ""  # folder of shards (tfrecord, features) or TFDS data_dir
  c.name = ""  # tfds: builder name; dmvr: "module:function" that returns a factory
  c.train_split = "train"
  c.eval_split = "test"
  c.clips = 2  # R: clips drawn from each video
  c.frames = 16  # T: frames a clip
  c.stride = 2  # source frames between two frames of a clip
  c.size = 224  # side of the square clip, pixels
  c.fraction = 1.0  # share of the training videos used, chosen by seed
  c.threads = 0  # parse and decode threads; 0 lets tf.data choose
  c.prefetch = 2  # batches kept ready

  c.interval = ConfigDict()  # between the starts of a video's clips
  c.interval.law = "decreasing"  # decreasing|uniform|increasing|constant|same|independent
  c.interval.power = 1.0  # p of the law, f(k) ∝ 1 − (k/m)^p
  c.interval.gap = 0.0  # the constant law's interval, in `unit`
  c.interval.unit = "frames"  # frames | seconds (each video's own frame rate)
  c.interval.max_seconds = 0.0  # bound on the positives' span; 0 = whole video

  c.crop = ConfigDict()  # random resized crop, taken while the JPEG is decoded
  c.crop.random = True  # False: the central square only
  c.crop.area = (0.3, 1.0)  # share of the frame's area
  c.crop.aspect = (0.5, 2.0)  # width / height
  c.crop.consistent = True  # one crop a clip; False: one a frame

  c.eval = ConfigDict()  # test-time views
  c.eval.clips = 10  # clips a video, evenly spaced
  c.eval.crops = 3  # squares along the longer side
  c.eval.frames = 32
  c.eval.stride = 2
  c.eval.resize = 256  # short side before cropping, pixels
  c.eval.size = 256
  c.eval.batch_size = 8  # videos a batch

  c.synthetic = ConfigDict()  # the NumPy-only sources
  c.synthetic.videos = 256
  c.synthetic.eval_videos = 64
  c.synthetic.length = 48  # frames a video
  c.synthetic.classes = 8
  return c


def augment() -> ConfigDict:
  """Fields of `config.augment`: what happens to clips on the device (preset `code`)."""
  c = ConfigDict()
  c.flip = 0.5
  c.jitter_p = 0.8
  c.brightness = 0.8
  c.contrast = 0.8
  c.saturation = 0.8
  c.hue = 0.2
  c.contrast_mean = "clip"  # clip (TF: per-channel mean) | grey (torchvision: mean of luma)
  c.gray_p = 0.2
  c.blur_p = (1.0, 0.1)  # by view
  c.blur_sigma = (0.1, 2.0)
  c.blur_kernel = 0  # taps; 0 = size // 10, made odd
  c.solarise_p = (0.0, 0.2)  # by view
  c.solarise_threshold = 0.5
  c.rotation_p = 0.0  # by a random multiple of 90 degrees
  c.consistent = True  # one draw a clip; False: one a frame
  c.mean = (0.0, 0.0, 0.0)  # subtracted after augmentation
  c.std = (1.0, 1.0, 1.0)
  return c


def encoder() -> ConfigDict:
  """Fields of `config.encoder`."""
  c = ConfigDict()
  c.name = "r3d"
  c.depth = 50  # 18 | 50 | 101 | 152
  c.width = 1.0  # channel multiplier; 0.25 starts at 16 channels
  c.dtype = "bfloat16"  # compute; parameters, statistics and losses stay float32
  c.bn_momentum = 0.9  # new = momentum · old + (1 − momentum) · batch
  c.bn_epsilon = 1e-5
  c.bn_groups = 1  # 1: statistics over the global batch; G: over each of G equal groups
  c.remat = False  # recompute blocks in the backward pass
  c.temporal = True  # False: every temporal kernel is 1 (single frames, inflated later)
  c.conv = "auto"  # lowering of the 3-D convolutions, see models/conv.py
  return c


def head() -> ConfigDict:
  """Fields of `config.head`, the projection."""
  c = ConfigDict()
  c.hidden = (2048, 2048, 2048)
  c.out = 128
  c.bn_momentum = 0.997
  c.bn_groups = 1
  return c


def optim() -> ConfigDict:
  """Fields of `config.optim`."""
  c = ConfigDict()
  c.name = "sgd"  # sgd | lars | adamw
  c.lr = 0.32  # at `lr_batch` videos
  c.lr_batch = 1024  # the rate is scaled by batch_size / lr_batch
  c.momentum = 0.9
  c.nesterov = False
  c.weight_decay = 1e-6  # on kernels only
  c.warmup_epochs = 5.0
  c.final_lr = 0.0  # share of the peak left at the end of the cosine
  c.clip_norm = 0.0  # global gradient norm bound; 0 = none
  return c


def base() -> ConfigDict:
  """The whole config with its defaults: CVRL's published recipe."""
  c = ConfigDict()
  c.name = ""  # names the default workdir
  c.job = "pretrain"  # pretrain | linear_probe
  c.method = "cvrl"  # a module of vssl_jax/methods
  c.seed = 0
  c.batch_size = 1024  # videos a step, over all devices
  c.epochs = 200.0
  c.steps = 0  # overrides epochs when positive
  c.accumulate = 1  # micro-batches a step
  c.data = data()
  c.augment = augment()
  c.encoder = encoder()
  c.head = head()
  c.optim = optim()

  c.log_every = 50  # steps
  c.checkpoint = ConfigDict()
  c.checkpoint.every = 1000  # steps; 0 = only at the end
  c.checkpoint.keep = 2  # newest checkpoints kept
  c.checkpoint.best = ""  # metric whose best checkpoint is kept as well; "" = none
  c.checkpoint.best_mode = "min"

  c.probe = ConfigDict()  # after pre-training, or job = linear_probe
  c.probe.run = False  # also probe at the end of pre-training
  c.probe.random_init = False  # beside the same encoder at random initialisation
  c.probe.calibrate = 16  # batches that set the random encoder's batch statistics
  c.probe.linear = True
  c.probe.logistic = True
  c.probe.retrieval = True
  c.probe.baselines = False  # logistic regression on raw pixels and colour means

  c.distributed = ConfigDict()  # several processes
  c.distributed.coordinator = ""  # host:port of process 0; "auto" on a TPU pod or SLURM
  c.distributed.processes = 1
  c.distributed.index = 0
  return c


def to_json(config: ConfigDict) -> str:
  """The config as stable, readable JSON."""
  return json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True, ensure_ascii=False)
