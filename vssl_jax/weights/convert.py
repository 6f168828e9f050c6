"""Converts weights of other frameworks to ours, and ours to PySlowFast's.

  python -m vssl_jax.weights.convert --from=SLOW_8x8_R50.pyth --format=pyslowfast --to=slow
  python -m vssl_jax.weights.convert --from=ckpt-71488 --format=tf_garden --to=cvrl
  python -m vssl_jax.weights.convert --from=r3d_18.pth --format=torchvision --to=r3d_18
  python -m vssl_jax.weights.convert --from=resnet50.pth --format=resnet2d --to=inflated
  python -m vssl_jax.weights.convert --from=runs/byol --to_format=pyslowfast --to=byol.pyth

An encoder is written in the format of `vssl_jax.export`. A contrastive model (PySlowFast's MoCo,
BYOL, SimCLR and SwAV; TF Garden's CVRL with its head) is written as a run folder of its method at
step 0. Probes, fine-tuning, `vssl_jax.export` and `vssl_jax.load` accept both as a checkpoint.

PyTorch files are read with `weights_only=True`; `.safetensors` files need no PyTorch. A missing,
extra or misshapen tensor is an error that names it. Classifiers are left out, and the output names
them. If a PySlowFast file has no cfg, give `--arch` and `--alpha`, which tensors do not determine.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from vssl_jax import results
from vssl_jax.encoder import encoder as encoder_lib
from vssl_jax.encoder import exported as exported_lib
from vssl_jax.errors import UserError
from vssl_jax.files import make_folder
from vssl_jax.training import checkpoints, run_folder
from vssl_jax.weights import (
  contrastive,
  files,
  pyslowfast,
  resnet2d,
  tensorflow_checkpoint,
  tf_garden,
  torchvision,
)
from vssl_jax.weights.converted import Converted

FORMATS = ("pyslowfast", "tf_garden", "torchvision", "resnet2d")
ORIGIN = "origin.json"  # in a converted run: facts about the original file


def read(
  path: str,
  format: str,
  *,
  arch: str = "",
  alpha: int = 0,
  encoder_only: bool = False,
  encoder: str = "slow",
  inflate: str = "mean",
) -> Converted:
  """Reads a file of weights.

  Args:
    path: the file, or a TensorFlow checkpoint's prefix.
    format: one of `FORMATS`.
    arch: PySlowFast's `MODEL.ARCH`, if the file does not contain it.
    alpha: PySlowFast's `SLOWFAST.ALPHA`, if the file does not contain it.
    encoder_only: leave out heads and momentum encoder.
    encoder: for a 2-D ResNet, the video encoder to build.
    inflate: for a 2-D ResNet, how to inflate its kernels: `mean` or `centre`.

  Raises:
    UserError: there is no such file or format, or the file holds another network; the message names
      tensors that are missing, extra, misshapen, or not finite floats.
  """
  if format == "tf_garden":
    return tf_garden.read(
      tensorflow_checkpoint.read_variables(path), path, encoder_only=encoder_only
    )
  if format not in FORMATS:
    raise UserError(f"--format={format}: choose one of {', '.join(FORMATS)}.")
  tensors, rest = files.read_torch(path)
  if format == "pyslowfast":
    return pyslowfast.read(tensors, rest, path, arch=arch, alpha=alpha, encoder_only=encoder_only)
  if format == "torchvision":
    return torchvision.read(tensors, path)
  return resnet2d.read(tensors, path, encoder=encoder, how=inflate)


def save(found: Converted, folder: str | pathlib.Path, origin: str) -> None:
  """Writes the result of `read` as a folder that `vssl_jax.load` reads.

  Args:
    found: the weights.
    folder: created if missing; after an interrupted write, the same call can be repeated.
    origin: path of the original file.

  Raises:
    UserError: the folder already holds a run or an encoder, or is a file.
  """
  folder = pathlib.Path(folder)
  if folder.exists() and not folder.is_dir():
    raise UserError(f"{folder}: is a file; give a folder as --to.")
  make_folder(folder.parent)
  if (folder / checkpoints.CONFIG).exists() or (folder / exported_lib.CARD).exists():
    raise UserError(f"{folder}: holds an encoder already; give another --to.")
  file = pathlib.Path(origin)
  facts = {**found.facts, "file": file.name, "left_out": found.left_out}
  if file.is_file():
    facts["sha256"] = results.file_hash(file)
  if found.whole is None:
    exported_lib.save_encoder(
      folder, found.config, found.variables, info={"step": 0, "origin": facts}
    )
  else:
    run_folder.save_run(folder, found.config, *found.whole, beside={ORIGIN: facts})


def to_pyslowfast(path: str, file: str | pathlib.Path, *, encoder_only: bool = False) -> None:
  """Writes a run or an exported encoder as PySlowFast's checkpoint.

  A run of ρ-MoCo, ρ-BYOL, ρ-SimCLR or ρ-SwAV becomes a ContrastiveModel, anything else a network
  without head.

  Args:
    path: run folder or exported folder.
    file: `.pyth`, or `.safetensors` for only the tensors.
    encoder_only: leave out heads and momentum encoder.

  Raises:
    UserError: the file exists, or PySlowFast has no such encoder.
  """
  if pathlib.Path(file).exists():
    raise UserError(f"{file}: exists; give another --to, or remove it.")
  folder = pathlib.Path(path)
  whole: tuple[Any, Any] | None = None
  info: Mapping[str, Any] = {}
  exported = (folder / exported_lib.CARD).is_file()
  if not exported and checkpoints.load_config(folder).method in contrastive.METHODS.values():
    config, method, state = run_folder.load_state(folder)
    assert method.encoder is not None  # all contrastive methods have an encoder
    variables = jax.device_get(method.encoder(state.params, state.method))
    whole = None if encoder_only else (state.params, state.method)
  else:
    config, variables, info = encoder_lib.load_encoder(folder)
  tensors, cfg = pyslowfast.to_theirs(config, variables, whole)
  epoch = (info.get("origin") or {}).get("epoch") or 0
  rest: dict[str, Any] = {
    "epoch": epoch,
    "optimizer_state": {"state": {}, "param_groups": []},
    "cfg": cfg,
  }
  files.write_torch(file, tensors, rest)


def run(args: argparse.Namespace) -> list[str]:
  """Runs the conversion that the command line asks for; returns the lines to print.

  Raises:
    UserError: the input is wrong.
  """
  _refuse_idle(args)
  if args.to_format:
    to_pyslowfast(args.source, args.to, encoder_only=args.encoder_only)
    return [args.to]
  if not args.format:
    raise UserError(f"give --format, one of {', '.join(FORMATS)}, or --to_format=pyslowfast.")
  found = read(
    args.source,
    args.format,
    arch=args.arch,
    alpha=args.alpha,
    encoder_only=args.encoder_only,
    encoder=args.encoder or "slow",
    inflate=args.inflate or "mean",
  )
  save(found, args.to, args.source)
  e, a = found.config.encoder, found.config.augment
  lines = [
    f"{args.to}: {e.name} of width {e.width:g}, method {found.config.method}, input RGB / 255, "
    f"mean {list(a.mean)}, std {list(a.std)}"
  ]
  counted = [k for k in found.left_out if not k.endswith("num_batches_tracked")]
  return lines + [f"left out: {', '.join(counted)}"] * bool(counted)


def _refuse_idle(args: argparse.Namespace) -> None:
  """Raises `UserError` for flags that this conversion would ignore."""
  one = args.to_format or args.format or ""
  for flag, formats in {
    "arch": ("pyslowfast",),
    "alpha": ("pyslowfast",),
    "encoder": ("resnet2d",),
    "inflate": ("resnet2d",),
    "encoder_only": ("pyslowfast", "tf_garden"),
  }.items():
    given = getattr(args, flag)
    reads = one in formats and (flag == "encoder_only" or not args.to_format)
    if given and not reads:
      raise UserError(f"--{flag} is only for --format={' or '.join(formats)}; leave it out.")
  if args.format and args.to_format:
    raise UserError(
      "--format is the format of the input, --to_format that of the output; give only one."
    )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m vssl_jax.weights.convert",
    description="Converts weights of other frameworks to ours, and ours to PySlowFast's.",
  )
  parser.add_argument("--from", dest="source", required=True, help="file, checkpoint or run folder")
  parser.add_argument("--to", required=True, help="folder to write; with --to_format, a file")
  parser.add_argument("--format", choices=FORMATS, help="format of --from")
  parser.add_argument(
    "--to_format", choices=("pyslowfast",), help="write our weights in this format"
  )
  parser.add_argument("--arch", default="", help="PySlowFast's MODEL.ARCH, if the file has no cfg")
  parser.add_argument(
    "--alpha", type=int, default=0, help="PySlowFast's SLOWFAST.ALPHA, if the file has no cfg"
  )
  parser.add_argument(
    "--encoder_only", action="store_true", help="leave out heads and momentum encoder"
  )
  parser.add_argument(
    "--encoder", default="", help="resnet2d: encoder to build, slow (default), c2d or r3d"
  )
  parser.add_argument(
    "--inflate", default="", help="resnet2d: how to inflate kernels, mean (default) or centre"
  )
  return parser


def main(argv: Iterable[str] | None = None) -> int:
  """The command line; 0, or 2 with one line on stderr for bad input."""
  args = _parser().parse_args(None if argv is None else list(argv))
  try:
    print(*run(args), sep="\n")
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
