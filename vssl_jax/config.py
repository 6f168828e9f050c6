"""Every configuration field, its default and its meaning; a config file only changes values."""

from __future__ import annotations

import json
from typing import Any

from ml_collections import ConfigDict

from vssl_jax.errors import UserError

# Published linear probes: fields of `config.probe`, whose defaults are CVRL's.
LINEAR_PROBES: dict[str, dict[str, Any]] = {
  "cvrl": {},  # Qian et al. 2021, section 4.1, and its code
  "rho": {  # Feichtenhofer et al. 2021, appendix B: 4.0 at 512 videos, on features as they are
    "normalize": False,
    "lr": 8.0,
    "batch_size": 512,
    "epochs": 60.0,
    "warmup_epochs": 8.0,
    "crop_short": (0.7, 0.875),
  },
}
# Fields by their former names, which configs and flags may use for one more version.
RENAMED = {
  "data.interval.law": "data.interval.distribution",
  "augment.solarise_p": "augment.solarize_p",
  "augment.solarise_threshold": "augment.solarize_threshold",
  "encoder.spread": "encoder.slow_to_last",
  "probe.normalise": "probe.normalize",
  "classify.normalise": "classify.normalize",
}


def data() -> ConfigDict:
  """Fields of `config.data`: where clips come from and how they are cut."""
  c = ConfigDict()
  # tfrecord | tfds | digits | synthetic | features | dmvr | localization | untrimmed | stitched
  c.source = "tfrecord"
  c.path = ""  # folder of shards (tfrecord, features) or TFDS data_dir
  c.name = ""  # tfds: builder name; dmvr: "module:function" that returns a factory
  c.fingerprint = ""  # of the training videos, filled in from the source
  c.train_split = "train"
  c.eval_split = "test"
  c.clips = 2  # R: clips drawn from each video
  c.frames = 16  # T: frames per clip
  c.stride = 2  # source frames between two frames of a clip
  c.size = 224  # side of the square clip, pixels
  c.fraction = 1.0  # share of the training videos used, chosen by seed
  c.threads = 0  # parse and decode threads; 0 lets tf.data choose
  c.prefetch = 2  # batches kept ready
  c.strict = False  # True: a video that cannot be read ends the run instead of being replaced

  c.interval = ConfigDict()  # between the starts of a video's clips
  c.interval.distribution = "decreasing"  # decreasing|uniform|increasing|constant|same|independent
  c.interval.power = 1.0  # p of the distribution, f(k) ∝ 1 − (k/m)^p
  c.interval.gap = 0.0  # the interval of `constant`, in `unit`
  c.interval.unit = "frames"  # frames | seconds (each video's own frame rate)
  c.interval.max_seconds = 0.0  # bound on the span of a video's clips; 0 = whole video
  c.interval.min_seconds = 0.0  # their starts span at least this, or what the video allows

  c.crop = ConfigDict()  # random resized crop, taken while the JPEG is decoded
  c.crop.random = True  # False: the central square only
  c.crop.area = (0.3, 1.0)  # share of the frame's area
  c.crop.aspect = (0.5, 2.0)  # width / height
  # Squares instead, their side so large a share of the short side: what scaling that side to
  # [256, 320] and cutting out 224 is as (0.7, 0.875), whatever the frame's shape; 0 for none.
  c.crop.short = (0.0, 0.0)
  c.crop.consistent = True  # one crop per clip; False: one per frame

  c.eval = ConfigDict()  # test-time views
  c.eval.clips = 10  # clips per video, evenly spaced
  c.eval.crops = 3  # squares along the longer side
  c.eval.frames = 32
  c.eval.stride = 2
  c.eval.resize = 256  # short side before cropping, pixels
  c.eval.size = 256
  c.eval.batch_size = 8  # videos per batch

  c.synthetic = ConfigDict()  # the NumPy-only sources
  c.synthetic.videos = 256
  c.synthetic.eval_videos = 64
  c.synthetic.length = 48  # frames per video
  c.synthetic.classes = 8

  c.localization = localization()  # feature sequences of untrimmed videos
  return c


def localization() -> ConfigDict:
  """Fields of `config.data.localization`; `data_pipelines/untrimmed` says who reads which."""
  c = ConfigDict()
  c.annotations = ""  # ground truth, ActivityNet's JSON; for the made-up sources: its lengths
  c.durations = ""  # CSV of video_id, duration_s where the JSON has no durations
  c.step_seconds = 0.64  # from one feature to the next: 16 frames at 25 a second
  c.sampling = "sample"  # sample: always T features, repeated or left out | pad: up to T, masked
  c.streams = ()  # folders under config.data.path joined along D, such as ("rgb", "flow")
  c.check = True  # look through all files first
  c.validation = 0.0  # share of the training videos held out, to choose a checkpoint by
  c.truth = False  # training sees annotated moments too, for config.dcc.pseudo = annotated alone
  c.seed = 0  # of the made-up data, whatever the run's

  c.videos = 200  # made-up videos to train on
  c.eval_videos = 100
  c.max_seconds = 240.0  # longest made-up video
  c.second_class = 0.15  # chance that a made-up video has actions of two classes

  c.untrimmed = ConfigDict()  # see untrimmed.simulated.SimulationSettings
  c.untrimmed.classes = 8
  c.untrimmed.scenes = 0
  c.untrimmed.width = 64
  c.untrimmed.phases = 3
  c.untrimmed.action = 1.0
  c.untrimmed.scene = 1.0
  c.untrimmed.context = 0.5
  c.untrimmed.resemblance = 0.3
  c.untrimmed.shot_seconds = 8.0
  c.untrimmed.variation = 0.5
  c.untrimmed.noise = 1.0
  c.untrimmed.memory = 0.7
  c.untrimmed.bursts = 0.1

  c.stitched = ConfigDict()  # see data_pipelines.untrimmed.stitched
  c.stitched.actions = ()  # labels that are actions, the others are background; (): the first half
  c.stitched.names = ""  # text file of label and name a line
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
  c.solarize_p = (0.0, 0.2)  # by view
  c.solarize_threshold = 0.5
  c.rotation_p = 0.0  # by a random multiple of 90 degrees
  c.consistent = True  # one draw per clip; False: one per frame
  c.mean = (0.0, 0.0, 0.0)  # subtracted after augmentation
  c.std = (1.0, 1.0, 1.0)
  return c


def encoder() -> ConfigDict:
  """Fields of `config.encoder`."""
  c = ConfigDict()
  c.name = "r3d"  # r3d | slow | c2d | slowfast | r2plus1d | r3d_torchvision | s3dg | vit
  # 0 is the first of: r3d, slow, c2d, slowfast 50 | 18 | 101 | 152; r2plus1d 18; vit 12.
  c.depth = 0
  c.width = 1.0  # channel multiplier; 0.25 starts at 16 channels
  c.dtype = "bfloat16"  # compute; parameters, statistics and losses stay float32
  c.bn_momentum = 0.9  # new = momentum · old + (1 − momentum) · batch
  c.bn_epsilon = 1e-5
  c.bn_groups = 1  # 1: statistics over the global batch; G: over each of G equal groups
  c.remat = False  # recompute blocks in the backward pass
  c.temporal = True  # r3d, slow; False: every temporal kernel is 1 (frames, inflated later)
  c.conv = "auto"  # lowering of the 3-D convolutions, see models/conv.py
  c.alpha = 4  # slowfast: frames of the fast pathway (and of the clip) a frame of the slow one
  c.beta = 8  # slowfast: channels of the slow pathway a channel of the fast one
  c.lateral = 7  # slowfast: temporal kernel of the lateral connections; 5 in the paper
  c.slow_to_last = False  # slowfast: the slow pathway's frames from the clip's first to its last
  c.time_pool = 1  # slow, c2d: frames max-pooled into one after res2; PySlowFast's C2D has 2
  c.gating = True  # s3dg: False is S3D
  c.size = "B"  # vit: S | B
  c.tubelet = (2, 16, 16)  # vit: frames, rows and columns of a token
  return c


def head() -> ConfigDict:
  """Fields of `config.head`, the projection."""
  c = ConfigDict()
  c.hidden = (2048, 2048, 2048)
  c.out = 128
  c.bn = True  # batch norm after each hidden layer
  c.out_bn = False  # and of the embedding, without scale or bias
  c.bn_momentum = 0.997
  c.bn_groups = 1
  return c


def optim() -> ConfigDict:
  """Fields of `config.optim`."""
  c = ConfigDict()
  c.name = "sgd"  # sgd | lars | adamw | adam (weight decay in the gradient)
  c.lr = 0.32  # at `lr_batch` videos
  c.lr_batch = 1024  # the rate is scaled by batch_size / lr_batch
  c.momentum = 0.9
  c.nesterov = False
  c.weight_decay = 1e-6  # on kernels; with lars on all tensors of two or more axes
  c.decay_bias = False  # sgd, adamw: on the biases of layers too, as PySlowFast's SGD
  c.warmup_epochs = 5.0
  c.warmup_lr = 0.0  # rate of the warm-up's first update, at `lr_batch` videos
  c.final_lr = 0.0  # share of the peak left at the end of the cosine
  c.clip_norm = 0.0  # global gradient norm bound; 0 = none
  c.layer_decay = 1.0  # factor of the rate from one layer of the encoder to the one before it
  return c


def shared() -> ConfigDict:
  """The fields that every method shares, with their defaults (CVRL's published recipe).

  `vssl_jax.methods.base_config` adds those of one method.

  Returns:
    An unlocked config.
  """
  c = ConfigDict()
  c.name = ""  # names the default workdir
  c.job = "pretrain"  # pretrain | linear_probe
  c.method = ""  # a module of vssl_jax/methods; its own fields are config.<method>
  c.seed = 0
  c.batch_size = 1024  # videos per step, over all devices
  c.epochs = 200.0
  c.steps = 0  # overrides epochs when positive
  c.steps_per_epoch = 0  # filled in from the data
  c.accumulate = 1  # micro-batches per step
  c.data = data()
  c.augment = augment()
  c.encoder = encoder()
  c.head = head()
  c.optim = optim()

  c.checkpoint = ""  # run folder or exported folder whose encoder is probed or fine-tuned
  c.log_every = 50  # steps
  c.save = ConfigDict()
  c.save.every = 1000  # steps between checkpoints; 0 = only at the end
  c.save.keep = 2  # newest checkpoints kept
  c.save.best = ""  # logged metric whose best checkpoint is kept as well; "" = none
  c.save.best_mode = "min"  # min | max

  c.knn = ConfigDict()  # nearest neighbours, also while training: evaluation/monitor.py
  c.knn.every_epochs = 0.0  # 0 = never
  c.knn.k = 200  # neighbours that vote, at most all of the training split
  c.knn.temperature = 0.07  # of the votes, exp(cosine / T)
  c.knn.clips = 1  # while training: views of each video, evenly spaced
  c.knn.held_out = 0.2  # while training: share of the training videos that ask the others

  c.probe = ConfigDict()  # after pre-training, and job = linear_probe
  c.probe.run = False  # probe at the end of pre-training
  c.probe.random_init = True  # beside the same encoder at random initialization
  c.probe.calibrate = 16  # training batches that set a random encoder's batch statistics
  c.probe.linear = True  # CVRL's linear probe
  c.probe.quick = True  # logistic regression, nearest neighbours and retrieval
  c.probe.protocols = ()  # further ones, names of evaluation/protocols.py
  c.probe.baselines = False  # logistic regression on raw pixels and color means
  c.probe.epochs = 100.0
  c.probe.batch_size = 1024
  c.probe.lr = 32.0  # at 1024 videos
  c.probe.normalize = True  # L2-normalized features
  c.probe.momentum = 0.9
  c.probe.weight_decay = 0.0
  c.probe.warmup_epochs = 5.0
  c.probe.clips = 1  # clips of each video per step: more of them cost less reading
  c.probe.flip = 0.5
  c.probe.crop_area = (0.3, 1.0)
  c.probe.crop_aspect = (0.5, 2.0)
  c.probe.crop_short = (0.0, 0.0)
  c.probe.frames = 32
  c.probe.stride = 2
  c.probe.size = 224

  c.distributed = ConfigDict()  # several processes
  c.distributed.coordinator = ""  # host:port of process 0; "auto" on a TPU pod or SLURM
  c.distributed.processes = 1
  c.distributed.index = 0
  return c


def total_steps(config: ConfigDict, steps_per_epoch: int) -> int:
  """Steps of the whole run: `config.steps`, or `config.epochs` of whole batches.

  Raises:
    UserError: neither is positive.
  """
  steps = config.steps or round(config.epochs * steps_per_epoch)
  if steps <= 0:
    raise UserError(f"config.epochs is {config.epochs}: it must be positive (or set config.steps).")
  return steps


def linear_probe(name: str) -> dict[str, Any]:
  """How a published linear probe is trained: a key of `LINEAR_PROBES`; fields of `config.probe`."""
  probe = shared().probe
  fields = (
    "normalize",
    "lr",
    "batch_size",
    "epochs",
    "warmup_epochs",
    "weight_decay",
    "momentum",
    "crop_area",
    "crop_aspect",
    "crop_short",
    "clips",
  )
  return {field: probe[field] for field in fields} | LINEAR_PROBES[name]


def rename_fields(config: ConfigDict) -> list[str]:
  """Moves values under a field's former name to its present one, in place.

  Args:
    config: any, of this version or an older one; unlocked for the moment.

  Returns:
    The former names that were found.
  """
  found = []
  for old, new in RENAMED.items():
    *parents, field = old.split(".")
    group: Any = config
    for name in parents:
      group = group.get(name) if isinstance(group, ConfigDict) else None
    if not isinstance(group, ConfigDict) or field not in group:
      continue
    with group.unlocked():
      group[new.rpartition(".")[2]] = group[field]
      del group[field]
    found.append(old)
  return found


def to_json(config: ConfigDict) -> str:
  """The config as stable, readable JSON."""
  return json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True, ensure_ascii=False)
