"""Runs PySlowFast's own contrastive code on small tensors and writes down what it computes.

  python tests/oracles/make_pyslowfast.py path/to/SlowFast > tests/oracles/pyslowfast.json

`path/to/SlowFast` is a checkout of github.com/facebookresearch/SlowFast at commit COMMIT; PyTorch
must be there, nothing else that it imports: this script puts empty modules in the place of its
distributed and model-zoo imports. It runs in float64 on the CPU in one process. What is theirs:
`ContrastiveModel` (losses, queue, momentum encoder, Sinkhorn), `contrastive_forward`,
`contrastive_parameter_surgery`, `construct_optimizer` with its LARS, the learning-rate policy and
`MLPHead`. What is ours: the tiny backbone, the values of all tensors (`wave` below) and the loop
around them, which calls theirs in the order of their `train_epoch`.

All inputs are formulas, so that a test rebuilds them in NumPy: see `wave`, `clips` and the shapes
in `tests/oracles/pyslowfast.py`.
"""

import json
import pathlib
import sys
import types

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import pyslowfast as inputs

COMMIT = "287ec0076846560f44a9327e931a5a2360240533"


def stub(name, path=None, **contents):
  module = types.ModuleType(name)
  module.__dict__.update(contents)
  if path is not None:
    module.__path__ = [str(path)]
  sys.modules[name] = module


class Registry:
  def register(self):
    return lambda cls: cls


def load(root):
  """Imports their files, with stubs for what those import and these runs never call."""
  root = pathlib.Path(root) / "slowfast"
  logger = types.SimpleNamespace(info=lambda *_: None, error=lambda *_: None)
  stub("slowfast", root)
  stub("slowfast.models", root / "models")
  stub("slowfast.utils", root / "utils")
  stub("slowfast.utils.logging", get_logger=lambda _: logger)
  stub(
    "slowfast.utils.distributed",
    get_world_size=lambda: 1,
    get_local_size=lambda: 1,
    get_rank=lambda: 0,
    get_local_rank=lambda: 0,
  )
  builders = dict.fromkeys(("MViT", "ResNet", "SlowFast", "X3D"), Backbone)
  stub("slowfast.models.video_model_builder", **builders)
  stub("slowfast.models.build", MODEL_REGISTRY=Registry())
  stub("slowfast.models.attention", MultiScaleBlock=None)
  stub("slowfast.models.batchnorm_helper", NaiveSyncBatchNorm1d=None)
  for name in ("pytorchvideo", "pytorchvideo.losses", "detectron2"):
    stub(name, "")
  stub("pytorchvideo.losses.soft_target_cross_entropy", SoftTargetCrossEntropyLoss=dict)
  stub("detectron2.layers", ROIAlign=None)
  torch.Tensor.cuda = lambda self, *_, **__: self
  nn.Module.cuda = lambda self, *_, **__: self
  torch.set_default_dtype(torch.float64)
  from slowfast.models import contrastive, head_helper, optimizer

  return contrastive, head_helper, optimizer


class Node(types.SimpleNamespace):
  """Attributes by name, as their config has."""


def config(method, **values):
  """The fields that their code reads, at their defaults but for `values`."""
  contrastive = dict(
    TYPE=method,
    T=0.5 if method == "byol" else 0.1,
    DIM=inputs.DIM,
    LENGTH=8,
    QUEUE_LEN=inputs.QUEUE,
    MOMENTUM=inputs.MOMENTUM,
    MOMENTUM_ANNEALING=True,
    KNN_ON=False,
    MEM_TYPE="1d",
    INTERP_MEMORY=False,
    SIMCLR_DIST_ON=False,
    SEQUENTIAL=False,
    MOCO_MULTI_VIEW_QUEUE=True,
    SWAV_QEUE_LEN=0,
    LOCAL_SHUFFLE_BN=True,
  )
  solver = dict(
    MAX_EPOCH=inputs.EPOCHS,
    LAYER_DECAY=1.0,
    ZERO_WD_1D_PARAM=False,
    OPTIMIZING_METHOD="sgd",
    BASE_LR=inputs.LR[method],
    MOMENTUM=0.9,
    DAMPENING=0.0,
    NESTEROV=True,
    LR_POLICY="cosine",
    WEIGHT_DECAY=inputs.WEIGHT_DECAY,
    LARS_ON=method != "moco",
    COSINE_END_LR=0.0,
    WARMUP_EPOCHS=inputs.WARMUP_EPOCHS,
    WARMUP_START_LR=inputs.WARMUP_LR,
    COSINE_AFTER_WARMUP=False,
  )
  for section in (contrastive, solver):
    section.update({k: v for k, v in values.items() if k in section})
  return Node(
    CONTRASTIVE=Node(**contrastive),
    SOLVER=Node(**solver),
    MODEL=Node(ARCH="slow", LOSS_FUNC="contrastive_loss", MODEL_NAME="ContrastiveModel"),
    DATA=Node(TRAIN_CROP_NUM_TEMPORAL=2, TRAIN_CROP_NUM_SPATIAL=1),
    BN=Node(NORM_TYPE="batchnorm", NUM_SYNC_DEVICES=1, WEIGHT_DECAY=0.0),
    TRAIN=Node(BATCH_SIZE=inputs.VIDEOS),
    NUM_GPUS=1,
    NUM_SHARDS=1,
  )


class Backbone(nn.Module):
  """Stands where their network stands; `forward` is set by each experiment."""

  def __init__(self, cfg):
    super().__init__()

  def forward(self, clip):
    return clip[0]


class Scaler:
  def scale(self, x):
    return x


def tensor(x):
  return torch.tensor(np.asarray(x, np.float64))


def numbers(x):
  """Nested lists of nine significant digits."""
  if isinstance(x, dict):
    return {k: numbers(v) for k, v in x.items()}
  if isinstance(x, torch.Tensor):
    x = x.detach().numpy()
  round9 = np.vectorize(lambda v: float(f"{v:.9g}"), otypes=[float])
  return round9(np.asarray(x)).tolist()


# --- Losses and gradients by the embeddings -------------------------------------------------------


def turned(x):
  return x.T if x.ndim == 2 else x


def leaf(x):
  return tensor(x).requires_grad_()


def forward(contrastive, model, cfg, clips, epoch=20.0):
  """`contrastive_forward`, and the backward pass where it leaves that to the caller."""
  index, time = torch.arange(inputs.VIDEOS), torch.zeros(inputs.VIDEOS, len(clips), 1)
  *_, loss, pending = contrastive.contrastive_forward(
    model, cfg, clips, index, time, epoch, Scaler()
  )
  if pending:
    loss.backward()
  return loss.detach()


def moco(contrastive, rho, sequential):
  """Queries and keys are given: pathway 0 of a clip is its query, pathway 1 its key."""
  cfg = config("moco", SEQUENTIAL=sequential, MOMENTUM_ANNEALING=False)
  model = contrastive.ContrastiveModel(cfg).train()
  model.backbone_hist.forward = lambda clip: clip[1]
  model.queue_x.copy_(tensor(inputs.queue()))
  q = [leaf(x) for x in inputs.embeddings(rho)]
  clips = [[a, tensor(b)] for a, b in zip(q, inputs.keys(rho), strict=True)]
  loss = forward(contrastive, model, cfg, clips)
  # The sequential mode logs the sum over queries over 2ρ.
  return {
    "loss": numbers(loss * 2 * rho if sequential else loss),
    "gradients": [numbers(x.grad if x.grad is not None else 0 * x) for x in q],
    "queue": numbers(model.queue_x),
    "pointer": int(model.ptr),
  }


def simclr(contrastive, rho):
  cfg = config("simclr", SEQUENTIAL=rho > 2)
  model = contrastive.ContrastiveModel(cfg).train()
  z = [leaf(x) for x in inputs.embeddings(rho)]
  loss = forward(contrastive, model, cfg, [[x] for x in z])
  return {
    "loss": numbers(loss * 2 * rho if rho > 2 else loss),
    "gradients": [numbers(x.grad) for x in z],
  }


def byol(contrastive, rho, sequential):
  """Pathway 0 of a clip is its prediction, pathway 1 its projection by the target."""
  cfg = config("byol", SEQUENTIAL=sequential, MOMENTUM_ANNEALING=False)
  model = contrastive.ContrastiveModel(cfg).train()
  model.backbone.forward = lambda clip: [clip[0], clip[0]]
  model.backbone_hist.forward = lambda clip: clip[1]
  p = [leaf(x) for x in inputs.embeddings(rho)]
  clips = [[a, tensor(b)] for a, b in zip(p, inputs.keys(rho), strict=True)]
  loss = forward(contrastive, model, cfg, clips)
  return {
    "loss": numbers(loss * 2 * rho if sequential else loss),
    "gradients": [numbers(x.grad) for x in p],
  }


def swav(contrastive, rho, queue_len=0):
  cfg = config("swav", SWAV_QEUE_LEN=queue_len)
  model = contrastive.ContrastiveModel(cfg).train()
  model.swav_prototypes = nn.Linear(inputs.DIM, inputs.PROTOTYPES, bias=False)
  with torch.no_grad():
    model.swav_prototypes.weight.copy_(tensor(inputs.prototypes()))
    if queue_len:
      model.queue_swav.copy_(tensor(inputs.swav_queue(queue_len)))
  z = [leaf(x) for x in inputs.embeddings(rho)]
  loss = forward(contrastive, model, cfg, [[x] for x in z])
  result = {
    "loss": numbers(loss),
    "gradients": [numbers(x.grad) for x in z],
    "prototype_gradient": numbers(model.swav_prototypes.weight.grad),
  }
  return result | ({"queue": numbers(model.queue_swav)} if queue_len else {})


def codes(contrastive):
  model = contrastive.ContrastiveModel(config("swav"))
  return numbers(model.get_code(tensor(inputs.scores())))


# --- Whole updates --------------------------------------------------------------------------------


def dense(kernel, bias=None):
  layer = nn.Linear(*np.shape(kernel), bias=bias is not None)
  with torch.no_grad():
    layer.weight.copy_(tensor(kernel).T)
    if bias is not None:
      layer.bias.copy_(tensor(bias))
  return layer


def mlp(head_helper, params, bn):
  """Their `MLPHead` with our values."""
  wide, out = params["dense_0"]["kernel"], params["out"]["kernel"]
  head = head_helper.MLPHead(wide.shape[0], out.shape[1], wide.shape[1], 2, bn_on=bn)
  layers = [m for m in head.projection if not isinstance(m, nn.ReLU)]
  with torch.no_grad():
    for layer, values in zip(
      (layers[0], layers[-1]), (params["dense_0"], params["out"]), strict=True
    ):
      layer.weight.copy_(tensor(values["kernel"]).T)
      if layer.bias is not None:
        layer.bias.copy_(tensor(values["bias"]))
    if bn:
      layers[1].weight.copy_(tensor(params["norm_0"]["scale"]))
      layers[1].bias.copy_(tensor(params["norm_0"]["bias"]))
  return head


class Tiny(nn.Module):
  """Flatten → Linear → ReLU → their MLP head (→ their MLP head as predictor)."""

  def __init__(self, head_helper, params, bn):
    super().__init__()
    self.encoder = dense(params["encoder"]["kernel"])
    self.head = mlp(head_helper, params["head"], bn)
    self.predictor = mlp(head_helper, params["predictor"], bn) if "predictor" in params else None

  def forward(self, clip):
    z = self.head(torch.relu(self.encoder(clip[0].flatten(1))))
    return z if self.predictor is None else [z, self.predictor(z)]


def tree(net):
  """Its parameters by our names."""

  def head(module):
    layers = [m for m in module.projection if not isinstance(m, nn.ReLU)]
    names = ["dense_0", "norm_0", "out"] if len(layers) == 3 else ["dense_0", "out"]
    out = {}
    for name, layer in zip(names, layers, strict=True):
      weight = layer.weight if name == "norm_0" else layer.weight.T
      out[name] = {"scale" if name == "norm_0" else "kernel": weight}
      if layer.bias is not None:
        out[name]["bias"] = layer.bias
    return out

  out = {"encoder": {"kernel": net.encoder.weight.T}, "head": head(net.head)}
  return out | ({"predictor": head(net.predictor)} if net.predictor is not None else {})


def update(modules, method, rho):
  """`inputs.UPDATES` updates of a run of EPOCHS × STEPS, as their `train_epoch` makes them."""
  contrastive, head_helper, optimizer = modules
  cfg = config(
    method, SEQUENTIAL=method in ("moco", "byol") or (method, rho > 2) == ("simclr", True)
  )
  model = contrastive.ContrastiveModel(cfg)
  bn = method != "moco"
  model.backbone = Tiny(head_helper, inputs.parameters(method), bn)
  if hasattr(model, "backbone_hist"):
    model.backbone_hist = Tiny(head_helper, inputs.parameters(method), bn)
    model.backbone_hist.requires_grad_(False)
    model.queue_x.copy_(tensor(inputs.queue()))
  if method == "swav":
    model.swav_prototypes = dense(inputs.prototypes().T)
  # MoCo alone shuffles keys here, and without batch norm that changes nothing.
  model.train()
  tx, losses, rates = optimizer.construct_optimizer(model, cfg), [], []
  idle = inputs.QUEUE // inputs.VIDEOS  # their MoCo moves nothing before: its queue is full here
  for step in range(inputs.UPDATES):
    epoch = step / inputs.STEPS
    rates.append(optimizer.get_epoch_lr(epoch, cfg))
    optimizer.set_lr(tx, rates[-1])
    tx.zero_grad()
    clips = [[tensor(x)] for x in inputs.clips(rho, step) / 255]
    loss = forward(contrastive, model, cfg, clips, epoch)
    losses.append(loss * 2 * rho if cfg.CONTRASTIVE.SEQUENTIAL else loss)
    contrastive.contrastive_parameter_surgery(model, cfg, epoch, step + idle)
    tx.step()
  out = {"losses": losses, "rates": rates, "params": tree(model.backbone)}
  if hasattr(model, "backbone_hist"):
    # Theirs follows before the next step's keys. In the sequential mode that comes before the next
    # step's annealing, so that update u = 0, 1, … is followed with m(u); the parallel mode, which
    # anneals first, follows it with m(u + 1).
    model._update_history()
    target = tree(model.backbone_hist)
    out["target"] = {k: target[k] for k in ("encoder", "head")}
  if method == "moco":
    out |= {"queue": model.queue_x, "pointer": model.ptr[0]}
  if method == "swav":
    out["params"]["prototypes"] = {"kernel": model.swav_prototypes.weight.T}
  return numbers(out)


def optimize(optimizer, method):
  """Their optimizer alone: a convolution with bias, batch norm and a weight without gradient."""
  cfg = config(method)
  values = inputs.optimized()
  model = nn.Module()
  model.layer = dense(values["layer"]["kernel"], values["layer"]["bias"])
  model.norm = nn.BatchNorm1d(4)
  named = {
    ("layer", "kernel"): model.layer.weight,
    ("layer", "bias"): model.layer.bias,
    ("norm", "scale"): model.norm.weight,
    ("norm", "bias"): model.norm.bias,
  }
  with torch.no_grad():
    for (module, name), p in named.items():
      p.copy_(turned(tensor(values[module][name])))
  tx = optimizer.construct_optimizer(model, cfg)
  for step in range(3):
    optimizer.set_lr(tx, 0.3)
    for (module, name), p in named.items():
      p.grad = turned(tensor(inputs.gradient(step)[module][name])).clone()
    tx.step()
  out = {"layer": {}, "norm": {}}
  for (module, name), p in named.items():
    out[module][name] = turned(p)
  return numbers(out)


def main():
  if len(sys.argv) != 2:
    raise SystemExit("usage: make_pyslowfast.py path/to/SlowFast")
  modules = contrastive, _, optimizer = load(sys.argv[1])
  published = config("moco", MAX_EPOCH=200, WARMUP_EPOCHS=35.0, WARMUP_START_LR=0.008, BASE_LR=0.4)
  # Their optimizer prints a line of its own.
  out, sys.stdout = sys.stdout, sys.stderr
  result = {
    "commit": COMMIT,
    "moco_first_query": {rho: moco(contrastive, rho, False) for rho in (2, 3)},
    "moco": {rho: moco(contrastive, rho, True) for rho in (2, 3)},
    "simclr": {rho: simclr(contrastive, rho) for rho in (2, 3)},
    "byol_two_terms": byol(contrastive, 2, False),
    "byol": {rho: byol(contrastive, rho, True) for rho in (2, 3)},
    "swav": {rho: swav(contrastive, rho) for rho in (2, 3)},
    "swav_queue": swav(contrastive, 2, 16),
    "codes": codes(contrastive),
    "updates": {
      method: {rho: update(modules, method, rho) for rho in (2, 3)}
      for method in ("moco", "simclr", "byol", "swav")
    },
    "optimizer": {"sgd": optimize(optimizer, "moco"), "lars": optimize(optimizer, "byol")},
    "rates": {e: numbers(optimizer.get_epoch_lr(e, published)) for e in (0, 1, 20, 34.5, 35, 120)},
  }
  json.dump(result, out)
  out.write("\n")


if __name__ == "__main__":
  main()
