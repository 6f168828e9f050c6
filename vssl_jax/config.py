"""All configuration fields, with defaults and meanings; a config file only changes the values."""

from __future__ import annotations

import json
import re
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import former
from vssl_jax.errors import UserError, brief

# Published linear probes, as changes to the fields of `config.probe`; its defaults are CVRL's.
LINEAR_PROBES: dict[str, dict[str, Any]] = {
  "cvrl": {},  # Qian et al. 2021, section 4.1, and its code
  # Feichtenhofer et al. 2021, appendix B: lr 4.0 at 512 videos, features not normalized.
  "rho": {
    "normalize": False,
    "lr": 8.0,
    "batch_size": 512,
    "epochs": 60.0,
    "warmup_epochs": 8.0,
    "nesterov": True,  # PySlowFast's default, which its linear configs keep
    "crop_short": (0.7, 0.875),
  },
}
# A colon in the name of a TFDS data set that is not the one before its version, as in
# `mnist:3.0.1`: before it is a namespace, whose programs TFDS fetches and runs.
_NAMESPACE = re.compile(r":(?!(?:\d+|\*)(?:\.(?:\d+|\*)){2}(?:/|$))")
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
  """Fields of `config.data`: which data is read, and how clips are cut from it."""
  c = ConfigDict()
  # tfrecord | videos | arrays | tfds | digits | motion | synthetic | features | dmvr |
  # localization | untrimmed | stitched
  c.source = "tfrecord"
  # The data; tfrecord: folder of shards, of JPEGs or encoded videos; videos: folder, CSV or lists
  # of videos; arrays: the same of .npy or .npz files; tfds, digits, motion: TFDS's data_dir.
  c.path = ""
  c.name = ""  # tfds: builder name; dmvr: "module:function" that returns a factory
  c.fingerprint = ""  # fingerprint of the training split, filled in from the source
  c.held_out_sha256 = ""  # hash of the videos that `config.knn.held_out` takes from training
  c.train_split = "train"
  c.eval_split = "test"
  c.clips = 2  # R: clips drawn from each video
  c.frames = 16  # T: frames per clip
  c.stride = 2  # source frames from one frame of a clip to the next
  # Frames per second at which `frames` and `stride` are meant, as PySlowFast's TARGET_FPS, also for
  # test views: a clip of T frames covers T · stride of them, T · stride · fps / target_fps frames
  # of a video with fps frames per second, and its T frames are spread evenly from the first to the
  # last (so 8 frames with stride 8 are 9 apart at equal rates). 0: stride counts a video's own
  # frames.
  c.target_fps = 0.0
  c.size = 224  # side of the square clip, pixels
  # C: channels of a frame; 3: RGB | 1: gray, from any video | other numbers: source = arrays.
  # Unless it is 3, the operations of config.augment on red, green and blue are off.
  c.channels = 3
  # Values that become 0 and 255, for arrays that are not uint8 and for gray video of more than 8
  # bits: (low, high) for all channels, or low and high of each in turn. (): arrays must be uint8,
  # and gray video has 0 and the largest value that its bits can hold.
  c.value_range = ()
  c.fraction = 1.0  # share of the training videos to use, chosen by the seed
  # Threads that parse and decode; 0 lets tf.data choose. Of videos, and of records that hold them:
  # worker processes; 0: one per core.
  c.threads = 0
  c.prefetch = 2  # number of batches prepared ahead
  # Steps in a row that use one batch, each with a new augmentation on the device: a run whose input
  # is too slow decodes so many times fewer clips. Clips and their crops stay the same meanwhile.
  c.echo = 1
  # tfrecord, videos, tfds, digits, motion: where the training videos are kept decoded, at their
  # stored size, from the first batch on. "": nowhere | host: in the memory of each machine, once
  # for all of its processes; the batches stay the same | device: also on the accelerators, which
  # then crop and scale; for videos of one size.
  c.cache = ""
  # Folder of the cache: "": /dev/shm, which is memory; or a folder of a fast disk.
  c.cache_folder = ""
  c.strict = False  # True: stop at a video that cannot be read; False: replace it by the next one

  c.interval = ConfigDict()  # time between the starts of a video's clips
  c.interval.distribution = "decreasing"  # decreasing|uniform|increasing|constant|same|independent
  c.interval.power = 1.0  # exponent p of the density, f(k) ∝ 1 − (k/m)^p for `decreasing`
  c.interval.gap = 0.0  # the interval of `constant`, in `unit`
  c.interval.unit = "frames"  # frames | seconds (converted by each video's own frame rate)
  c.interval.max_seconds = 0.0  # largest distance between any two starts; 0: no bound
  c.interval.min_seconds = 0.0  # smallest distance from first to last start, if possible

  c.crop = ConfigDict()  # random resized crop, taken while the JPEG is decoded
  c.crop.random = True  # False: always the central square
  c.crop.area = (0.3, 1.0)  # range of the crop's area, as a share of the frame's area
  c.crop.aspect = (0.5, 2.0)  # range of the crop's width / height
  # False: the aspect is uniform in its range, as TF's sample_distorted_bounding_box; True: its
  # logarithm is, as in torchvision and PySlowFast.
  c.crop.log_aspect = False
  # If not 0: square crops instead; range of the side as a share of the frame's short side.
  # (0.7, 0.875) is the same as scaling the short side to [256, 320] and cropping 224 x 224.
  c.crop.short = (0.0, 0.0)
  c.crop.consistent = True  # True: one crop per clip; False: one per frame

  c.eval = ConfigDict()  # test views
  c.eval.clips = 10  # clips per video, evenly spaced
  c.eval.crops = 3  # square crops per clip, along the longer side of the frame
  c.eval.frames = 32  # frames per clip
  c.eval.stride = 2  # source frames from one frame of a clip to the next
  # Starts of the n clips; l is the last possible one. ends: from 0 to l, at l · i / (n − 1) |
  # starts: at l · i / n, as in PySlowFast
  c.eval.placement = "ends"
  c.eval.resize = 256  # short side of the frames before cropping, pixels
  c.eval.size = 256  # side of the square crops, pixels
  c.eval.batch_size = 8  # videos per batch

  c.videos = videos()  # source = videos, or arrays

  c.synthetic = ConfigDict()  # source = synthetic
  c.synthetic.videos = 256  # training videos
  c.synthetic.eval_videos = 64  # evaluation videos
  c.synthetic.length = 48  # frames per video
  c.synthetic.classes = 8

  c.localization = localization()  # feature sequences of untrimmed videos
  return c


def videos() -> ConfigDict:
  """Fields of `config.data.videos`; all but the last two are flags of `prepare`."""
  c = ConfigDict()
  c.short_side = 256  # shorter side of the frames, pixels, never enlarged; 0: keep the size
  c.fps = 0.0  # frames per second, sampled by time stamps; 0: each video's own
  c.max_seconds = 120.0  # longer videos count as several; 0: never
  c.split_column = ""  # column of a CSV with the splits; "": `split`, if there
  c.split_list = ()  # official lists of a split of UCF101 or HMDB51
  c.root = ""  # folder that relative paths in a CSV or list start from; "": its own
  c.flat = False  # take all videos of a folder as unlabeled, of one split
  c.raw_aspect = False  # keep pixels that are not square
  c.stream_fps = 0.0  # frames per second of streams without time stamps; 0: what they state
  c.max_gap = 0.0  # longest gap between two frames, seconds; 0: any
  # Folder of what is known about each video: where its frames are. "": vssl_jax/videos in
  # $XDG_CACHE_HOME, or in ~/.cache.
  c.cache = ""
  # Seconds that reading a video's clips may take, also from a record that holds the video; 0: no
  # limit.
  c.timeout = 120.0
  return c


def localization() -> ConfigDict:
  """Fields of `config.data.localization`; the modules in `data_pipelines/untrimmed` read them."""
  c = ConfigDict()
  # Ground truth, a JSON file in ActivityNet's format. The sources of made-up videos (untrimmed,
  # stitched) take the times or lengths of their actions from it.
  c.annotations = ""
  c.durations = ""  # CSV of video_id, duration_s, if the JSON has no durations
  c.step_seconds = 0.64  # time from one feature to the next; 0.64: 16 frames at 25 per second
  # sample: always T features, by repeating or leaving out | pad: zeros up to T, masked
  c.sampling = "sample"
  # Folders of streams, concatenated along D; (): rgb and flow, if there are folders of these names.
  c.streams = ()
  c.check = True  # check all files before training
  c.validation = 0.0  # share of the training videos held out, to choose a checkpoint
  # Of made-up videos (untrimmed, stitched), above 0: so many are made to be held out, and training
  # keeps all of its own; stitched: from the share `validation` of the source videos, which
  # training then does not use.
  c.validation_videos = 0
  c.truth = False  # True: batches have the annotated times; only for config.dcc.pseudo = annotated
  c.seed = 0  # seed of made-up data and of the held-out videos, independent of the run's seed

  c.videos = 200  # number of made-up training videos
  c.eval_videos = 100  # number of made-up evaluation videos
  c.max_seconds = 240.0  # length of the longest made-up video, seconds
  c.second_class = 0.15  # probability that a made-up video has actions of two classes

  c.untrimmed = ConfigDict()  # see data_pipelines.untrimmed.simulated.SimulationSettings
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
  c.stitched.actions = ()  # labels that are actions, the rest is background; (): the first half
  c.stitched.names = ""  # text file with a label and its name on each line
  return c


def augment() -> ConfigDict:
  """Fields of `config.augment`: augmentation of clips on the device (defaults: preset `code`)."""
  c = ConfigDict()
  c.flip = 0.5  # probability of a mirrored clip
  c.jitter_p = 0.8  # probability of color jitter; its strengths follow
  c.brightness = 0.8
  c.contrast = 0.8
  c.saturation = 0.8  # of RGB only, as hue
  c.hue = 0.2
  c.contrast_mean = "clip"  # clip (as TF: mean per channel) | grey (as torchvision: mean luma)
  # hsv: scales S of HSV (as TF) | luma: moves each pixel from or to its luma (as torchvision)
  c.saturation_space = "hsv"
  c.gray_p = 0.2  # probability of grayscale, of RGB only
  c.blur_p = (1.0, 0.1)  # probability of Gaussian blur, per view
  c.blur_sigma = (0.1, 2.0)  # range of the blur's sigma, pixels
  c.blur_kernel = 0  # size of the blur's kernel, taps; 0: size // 10, made odd
  c.blur_padding = "zeros"  # pixels outside the frame: zeros (as TF) | edge (as PIL): the nearest
  c.solarize_p = (0.0, 0.2)  # probability of solarizing, per view
  c.solarize_threshold = 0.5  # values at or above it are inverted, in [0, 1]
  c.invert_p = 0.0  # probability of the negative: all values x become 1 - x
  c.rotation_p = 0.0  # probability of rotation by a random multiple of 90 degrees
  c.consistent = True  # True: one draw per clip; False: one per frame
  # Subtracted after augmentation, from values in [0, 1]: one number per channel, or one for all.
  c.mean = (0.0, 0.0, 0.0)
  c.std = (1.0, 1.0, 1.0)  # then divided by this
  return c


def encoder() -> ConfigDict:
  """Fields of `config.encoder`."""
  c = ConfigDict()
  c.name = "r3d"  # r3d | slow | c2d | slowfast | r2plus1d | r3d_torchvision | s3dg | vit
  # Layers; r3d, slow, c2d, slowfast: 50 | 18 | 101 | 152; r2plus1d: 18. 0: the first. vit: any
  # number of blocks; 0: that of its size.
  c.depth = 0
  c.width = 1.0  # multiplies the channels; with 0.25 the network starts with 16 channels
  c.dtype = "bfloat16"  # type of computations; parameters, statistics and losses stay float32
  # Type in which devices add up the gradients of weights, also of the head's: float32 | bfloat16,
  # which halves what they exchange. Without effect where `dtype` is float32. On NVIDIA GPUs,
  # those of convolutions over several pixels are added in `dtype` either way.
  c.reduce_dtype = "float32"
  c.bn_momentum = 0.9  # running statistics: new = momentum · old + (1 − momentum) · batch
  c.bn_epsilon = 1e-5
  c.bn_groups = 1  # batch statistics; 1: over the global batch; G: over each of G equal groups
  c.remat = False  # True: recompute blocks in the backward pass, to save memory
  c.temporal = True  # r3d, slow: False sets all temporal kernels to 1, for single frames
  # temporal = False: how probes use the network on clips: True repeats its kernels in time
  # (inflates it) | False averages its features of the frames.
  c.inflate = True
  c.conv = "auto"  # how 3-D convolutions are computed, see vssl_jax/models/layers/conv.py
  c.alpha = 4  # slowfast: frames of the fast pathway (and of the clip) per frame of the slow one
  c.beta = 8  # slowfast: channels of the slow pathway per channel of the fast one
  c.lateral = 7  # slowfast: temporal kernel size of the lateral connections; 5 in the paper
  # slowfast: True spreads the slow pathway's frames evenly from the clip's first to its last frame
  # (as PySlowFast does); False takes every alpha-th frame.
  c.slow_to_last = False
  c.time_pool = 1  # slow, c2d: frames max-pooled into one after res2; 2 in PySlowFast's C2D
  c.gating = True  # s3dg: False makes it an S3D
  c.size = "B"  # vit: S | B | L | H | g
  c.tubelet = (2, 16, 16)  # vit: frames, rows and columns per token
  c.heads = 0  # vit: attention heads; 0: those of its size
  c.mlp = 0.0  # vit: channels inside an MLP per channel outside; 0: that of its size, 4 (g: 48/11)
  # vit: sine, added to the tokens as in VideoMAE | rotary, in time, rows and columns as in V-JEPA 2
  c.positions = "sine"
  # vit, sine: tokens in time, rows and columns of the clips of training, from whose positions those
  # of other clips are interpolated. (): positions of the clip itself, and all clips have one size.
  c.grid = ()
  c.qkv_bias = "qv"  # vit: what of queries, keys and values has a bias: qv | qkv | none
  # vit: last norm: of the tokens, which are then averaged | of their mean | none
  c.final_norm = "tokens"
  c.norm_epsilon = 1e-6  # vit: epsilon of the norms
  c.final_epsilon = 0.0  # vit: epsilon of the last norm; 0: norm_epsilon
  return c


def head() -> ConfigDict:
  """Fields of `config.head`, the projection head."""
  c = ConfigDict()
  c.hidden = (2048, 2048, 2048)  # widths of the hidden layers
  c.out = 128  # dimension of the embedding
  c.bn = True  # batch norm after each hidden layer
  c.out_bn = False  # batch norm of the embedding, without scale or bias
  c.bn_momentum = 0.997  # see config.encoder.bn_momentum
  c.bn_groups = 1  # see config.encoder.bn_groups
  # Initial weights of its layers, also of a predictor's; biases are 0. glorot: Glorot uniform, as
  # in TF | c2_xavier: U(±sqrt(3 / inputs)), as in PySlowFast.
  c.init = "glorot"
  return c


def optim() -> ConfigDict:
  """Fields of `config.optim`: optimizer and learning rate."""
  c = ConfigDict()
  c.name = "sgd"  # sgd | lars | adamw | adam (adds weight decay to the gradient)
  c.lr = 0.32  # peak learning rate for a batch of `lr_batch` videos
  c.lr_batch = 1024  # the learning rate is multiplied by batch_size / lr_batch
  c.momentum = 0.9
  c.nesterov = False
  c.weight_decay = 1e-6  # on kernels; with lars on all tensors of two or more axes
  c.decay_bias = False  # sgd, adamw: weight decay on the biases of layers too, as PySlowFast's SGD
  c.warmup_epochs = 5.0  # linear warm-up
  c.warmup_lr = 0.0  # learning rate of the first update, for a batch of `lr_batch` videos
  c.final_lr = 0.0  # learning rate at the end of the cosine, as a share of the peak
  # cosine: half a cosine over the run | steps: constant between the epochs of `lr_steps`
  c.schedule = "cosine"
  c.lr_steps = ()  # steps: epochs at which the learning rate changes, increasing
  # steps: learning rates from these epochs on, as shares of the peak; (): 0.1, 0.01, ...
  c.lr_shares = ()
  c.clip_norm = 0.0  # largest global norm of the gradient; 0: no clipping
  c.layer_decay = 1.0  # each layer of the encoder has this times the learning rate of the next one
  return c


def shared() -> ConfigDict:
  """The fields that all methods share, with their defaults (CVRL's published recipe).

  `vssl_jax.methods.base_config` adds the fields of one method.

  Returns:
    An unlocked config.
  """
  c = ConfigDict()
  c.name = ""  # name of the config, used for the default workdir
  c.job = "pretrain"  # pretrain | linear_probe
  c.method = ""  # name of a module in vssl_jax/methods; its own fields are config.<method>
  c.seed = 0
  c.batch_size = 1024  # videos per step, over all devices
  c.epochs = 200.0
  c.steps = 0  # number of steps; if positive, used instead of `epochs`
  c.steps_per_epoch = 0  # filled in from the data
  c.accumulate = 1  # micro-batches per step
  c.data = data()
  c.augment = augment()
  c.encoder = encoder()
  c.head = head()
  c.optim = optim()

  c.checkpoint = ""  # folder of a run or of an exported encoder, to probe or fine-tune
  c.log_every = 50  # steps between two lines of the log
  c.save = ConfigDict()
  c.save.every = 1000  # steps between checkpoints; 0: only at the end
  c.save.keep = 2  # number of newest checkpoints to keep
  c.save.best = ""  # logged metric; the checkpoint with its best value is kept too; "": none
  # Which value is the best: the smallest (min), the largest (max), or "" by the metric's name: the
  # largest of accuracies (top1, accuracy, mAP, recall, R@1, ...), else the smallest, as of a loss.
  c.save.best_mode = ""

  # Nearest neighbors: in evaluation, and during training, see vssl_jax/evaluation/monitor.py.
  c.knn = ConfigDict()
  c.knn.every_epochs = 0.0  # epochs between evaluations during training; 0: never
  c.knn.k = 200  # number of neighbors that vote, at most the size of the training split
  # At most as many as the smallest class of the training split has: more are votes for large ones.
  c.knn.bound = True
  c.knn.temperature = 0.07  # T in the weights of the votes, exp(cosine / T)
  c.knn.clips = 1  # during training: clips per video, evenly spaced
  c.knn.held_out = 0.2  # during training: share of the training videos used as queries

  c.probe = ConfigDict()  # probes at the end of pre-training, and job = linear_probe
  c.probe.run = False  # run the probes at the end of pre-training
  c.probe.random_init = True  # also probe the same encoder with random weights, to compare
  c.probe.calibrate = 16  # training batches used to set batch statistics of the random encoder
  c.probe.linear = True  # CVRL's linear probe
  c.probe.quick = True  # logistic regression, nearest neighbors and retrieval
  c.probe.protocols = ()  # further protocols, by their names in vssl_jax/evaluation/protocols.py
  c.probe.baselines = False  # logistic regression on raw pixels and mean colors, to compare
  # The linear probe:
  c.probe.epochs = 100.0
  c.probe.batch_size = 1024  # videos per step
  c.probe.lr = 32.0  # learning rate for a batch of 1024 videos
  c.probe.normalize = True  # L2-normalize the features
  c.probe.momentum = 0.9
  c.probe.nesterov = False
  c.probe.weight_decay = 0.0
  c.probe.warmup_epochs = 5.0
  c.probe.clips = 1  # clips per video in each step; more clips need fewer reads of videos
  # Probability of a mirrored clip, also in fine-tuning; −1: 0.5, or 0 where augment.flip is 0.
  c.probe.flip = -1.0
  c.probe.crop_area = (0.3, 1.0)
  c.probe.crop_aspect = (0.5, 2.0)
  c.probe.crop_short = (0.0, 0.0)
  c.probe.frames = 32
  c.probe.stride = 2
  c.probe.size = 224

  c.distributed = distributed()
  return c


def distributed() -> ConfigDict:
  """Fields of `config.distributed`: several processes."""
  c = ConfigDict()
  c.coordinator = ""  # host:port of process 0; "auto" on a TPU pod or SLURM; "": alone
  c.processes = 1  # number of processes
  c.index = 0  # index of this process, from 0
  # Seconds of silence after which another process counts as gone, and the run ends; 0: never.
  c.timeout = 30.0
  return c


def total_steps(config: ConfigDict, steps_per_epoch: int) -> int:
  """Number of steps of the run: `config.steps`, or else those of `config.epochs` epochs.

  Raises:
    UserError: both are 0 or less.
  """
  steps = config.steps or round(config.epochs * steps_per_epoch)
  if steps <= 0:
    raise UserError(f"config.epochs is {config.epochs}: it must be positive (or set config.steps).")
  return steps


def probe_flip(config: ConfigDict) -> float:
  """The probability of a mirrored clip where a classifier learns on an encoder.

  Args:
    config: `probe.flip` and `augment.flip` are read.

  Raises:
    UserError: `probe.flip` is neither −1 nor a probability.
  """
  flip = config.probe.flip
  if flip == -1:
    return 0.5 if config.augment.flip else 0.0
  if not 0 <= flip <= 1:
    raise UserError(f"config.probe.flip is {flip}: it must be in [0, 1], or -1 for the default")
  return float(flip)


def linear_probe(name: str) -> dict[str, Any]:
  """The settings of a published linear probe, as fields of `config.probe`.

  Args:
    name: a key of `LINEAR_PROBES`.
  """
  probe = shared().probe
  fields = (
    "normalize",
    "lr",
    "batch_size",
    "epochs",
    "warmup_epochs",
    "weight_decay",
    "momentum",
    "nesterov",
    "crop_area",
    "crop_aspect",
    "crop_short",
    "clips",
  )
  return {field: probe[field] for field in fields} | LINEAR_PROBES[name]


def without_code(config: ConfigDict) -> bool:
  """Empties what names code, or a folder to write to; for a config that comes from a file.

  `data.name` is a "module:function" for DMVR, and "namespace:name" makes TFDS fetch and run a
  stranger's program; `data.videos.cache` and `data.cache_folder` are folders that are written to,
  and `data.cache` fills memory. A checkpoint or card may be a stranger's too: only the flags, or
  the config file, of the user name these.

  Args:
    config: a config that was read from a run or a card; changed in place.

  Returns:
    Whether it named code.
  """
  data = config.get("data")
  videos = data.get("videos") if isinstance(data, ConfigDict) else None
  if isinstance(videos, ConfigDict) and videos.get("cache"):
    with videos.unlocked():
      videos.cache = ""
  if isinstance(data, ConfigDict):
    with data.unlocked():
      data.update({k: "" for k in ("cache", "cache_folder") if data.get(k)})
  name = data.get("name") if isinstance(data, ConfigDict) else ""
  if not name or (data.get("source") != "dmvr" and not _NAMESPACE.search(str(name))):
    return False
  with data.unlocked():
    data.name = ""
  return True


def rename_fields(config: ConfigDict) -> list[str]:
  """Renames fields with old names (see `RENAMED`) to their present names, in place.

  Args:
    config: a config of this or an older version; it may be locked.

  Returns:
    The old names that were found.
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


def from_json(values: Any, file: object) -> ConfigDict:
  """The config that a JSON file holds; its lists become tuples, which JSON does not have.

  Args:
    values: what was read from the file.
    file: the file, for the message.

  Raises:
    UserError: the values are no config.
  """
  try:
    return ConfigDict(_tuples(values))
  except Exception as e:  # names that ml_collections reserves, or that are no text
    raise UserError(
      f"{file}: damaged, its config cannot be read ({brief(e)[:200]}); restore it."
    ) from None


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def to_json(config: ConfigDict) -> str:
  """The config as readable JSON; equal configs give equal text."""
  return json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True, ensure_ascii=False)


__getattr__ = former.names(__name__)
