"""Converts the vision transformers of transformers: VideoMAE's and V-JEPA 2's encoders.

Names are those of `VideoMAEModel` and `VJEPA2Model`, alone or inside the models that pre-train or
classify, whose decoders, predictors, poolers and classifiers are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.models.vit import SIZES
from vssl_jax.weights import converted, huggingface
from vssl_jax.weights.converted import Converted
from vssl_jax.weights.huggingface import Fields, Model
from vssl_jax.weights.table import TORCH, Ledger, Tensors

# our modules of a block -> theirs
VIDEOMAE_BLOCK = {
  "norm_attention": "layernorm_before",
  "query": "attention.attention.query",
  "key": "attention.attention.key",
  "value": "attention.attention.value",
  "out": "attention.output.dense",
  "norm_mlp": "layernorm_after",
  "mlp_in": "intermediate.dense",
  "mlp_out": "output.dense",
}
VJEPA2_BLOCK = {
  "norm_attention": "norm1",
  "query": "attention.query",
  "key": "attention.key",
  "value": "attention.value",
  "out": "attention.proj",
  "norm_mlp": "norm2",
  "mlp_in": "mlp.fc1",
  "mlp_out": "mlp.fc2",
}
# No file of these models says how far apart the frames are: 4 for both on Kinetics, in the papers.
STRIDE = 4
FC_NORM_EPSILON = 1e-5  # that of PyTorch, which VideoMAEForVideoClassification leaves as it is


def read_videomae(path: str) -> Converted:
  """Converts a VideoMAEModel, VideoMAEForVideoClassification or VideoMAEForPreTraining.

  Args:
    path: folder of `save_pretrained`, or its file of weights.

  Raises:
    UserError: the files hold another network, or lack something.
  """
  model = huggingface.read(path, "videomae")
  c = model.config
  tensors = _with_biases(model.tensors)
  prefix = "videomae." if any(k.startswith("videomae.") for k in tensors) else ""
  names = {"embed": f"{prefix}embeddings.patch_embeddings.projection"}
  encoder: dict[str, Any] = {
    "positions": "sine",
    "qkv_bias": "qv" if c.flag("qv_bias", c.flag("qkv_bias", True)) else "none",
    "norm_epsilon": c.number("layer_norm_eps", 1e-12),
  }
  if not c.flag("use_mean_pooling", True):
    encoder["final_norm"] = "tokens"
    names["norm"] = f"{prefix}layernorm"
  elif any(k.startswith(("fc_norm.", "classifier.")) for k in tensors):
    encoder |= {"final_norm": "mean", "final_epsilon": FC_NORM_EPSILON}
    names["norm"] = "fc_norm"
  else:
    encoder["final_norm"] = "none"
  channels = c.whole("hidden_size", 768)
  return _read(
    model,
    tensors,
    encoder,
    names,
    lambda i: (f"{prefix}encoder.layer.{i}", VIDEOMAE_BLOCK),
    channels=channels,
    heads=c.whole("num_attention_heads", 12),
    depth=c.whole("num_hidden_layers", 12),
    inner=c.whole("intermediate_size", 3072),
    patch=c.side("patch_size", 16),
    size=c.side("image_size", 224),
    frames=c.whole("num_frames", 16),
    colors="num_channels",
    left_out=("classifier.*", "decoder.*", "encoder_to_decoder.*", "mask_token"),
  )


def read_vjepa2(path: str) -> Converted:
  """Converts the encoder of a VJEPA2Model or VJEPA2ForVideoClassification.

  Args:
    path: folder of `save_pretrained`, or its file of weights.

  Raises:
    UserError: the files hold another network, or lack something.
  """
  model = huggingface.read(path, "vjepa2")
  c = model.config
  prefix = "vjepa2." if any(k.startswith("vjepa2.") for k in model.tensors) else ""
  channels = c.whole("hidden_size", 1024)
  return _read(
    model,
    dict(model.tensors),
    {
      "positions": "rotary",
      "qkv_bias": "qkv" if c.flag("qkv_bias", True) else "none",
      "final_norm": "tokens",
      "norm_epsilon": c.number("layer_norm_eps", 1e-6),
    },
    {
      "embed": f"{prefix}encoder.embeddings.patch_embeddings.proj",
      "norm": f"{prefix}encoder.layernorm",
    },
    lambda i: (f"{prefix}encoder.layer.{i}", VJEPA2_BLOCK),
    channels=channels,
    heads=c.whole("num_attention_heads", 16),
    depth=c.whole("num_hidden_layers", 24),
    inner=int(channels * c.number("mlp_ratio", 4.0)),
    patch=c.side("patch_size", 16),
    size=c.side("crop_size", 256),
    frames=c.whole("frames_per_clip", 64),
    colors="in_chans",
    left_out=(f"{prefix}predictor.*", "pooler.*", "classifier.*"),
  )


def _read(
  model: Model,
  tensors: Tensors,
  encoder: dict[str, Any],
  names: dict[str, str],
  block: Callable[[int], tuple[str, dict[str, str]]],
  *,
  channels: int,
  heads: int,
  depth: int,
  inner: int,
  patch: int,
  size: int,
  frames: int,
  colors: str,
  left_out: tuple[str, ...],
) -> Converted:
  c: Fields = model.config
  c.require("hidden_act", "gelu", "gelu")
  c.require(colors, 3, 3)
  if channels % heads:
    raise UserError(f"{c.where}: hidden_size {channels} is no multiple of {heads} heads.")
  tubelet = (c.whole("tubelet_size", 2), patch, patch)
  grid = (frames // tubelet[0], size // patch, size // patch)
  if not all(grid):
    raise UserError(
      f"{c.where}: clips of {frames} frames of {size} pixels are smaller than a token of {tubelet}."
    )
  if depth > len(tensors):
    raise UserError(f"{c.where}: has {depth} layers, but {model.file} has {len(tensors)} tensors.")
  name = next((k for k, v in SIZES.items() if v[0] == channels), "B")
  encoder = {
    **encoder,
    "name": "vit",
    "size": name,
    "width": channels / SIZES[name][0],
    "heads": heads,
    "depth": depth,
    "mlp": inner / channels,
    "tubelet": tubelet,
    "grid": grid if encoder["positions"] == "sine" else (),
  }
  made = converted.config("classify", model.file.resolve().parent.name or c.where, encoder)
  stride = huggingface.preprocessing(
    made, model.preprocessor, frames=frames, size=size, stride=STRIDE
  )
  _flatten(tensors, f"{names['embed']}.weight", (channels, 3, *tubelet), str(model.file))
  for i in range(depth):
    where, modules = block(i)
    names |= {f"block_{i}/{ours}": f"{where}.{theirs}" for ours, theirs in modules.items()}
  ledger = Ledger(tensors, str(model.file))
  ledger.leave(left_out)
  variables = ledger.network(converted.shapes(made), names, TORCH)
  kind = c.text("model_type", "")
  facts = {"format": kind, "stride": stride}
  return Converted(made, variables, None, ledger.settle(f"{kind} of {c.where}"), facts)


def _flatten(tensors: Tensors, name: str, shape: tuple[int, ...], where: str) -> None:
  """Makes the kernel `[F, 3, t, h, w]` of the tokens a matrix, with the colors of a pixel last."""
  if name not in tensors:
    return  # the ledger will say it
  found = tensors[name]
  if found.shape != shape:
    raise UserError(
      f"{where}: {name} is {list(found.shape)}, but {list(shape)} by config.json beside it."
    )
  tensors[name] = found.transpose(0, 2, 3, 4, 1).reshape(shape[0], -1)


def _with_biases(tensors: Tensors) -> Tensors:
  """The tensors, with the names of biases since transformers 5: `query.bias` for `q_bias`."""
  out: dict[str, np.ndarray] = {}
  for name, x in tensors.items():
    new = re.sub(
      r"attention\.attention\.([qv])_bias$",
      lambda m: f"attention.attention.{'query' if m[1] == 'q' else 'value'}.bias",
      name,
    )
    out[name if new in tensors else new] = x
  return out
