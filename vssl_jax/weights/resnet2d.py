"""Inflates 2-D ImageNet ResNets (18, 50, 101, 152) with torchvision's names to video encoders.

In torchvision's ResNets the stride of a bottleneck is on its 3×3 convolution, and padding is
symmetric, as in `slow` and `c2d`. So on a clip of identical frames these give the features of the
2-D network on one frame (`slow` only away from the clip's ends). `r3d` has TensorFlow's padding and
halves time in its stem, so its features are only similar.
"""

from __future__ import annotations

import pathlib

import jax

from vssl_jax.errors import UserError
from vssl_jax.models.inflate import inflate
from vssl_jax.models.r3d import DEPTHS
from vssl_jax.weights import converted
from vssl_jax.weights.converted import Converted
from vssl_jax.weights.table import TORCH, Ledger, Tensors

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, RGB in [0, 1]
LEFT_OUT = ("fc.*", "*.num_batches_tracked")
ENCODERS = ("slow", "c2d", "r3d")


def names(depth: int) -> dict[str, str]:
  """Our module names of `slow`, `c2d` or `r3d` -> torchvision's names of `resnet<depth>`."""
  blocks, bottleneck = DEPTHS[depth]
  out = {"stem_conv": "conv1", "stem_norm": "bn1"}
  for stage, count in enumerate(blocks, 1):
    for i in range(count):
      ours, theirs = f"res{stage + 1}_{i}", f"layer{stage}.{i}"
      for n, x in enumerate("abc" if bottleneck else "ab", 1):
        out |= {f"{ours}/conv_{x}": f"{theirs}.conv{n}", f"{ours}/norm_{x}": f"{theirs}.bn{n}"}
      out |= {
        f"{ours}/conv_shortcut": f"{theirs}.downsample.0",
        f"{ours}/norm_shortcut": f"{theirs}.downsample.1",
      }
  return out


def read(tensors: Tensors, where: str, *, encoder: str = "slow", how: str = "mean") -> Converted:
  """Converts the state dict of a 2-D ResNet to a video network.

  Args:
    tensors: the state dict.
    where: its name, for messages.
    encoder: `slow`, `c2d` or `r3d`.
    how: how to fill kernels longer than one frame: `mean` or `centre`, see `models.inflate`.

  Raises:
    UserError: the file holds another network.
  """
  if encoder not in ENCODERS:
    raise UserError(f"--encoder={encoder}: a 2-D ResNet becomes one of {', '.join(ENCODERS)}.")
  if "conv1.weight" not in tensors or tensors["conv1.weight"].ndim != 4:
    raise UserError(f"{where}: has no conv1.weight of a 2-D ResNet with torchvision's names.")

  def count(stage: int) -> int:
    return next(i for i in range(99) if f"layer{stage}.{i}.conv1.weight" not in tensors)

  kind = (tuple(count(stage) for stage in range(1, 5)), "layer1.0.conv3.weight" in tensors)
  if kind not in DEPTHS.values():
    raise UserError(
      f"{where}: has {kind[0]} blocks per stage; only depths {', '.join(map(str, DEPTHS))} can be "
      "converted."
    )
  fields = {
    "name": encoder,
    "depth": next(k for k, v in DEPTHS.items() if v == kind),
    "width": len(tensors["conv1.weight"]) / 64,
  }
  c = converted.config("classify", pathlib.Path(where).stem, fields)
  c.augment.mean, c.augment.std = MEAN, STD
  converted.views(c, frames=8, stride=8, size=224, resize=256, eval_size=256)
  flat = c.copy_and_resolve_references()
  flat.encoder.temporal = False
  ledger = Ledger({k: x[:, :, None] if x.ndim == 4 else x for k, x in tensors.items()}, where)
  ledger.leave(LEFT_OUT)
  images = ledger.network(converted.shapes(flat), names(c.encoder.depth), TORCH)
  left_out = ledger.settle(f"torchvision's resnet{c.encoder.depth}")
  variables = jax.device_get(inflate(images, converted.shapes(c), how=how))
  facts = {"format": "resnet2d", "inflated": how}
  return Converted(c, variables, None, left_out, facts)
