"""Networks of PySlowFast, torchvision and TF Garden with random weights, and what each stage gives.

What needs the originals is imported inside functions: `weights_test.py` reads the numbers that
`make_weights.py` wrote with them, and runs beside them where they are installed.

All arrays are drawn from their own names (`draw`), batch statistics among them, so that no norm is
the identity and a test can draw them again. Clips are `clips`, normalized as the network expects.
"""

import math
import pathlib
import sys
import types
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent


def draw(name, shape):
  """The tensor called `name` in the original, float32 (counters: int64)."""
  shape = tuple(shape)
  # Streams of RandomState are frozen for good, unlike default_rng's.
  rng = np.random.RandomState(zlib.crc32(name.encode()))
  leaf = name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").replace("/", ".").rsplit(".", 1)[-1]
  if leaf == "ptr":
    return np.array([5], np.int64)
  if leaf in ("num_batches_tracked", "iter", "global_step", "save_counter"):
    return np.full(shape, 7, np.int64)
  if leaf == "queue_x":
    x = rng.standard_normal(shape)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
  if leaf in ("running_var", "moving_variance", "gamma") or (leaf == "weight" and len(shape) == 1):
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)
  if len(shape) < 2:  # biases and means
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)
  fan_in = math.prod(shape[:-1] if leaf == "kernel" else shape[1:])
  return (rng.standard_normal(shape) * (1.5 / fan_in) ** 0.5).astype(np.float32)


def clips(n, t, size):
  """Clips `[n, t, size, size, 3]` in [-1, 1)."""
  return np.random.RandomState(0).uniform(-1, 1, (n, t, size, size, 3)).astype(np.float32)


def digest(y):
  """What of a stage's output `[N, ..., C]` is kept: shape, scale, first numbers, a sum that knows
  every place."""
  y = np.asarray(y, np.float64)
  flat = y.reshape(-1)
  numbers = [*flat[:3], flat[-1], flat.mean(), flat.std(), flat @ np.cos(np.arange(flat.size))]
  return {
    "shape": list(y.shape),
    "max": _short(np.abs(flat).max()),
    "numbers": [_short(x) for x in numbers],
  }


def _short(x):
  return float(f"{x:.8g}")


# --- Originals in PyTorch -------------------------------------------------------------------------


def fill(model):
  """Draws every tensor of a PyTorch model; its state dict as NumPy."""
  import torch

  state = {k: torch.from_numpy(draw(k, v.shape)) for k, v in model.state_dict().items()}
  model.load_state_dict(state)
  model.eval()
  return {k: v.numpy() for k, v in state.items()}


def watch(model, names):
  """Collects outputs of modules, channels last, under the names of ours."""
  seen = {}

  def keep(ours):
    def hook(module, args, y):
      y = y.detach().numpy().copy()  # the ReLU after it may work in place
      seen[ours] = np.moveaxis(y, 1, -1) if y.ndim > 2 else y

    return hook

  for ours, theirs in names.items():
    model.get_submodule(theirs).register_forward_hook(keep(ours))
  return seen


def torch_clips(x):
  import torch

  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def torchvision(name):
  """`(state dict, outputs by our stage, clips)` of one of torchvision's video or image networks."""
  import torch
  import torchvision.models

  torch.set_grad_enabled(False)
  blocks = {f"res{s + 1}_{i}": f"layer{s}.{i}" for s in range(1, 5) for i in range(2)}
  if name == "resnet18":
    model, x = torchvision.models.resnet18(), clips(2, 1, 32)
    stages = {"stem_norm": "bn1", **blocks, "": "avgpool"}
  elif name == "s3d":
    from torchvision.models.video import s3d

    model, x = s3d(), clips(1, 8, 32)
    numbers = {"3b": 5, "3c": 6, "4b": 8, "4c": 9, "4d": 10, "4e": 11, "4f": 12, "5b": 14, "5c": 15}
    stages = {"conv_1a": "features.0", "conv_2b": "features.2", "conv_2c": "features.3"}
    stages |= {f"mixed_{k}": f"features.{v}" for k, v in numbers.items()}
    model.avgpool, model.classifier = torch.nn.AdaptiveAvgPool3d(1), torch.nn.Identity()
    stages[""] = "avgpool"
  else:
    from torchvision.models import video

    model, x = getattr(video, name)(), clips(1, 5, 36)
    stem = {"stem_norm": "stem.4" if name == "r2plus1d_18" else "stem.1"}
    stages = {**stem, **blocks, "": "avgpool"}
  state = fill(model)
  if name == "s3d":  # its classifier is left out here, as anywhere
    state |= {
      "classifier.1.weight": draw("classifier.1.weight", (4, 1024, 1, 1, 1)),
      "classifier.1.bias": draw("classifier.1.bias", (4,)),
    }
  seen = watch(model, stages)
  model(torch_clips(x)[:, :, 0] if name == "resnet18" else torch_clips(x))
  if name == "resnet18":
    seen = {k: y[:, None] for k, y in seen.items()}
  seen[""] = seen[""].reshape(len(x), -1)
  return state, seen, x


# --- PySlowFast -----------------------------------------------------------------------------------


class Node(types.SimpleNamespace):
  """Attributes by name, as their config has."""


def node(values):
  return Node(**{k: node(v) if isinstance(v, dict) else v for k, v in values.items()})


def _stub(name, path=None, **contents):
  module = types.ModuleType(name)
  module.__dict__.update(contents)
  if path is not None:
    module.__path__ = [str(path)]
  sys.modules[name] = module


def load_pyslowfast(root):
  """Imports PySlowFast's networks, heads and contrastive model, with stubs for the rest.

  Args:
    root: the folder `slowfast` of a checkout of github.com/facebookresearch/SlowFast.
  """
  import torch

  root = pathlib.Path(root)
  logger = types.SimpleNamespace(info=lambda *_: None, error=lambda *_: None)
  _stub("slowfast", root)
  _stub("slowfast.models", root / "models")
  _stub("slowfast.utils", root / "utils")
  _stub("slowfast.utils.logging", get_logger=lambda _: logger)
  _stub(
    "slowfast.utils.distributed",
    get_world_size=lambda: 1,
    get_local_size=lambda: 1,
    get_rank=lambda: 0,
    get_local_rank=lambda: 0,
  )
  _stub("slowfast.utils.weight_init_helper", init_weights=lambda *_: None)
  _stub("slowfast.models.build", MODEL_REGISTRY=Node(register=lambda: lambda cls: cls))
  _stub("slowfast.models.reversible_mvit", ReversibleMViT=None)
  for name in ("pytorchvideo", "pytorchvideo.layers", "pytorchvideo.losses", "detectron2"):
    _stub(name, "")
  _stub("pytorchvideo.layers.batch_norm", NaiveSyncBatchNorm1d=None, NaiveSyncBatchNorm3d=None)
  _stub("pytorchvideo.layers.swish", Swish=None)
  _stub("pytorchvideo.losses.soft_target_cross_entropy", SoftTargetCrossEntropyLoss=dict)
  _stub("detectron2.layers", ROIAlign=None)
  torch.nn.Module.cuda = lambda self, *_, **__: self
  torch.Tensor.cuda = lambda self, *_, **__: self
  from slowfast.models import contrastive, video_model_builder

  video_model_builder._MODEL_STAGE_DEPTH[14] = BLOCKS[14]
  return contrastive, video_model_builder


# Depth 14, a block a stage, is not theirs: `load_pyslowfast` adds it to their table.
BLOCKS = {50: (3, 4, 6, 3), 14: (1, 1, 1, 1)}


def pyslowfast_cfg(arch, depth, kind="", bn=True):
  """The fields that their code reads, networks an eighth as wide."""
  paths = 2 if arch == "slowfast" else 1
  blocks = BLOCKS[depth]
  layers = {"moco": 3, "byol": 2, "simclr": 3, "swav": 3}.get(kind, 1)
  return {
    "MODEL": {
      "ARCH": arch,
      "NUM_CLASSES": 6 if kind else 4,
      "DROPOUT_RATE": 0.0,
      "MODEL_NAME": "ContrastiveModel" if kind else "ResNet",
      "HEAD_ACT": "none",
      "LOSS_FUNC": "contrastive_loss",
      "DETACH_FINAL_FC": False,
      "FC_INIT_STD": 0.01,
      "ACT_CHECKPOINT": False,
    },
    "RESNET": {
      "DEPTH": depth,
      "WIDTH_PER_GROUP": 8,
      "NUM_GROUPS": 1,
      "STRIDE_1X1": False,
      "TRANS_FUNC": "bottleneck_transform",
      "INPLACE_RELU": True,
      "ZERO_INIT_FINAL_BN": False,
      "ZERO_INIT_FINAL_CONV": False,
      "NUM_BLOCK_TEMP_KERNEL": [[n] * paths for n in blocks],
      "SPATIAL_STRIDES": [[s] * paths for s in (1, 2, 2, 2)],
      "SPATIAL_DILATIONS": [[1] * paths] * 4,
    },
    "NONLOCAL": {
      "LOCATION": [[[]] * paths] * 4,
      "GROUP": [[1] * paths] * 4,
      "POOL": [[[[1, 2, 2]] * 2] * paths] * 4,
      "INSTANTIATION": "dot_product",
    },
    "SLOWFAST": {"ALPHA": 4, "BETA_INV": 8, "FUSION_KERNEL_SZ": 7, "FUSION_CONV_CHANNEL_RATIO": 2},
    "DATA": {
      "INPUT_CHANNEL_NUM": [3] * paths,
      "NUM_FRAMES": 8,
      "SAMPLING_RATE": 4,
      "TRAIN_CROP_SIZE": 40,
      "TEST_CROP_SIZE": 48,
      "MEAN": [0.45, 0.4, 0.35],
      "STD": [0.225, 0.25, 0.2],
      "REVERSE_INPUT_CHANNEL": arch == "c2d",
      "TRAIN_CROP_NUM_TEMPORAL": 2,
      "TRAIN_CROP_NUM_SPATIAL": 1,
    },
    "CONTRASTIVE": {
      "TYPE": kind,
      "T": 0.2,
      "DIM": 6,
      "LENGTH": 8,
      "QUEUE_LEN": 24,
      "MOMENTUM": 0.98,
      "MOMENTUM_ANNEALING": True,
      "KNN_ON": False,
      "NUM_MLP_LAYERS": layers,
      "MLP_DIM": 10,
      "BN_MLP": bn,
      "BN_SYNC_MLP": False,
      "PREDICTOR_DEPTHS": [2] if kind == "byol" else [],
      "SWAV_QEUE_LEN": 12,
      "MOCO_MULTI_VIEW_QUEUE": True,
      "SEQUENTIAL": False,
      "SIMCLR_DIST_ON": False,
    },
    "BN": {"NORM_TYPE": "batchnorm", "NUM_SYNC_DEVICES": 1, "GLOBAL_SYNC": False},
    "SOLVER": {
      "LARS_ON": kind not in ("", "moco"),
      "OPTIMIZING_METHOD": "sgd",
      "BASE_LR": 0.6,
      "MAX_EPOCH": 200,
    },
    "DETECTION": {"ENABLE": False},
    "MULTIGRID": {"SHORT_CYCLE": True},
    "TASK": "",
    "TRAIN": {"BATCH_SIZE": 8},
    "NUM_GPUS": 1,
    "NUM_SHARDS": 1,
  }


def dump(cfg):
  """Their config as the text that their checkpoints hold."""
  import yaml

  return yaml.safe_dump(cfg)


PYSLOWFAST = {  # case: arguments of pyslowfast_cfg
  "slow": ("slow", 50),
  "c2d": ("c2d", 14),
  "slow_c2d": ("slow_c2d", 14),
  "slowfast": ("slowfast", 14),
  "moco": ("slow", 14, "moco", False),
  "byol": ("slow", 14, "byol"),
  "simclr": ("slow", 14, "simclr"),
  "swav": ("slow", 14, "swav"),
}


def pyslowfast_model(modules, case):
  """One of their networks or contrastive models, and its config."""
  contrastive, builder = modules
  values = pyslowfast_cfg(*PYSLOWFAST[case])
  cfg = node(values)
  if cfg.CONTRASTIVE.TYPE:
    return contrastive.ContrastiveModel(cfg), values
  return (builder.SlowFast if case == "slowfast" else builder.ResNet)(cfg), values


def pyslowfast(modules, case):
  """`(state dict, outputs by our stage, clips, cfg)`."""
  import torch

  torch.set_grad_enabled(False)
  model, cfg = pyslowfast_model(modules, case)
  state = fill(model)
  seen, x = pyslowfast_run(model, case)
  return state, seen, x, cfg


def pyslowfast_run(model, case):
  """Outputs of each block, the heads and the momentum encoder's, by our names, and the clips."""
  import torch

  frames, size = (16, 36) if case == "slowfast" else (5, 36)
  x, blocks = clips(2, frames, size), BLOCKS[PYSLOWFAST[case][1]]
  net = getattr(model, "backbone", model)
  stages = {}
  for p, ours in enumerate(("slow_", "fast_") if case == "slowfast" else ("",)):
    stages[f"{ours}stem_norm"] = f"s1.pathway{p}_stem.bn"
    for s, count in enumerate(blocks, 2):
      for i in range(count):
        stages[f"{ours}res{s}_{i}"] = f"s{s}.pathway{p}_res{i}"
  if case == "slowfast":
    for s, ours in enumerate(("stem", "res2", "res3", "res4"), 1):
      stages[f"{ours}_lateral_norm"] = f"s{s}_fuse.bn"
  seen = watch(net, stages)
  pools = [f"head.pathway{p}_avgpool" for p in range(2 if case == "slowfast" else 1)]
  features = watch(net, {name: name for name in pools})
  fast = torch_clips(x)
  if case == "c2d":  # whose config asks for BGR
    fast = fast[:, [2, 1, 0]]
  index = torch.linspace(0, frames - 1, frames // 4).long()
  y = net([fast[:, :, index], fast] if case == "slowfast" else [fast])
  seen[""] = np.concatenate([features[name].reshape(len(x), -1) for name in pools], 1)
  if hasattr(model, "backbone"):
    y = y if isinstance(y, list) else [y]
    seen |= dict(zip(("head", "predictor"), (z.numpy() for z in y), strict=False))
  if hasattr(model, "backbone_hist"):
    y = model.backbone_hist([fast])
    seen["target"] = (y[0] if isinstance(y, list) else y).numpy()
  return seen, x


# --- TF Garden ------------------------------------------------------------------------------------


def tf_garden(folder):
  """`(variables by name, outputs by our stage, clips)` of a ResNet3D-50 an eighth as wide with
  CVRL's head, written as a checkpoint to `folder` by the trainer's own line."""
  import tensorflow as tf
  import tf_keras
  from official.projects.video_ssl.modeling import video_ssl_model
  from official.vision.modeling.backbones import resnet_3d

  real, eighth = resnet_3d.layers, 8

  class Narrow:  # the stem's 64 channels stand in their code
    def __getattr__(self, name):
      return getattr(real, name)

    def Conv3D(self, filters, **kwargs):
      return real.Conv3D(filters=filters // eighth, **kwargs)

  resnet_3d.layers = Narrow()
  counts = (3, 4, 6, 3)
  resnet_3d.RESNET_SPECS[50] = [
    ("bottleneck3d", 64 // eighth * 2**i, n) for i, n in enumerate(counts)
  ]
  spec = real.InputSpec(shape=[None, None, None, None, 3])
  backbone = resnet_3d.ResNet3D(
    50,
    [1] * 4,
    [(t,) * n for t, n in zip((1, 1, 3, 3), counts, strict=True)],
    input_specs=spec,
    stem_conv_temporal_kernel_size=5,
    stem_conv_temporal_stride=2,
    stem_pool_temporal_stride=1,
    norm_momentum=0.9,
    norm_epsilon=1e-5,
    use_sync_bn=True,
  )
  norm = Node(use_sync_bn=True, norm_momentum=0.997, norm_epsilon=1e-5, activation="relu")
  model = video_ssl_model.VideoSSLModel(
    backbone, False, 16, 3, norm, 8, input_specs={"image": spec}
  )
  optimizer = tf_keras.optimizers.legacy.SGD(0.1, momentum=0.9)

  def save():
    return tf.train.Checkpoint(
      global_step=optimizer.iterations, model=model, optimizer=optimizer, **model.checkpoint_items
    ).save(f"{folder}/ckpt")

  # The names are the file's: drawn values go in by writing, reading the names, and matching shapes
  # in the order of the graph.
  reader = tf.train.load_checkpoint(save())
  wanted = {
    k: draw(k, s)
    for k, s in reader.get_variable_to_shape_map().items()
    if "layer_with_weights" in k and "OPTIMIZER" not in k
  }
  _assign(model, backbone, wanted)
  path = save()
  reader = tf.train.load_checkpoint(path)
  state = {
    k: reader.get_tensor(k)
    for k in reader.get_variable_to_shape_map()
    if k != "_CHECKPOINTABLE_OBJECT_GRAPH"
  }
  for k, v in wanted.items():
    np.testing.assert_array_equal(state[k], v)
  x = clips(1, 8, 36)
  layers = [layer for layer in backbone.layers if layer.weights]
  names = ["stem_conv", "stem_norm"]
  names += [f"res{s}_{i}" for s, n in enumerate(counts, 2) for i in range(n)]
  watched = tf_keras.Model(backbone.inputs, [layer.output for layer in layers])
  seen = dict(zip(names, (y.numpy() for y in watched(x, training=False)), strict=True))
  del seen["stem_conv"]
  seen[""] = backbone(x, training=False)["5"].numpy().mean((1, 2, 3))
  seen["head"] = model(x, training=False).numpy()
  return state, seen, x


def _assign(model, backbone, wanted):
  """Puts drawn values into the variables whose place in the object graph their names tell."""
  suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
  for name, value in wanted.items():
    root, layer, *rest = name.removesuffix(suffix).split("/")
    net = backbone if root == "backbone" else model
    node = getattr(net, layer, None) or dict(net._trackable_children())[layer]
    for part in rest:
      node = getattr(node, part)
    node.assign(value)
