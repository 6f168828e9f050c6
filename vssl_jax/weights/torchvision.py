"""Converts torchvision's video networks `r3d_18`, `r2plus1d_18` and `s3d`.

Names are those of `torchvision/models/video/{resnet,s3d}.py`. Its s3d has no gates, a separable
7×7×7 stem, and batch norm with epsilon 1e-3 and momentum 0.001 (0.999 in our convention).
"""

from __future__ import annotations

import pathlib

from vssl_jax.errors import UserError
from vssl_jax.models.r2plus1d import BLOCKS
from vssl_jax.weights import converted
from vssl_jax.weights.converted import Converted
from vssl_jax.weights.table import TORCH, Ledger, Tensors

# torchvision's presets for video: (RGB in [0, 1] − mean) / std.
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
LEFT_OUT = ("fc.*", "classifier.*", "*.num_batches_tracked")
MIXED = {"3b": 5, "3c": 6, "4b": 8, "4c": 9, "4d": 10, "4e": 11, "4f": 12, "5b": 14, "5c": 15}


def resnet_names(factored: bool) -> dict[str, str]:
  """Our module names of `r2plus1d` (factored) or `r3d_torchvision` -> torchvision's names."""
  if factored:
    names = {
      "stem_conv_space": "stem.0",
      "stem_norm_space": "stem.1",
      "stem_conv_time": "stem.3",
      "stem_norm": "stem.4",
    }
  else:
    names = {"stem_conv": "stem.0", "stem_norm": "stem.1"}
  for stage, count in enumerate(BLOCKS, 1):
    for i in range(count):
      ours, theirs = f"res{stage + 1}_{i}", f"layer{stage}.{i}"
      for x, n in (("a", 1), ("b", 2)):
        if factored:
          names[f"{ours}/conv_{x}_space"] = f"{theirs}.conv{n}.0.0"
          names[f"{ours}/norm_{x}_space"] = f"{theirs}.conv{n}.0.1"
          names[f"{ours}/conv_{x}_time"] = f"{theirs}.conv{n}.0.3"
        else:
          names[f"{ours}/conv_{x}"] = f"{theirs}.conv{n}.0"
        names[f"{ours}/norm_{x}"] = f"{theirs}.conv{n}.1"
      names[f"{ours}/conv_shortcut"] = f"{theirs}.downsample.0"
      names[f"{ours}/norm_shortcut"] = f"{theirs}.downsample.1"
  return names


def s3d_names() -> dict[str, str]:
  """Our module names of `s3dg` without gates -> torchvision's names."""
  units = {
    "conv_1a/space": "0.0",
    "conv_1a/time": "0.1",
    "conv_2b": "2",
    "conv_2c/space": "3.0",
    "conv_2c/time": "3.1",
  }
  for block, n in MIXED.items():
    units |= {
      f"mixed_{block}/branch_0": f"{n}.branch0",
      f"mixed_{block}/branch_3": f"{n}.branch3.1",
    }
    for b in (1, 2):
      units |= {
        f"mixed_{block}/branch_{b}_reduce": f"{n}.branch{b}.0",
        f"mixed_{block}/branch_{b}/space": f"{n}.branch{b}.1.0",
        f"mixed_{block}/branch_{b}/time": f"{n}.branch{b}.1.1",
      }
  names = {f"{ours}/conv": f"features.{theirs}.0" for ours, theirs in units.items()}
  return names | {f"{ours}/norm": f"features.{theirs}.1" for ours, theirs in units.items()}


def read(tensors: Tensors, where: str) -> Converted:
  """Converts a state dict of `r3d_18`, `r2plus1d_18` or `s3d`, recognized by its tensor names.

  Args:
    tensors: the state dict.
    where: its name, for messages.

  Raises:
    UserError: the file holds another network.
  """
  if "features.0.0.0.weight" in tensors:
    kind, names = "s3d", s3d_names()
    encoder = {"name": "s3dg", "gating": False, "bn_epsilon": 1e-3, "bn_momentum": 0.999}
    clips = {"frames": 128, "stride": 2, "size": 224, "resize": 256}
  elif "stem.0.weight" in tensors:
    factored = "stem.3.weight" in tensors
    kind, names = ("r2plus1d_18" if factored else "r3d_18"), resnet_names(factored)
    encoder = {"name": "r2plus1d" if factored else "r3d_torchvision"}
    clips = {"frames": 16, "stride": 2, "size": 112, "resize": 128}
  else:
    raise UserError(
      f"{where}: has neither stem.0.weight nor features.0.0.0.weight: it is not torchvision's "
      "r3d_18, r2plus1d_18 or s3d."
    )
  c = converted.config("classify", pathlib.Path(where).stem, encoder)
  c.augment.mean, c.augment.std = MEAN, STD
  converted.views(c, **clips)
  ledger = Ledger(tensors, where)
  ledger.leave(LEFT_OUT)
  variables = ledger.network(converted.shapes(c), names, TORCH)
  facts = {"format": "torchvision", "model": kind}
  return Converted(c, variables, None, ledger.settle(f"torchvision's {kind}"), facts)
