"""`vssl convert`: the flags of `vssl_jax.weights.convert`."""

from __future__ import annotations

import argparse

from vssl_jax.cli import arguments

DESCRIPTION = """\
Converts weights of other frameworks into ours, and ours into PySlowFast's.

An encoder becomes what vssl export writes, a contrastive model (PySlowFast's MoCo, BYOL, SimCLR and
SwAV; TF Garden's CVRL with its head) a run folder of its method at step 0. Either is a checkpoint
to vssl train (probes, fine-tuning), vssl evaluate, vssl export and vssl_jax.load.

PyTorch files are read with weights_only=True; .safetensors files need no PyTorch. A missing,
left-over or misshapen tensor is an error that names it; classifiers are left out, and named. A
PySlowFast file without its cfg may need --arch and --alpha.
"""
EXAMPLES = """\
vssl convert --from=SLOW_8x8_R50.pyth --format=pyslowfast --to=slow
vssl convert --from=ckpt-71488 --format=tf_garden --to=cvrl
vssl convert --from=r3d_18.pth --format=torchvision --to=r3d_18
vssl convert --from=resnet50.pth --format=resnet2d --to=inflated
vssl convert --from=videomae-base --format=videomae --to=videomae
vssl convert --from=vjepa2-vitl-fpc64-256 --format=vjepa2 --to=vjepa2
vssl convert --from=runs/byol --to_format=pyslowfast --to=byol.pyth
"""


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl convert", DESCRIPTION, EXAMPLES)
  add = p.add_argument
  add(
    "--from",
    dest="source",
    required=True,
    help="what to convert: a file of weights, a checkpoint, a run folder, or for videomae and "
    "vjepa2 a folder with config.json",
  )
  add("--to", required=True, help="folder to write, or with --to_format the file")
  add(
    "--format",
    default="",
    metavar="NAME",
    help="format of --from: pyslowfast, tf_garden, torchvision, resnet2d, videomae or vjepa2",
  )
  add(
    "--to_format",
    default="",
    metavar="NAME",
    help="write our weights in another format: pyslowfast",
  )
  add("--arch", default="", help="PySlowFast's MODEL.ARCH, if the file has no cfg")
  add("--alpha", type=int, default=0, help="PySlowFast's SLOWFAST.ALPHA, if the file has no cfg")
  add("--encoder_only", action="store_true", help="leave out heads and momentum encoder")
  add("--encoder", default="", help="resnet2d: encoder to make, slow, c2d or r3d (default: slow)")
  add(
    "--inflate",
    default="",
    help="resnet2d: how kernels grow in time, mean or centre (default: mean)",
  )
  add(
    "--channels",
    type=int,
    default=3,
    metavar="C",
    help="channels of the clips that the encoder shall take: weights for red, green and blue are "
    "summed for one, else repeated in turn times 3 / C, as in timm; heads are left out "
    "(default: 3)",
  )
  return p


def run(args: argparse.Namespace) -> int:
  """Converts, and prints what was written and what was left out."""
  from vssl_jax.weights.convert import convert

  made = convert(**arguments.given(args))
  if "encoder" not in made:
    print(made["path"])
    return 0
  kind = "RGB" if args.channels == 3 else f"{args.channels} channels"
  print(
    f"{made['path']}: {made['encoder']} of width {made['width']:g}, method {made['method']}, input "
    f"{kind} / 255, mean {made['mean']}, std {made['std']}"
  )
  if made["left_out"]:
    print(f"left out: {', '.join(made['left_out'])}")
  return 0
