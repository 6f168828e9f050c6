"""Converts TF Garden's CVRL checkpoints: ResNet3D-50, -101, -152, and the projection head.

Names are those of the object graph that `tf.train.Checkpoint(model=..., backbone=...)` saves for
`official/projects/video_ssl` (github.com/tensorflow/models). Layers with weights are numbered in
the order in which they were built. In the backbone, 0 is the convolution of the stem, 1 its batch
norm, and the blocks follow. In the model, 0 is the backbone, and dense layers and batch norms
alternate after it. Clips are RGB in [0, 1]; no mean is subtracted.
"""

from __future__ import annotations

import pathlib
import re

import jax
from ml_collections import ConfigDict

from vssl_jax import methods
from vssl_jax.errors import UserError
from vssl_jax.methods import cvrl
from vssl_jax.models.r3d import DEPTHS
from vssl_jax.weights import converted
from vssl_jax.weights.converted import Converted
from vssl_jax.weights.table import KERAS, Ledger, Tensors

LAYER = "layer_with_weights-"
BLOCK = {  # our name -> their name (official/vision/modeling/layers/nn_blocks_3d.py)
  "conv_a": "_temporal_conv",
  "norm_a": "_norm1",
  "conv_b": "_spatial_conv",
  "norm_b": "_norm2",
  "conv_c": "_expand_conv",
  "norm_c": "_norm3",
  "conv_shortcut": "_shortcut_conv",
  "norm_shortcut": "_norm0",
}
LEFT_OUT = ("*.OPTIMIZER_SLOT*", "optimizer/*", "global_step*", "save_counter*")
DEPTH = {sum(blocks): depth for depth, (blocks, bottleneck) in DEPTHS.items() if bottleneck}


def encoder_names(depth: int) -> dict[str, str]:
  """Our module names of `r3d` -> their names in the checkpoint, below the backbone."""
  names, layer = {"stem_conv": f"{LAYER}0", "stem_norm": f"{LAYER}1"}, 2
  for stage, count in enumerate(DEPTHS[depth][0], 2):
    for i in range(count):
      names |= {f"res{stage}_{i}/{k}": f"{LAYER}{layer}/{v}" for k, v in BLOCK.items()}
      layer += 1
  return names


def head_names(hidden: int) -> dict[str, str]:
  """Our module names of the projection head -> their names in the checkpoint, below the model."""
  names = {f"dense_{i}": f"{LAYER}{2 * i + 1}" for i in range(hidden)}
  names |= {f"norm_{i}": f"{LAYER}{2 * i + 2}" for i in range(hidden)}
  return names | {"out": f"{LAYER}{2 * hidden + 1}"}


def read(tensors: Tensors, where: str, *, encoder_only: bool = False) -> Converted:
  """Converts a checkpoint of CVRL's pre-training or of its linear evaluation.

  Args:
    tensors: the variables of the checkpoint, by name.
    where: the checkpoint's name, for messages.
    encoder_only: leave out the projection head.

  Raises:
    UserError: the checkpoint holds another network.
  """
  backbone, model = _prefixes(tensors, where)
  blocks = {m[1] for k in tensors if (m := re.match(rf"{re.escape(backbone)}{LAYER}(\d+)/_", k))}
  if len(blocks) not in DEPTH:
    raise UserError(
      f"{where}: has {len(blocks)} bottleneck blocks; only networks with {sorted(DEPTH)} can be "
      "converted."
    )
  stem = tensors[f"{backbone}{LAYER}0/kernel{KERAS.suffix}"]
  encoder = {"name": "r3d", "depth": DEPTH[len(blocks)], "width": stem.shape[-1] / 64}
  dense = _dense(tensors, model)
  whole = len(dense) > 1 and not encoder_only

  c = converted.config("cvrl" if whole else "classify", pathlib.Path(where).name, encoder)
  converted.views(c, frames=16, stride=2, size=224, resize=256, eval_size=256, probe_frames=32)
  c.data.eval.frames = 32
  ledger = Ledger(tensors, where)
  ledger.leave(LEFT_OUT)
  names = {k: backbone + v for k, v in encoder_names(c.encoder.depth).items()}
  variables = ledger.network(converted.shapes(c), names, KERAS)
  method = None
  if whole:
    c.head.hidden, c.head.out = tuple(dense[:-1]), dense[-1]
    method = _method(c, ledger, variables, model)
  else:
    ledger.leave(f"{model}{LAYER}{i}/*" for i in range(1, 2 * len(dense)))
  left_out = ledger.settle(f"TF Garden's ResNet3D-{c.encoder.depth} of CVRL")
  step = tensors.get(f"global_step{KERAS.suffix}")
  facts = {"format": "tf_garden", "step": None if step is None else int(step)}
  return Converted(c, variables, method, left_out, facts)


def _prefixes(tensors: Tensors, where: str) -> tuple[str, str]:
  """The name prefixes of the backbone's layers and of the model's layers."""
  first = f"{LAYER}0/kernel{KERAS.suffix}"
  found = sorted((k.removesuffix(first) for k in tensors if k.endswith(first)), key=len)
  if not found:
    raise UserError(
      f"{where}: has no backbone/{first}: it is not a checkpoint of TF Garden's CVRL."
    )
  nested = f"{LAYER}0/"  # the backbone as the model's first layer
  model = found[0].removesuffix(nested) if found[0].endswith(nested) else "model/"
  return found[0], model


def _dense(tensors: Tensors, model: str) -> list[int]:
  """Output widths of the head's dense layers, in order."""
  pattern = re.compile(rf"{re.escape(model)}{LAYER}(\d+)/kernel{re.escape(KERAS.suffix)}")
  found = sorted((int(m[1]), k) for k in tensors if (m := pattern.fullmatch(k)))
  return [tensors[k].shape[1] for _, k in found if tensors[k].ndim == 2]


def _method(c: ConfigDict, ledger: Ledger, encoder, model: str):
  method = methods.load("cvrl").build(c, None)
  params, state = jax.eval_shape(lambda: method.init(jax.random.key(0), method.example(2)))
  names = {k: model + v for k, v in head_names(len(c.head.hidden)).items()}
  head = ledger.network({"params": params["head"], "batch_stats": state.head}, names, KERAS)
  return (
    {"encoder": encoder["params"], "head": head["params"]},
    cvrl.State(encoder["batch_stats"], head["batch_stats"]),
  )
