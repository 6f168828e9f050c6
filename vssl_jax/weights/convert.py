"""Converts weights of other frameworks to ours, and ours to PySlowFast's.

An encoder is written in the format of `vssl_jax.export`. A contrastive model (PySlowFast's MoCo,
BYOL, SimCLR and SwAV; TF Garden's CVRL with its head) is written as a run folder of its method at
step 0. Probes, fine-tuning, `vssl_jax.export` and `vssl_jax.load` accept both as a checkpoint.

PyTorch files are read with `weights_only=True`; `.safetensors` files need no PyTorch. A missing,
extra or misshapen tensor is an error that names it. Classifiers are left out, and the result names
them.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax

from vssl_jax import results
from vssl_jax.encoder import encoder as encoder_lib
from vssl_jax.encoder import exported as exported_lib
from vssl_jax.errors import UserError
from vssl_jax.files import local, make_folder
from vssl_jax.training import run_config, run_folder
from vssl_jax.weights import (
  contrastive,
  converted,
  files,
  huggingface,
  pyslowfast,
  resnet2d,
  tensorflow_checkpoint,
  tf_garden,
  torchvision,
  vit,
)
from vssl_jax.weights.converted import Converted

FORMATS = ("pyslowfast", "tf_garden", "torchvision", "resnet2d", "videomae", "vjepa2")
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
    path: the file, or a TensorFlow checkpoint's prefix, or a folder of Hugging Face's.
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
  if format in ("videomae", "vjepa2"):
    return vit.read_videomae(path) if format == "videomae" else vit.read_vjepa2(path)
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
  folder = local(folder)
  if folder.exists() and not folder.is_dir():
    raise UserError(f"{folder}: is a file; give a folder as --to.")
  make_folder(folder.parent)
  if (folder / run_config.CONFIG).exists() or (folder / exported_lib.CARD).exists():
    raise UserError(f"{folder}: holds an encoder already; give another --to.")
  file = local(origin)
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
  if local(file).exists():
    raise UserError(f"{file}: exists; give another --to, or remove it.")
  folder = local(path)
  whole: tuple[Any, Any] | None = None
  info: Mapping[str, Any] = {}
  exported = (folder / exported_lib.CARD).is_file()
  if not exported and run_config.load_config(folder).method in contrastive.METHODS.values():
    config, method, state = run_folder.load_state(folder)
    assert method.encoder is not None  # all contrastive methods have an encoder
    variables = jax.device_get(method.encoder(state.params, state.method))
    whole = None if encoder_only else (state.params, state.method)
  else:
    config, variables, info = encoder_lib.load_encoder(folder)
  if config.data.channels != 3:
    raise UserError(
      f"{folder}: its clips have {config.data.channels} channels, but PySlowFast's are of RGB."
    )
  tensors, cfg = pyslowfast.to_theirs(config, variables, whole)
  epoch = (info.get("origin") or {}).get("epoch") or 0
  rest: dict[str, Any] = {
    "epoch": epoch,
    "optimizer_state": {"state": {}, "param_groups": []},
    "cfg": cfg,
  }
  files.write_torch(file, tensors, rest)


def convert(
  source: str | os.PathLike[str],
  to: str | os.PathLike[str],
  *,
  format: str = "",
  to_format: str = "",
  arch: str = "",
  alpha: int = 0,
  encoder_only: bool = False,
  encoder: str = "",
  inflate: str = "",
  channels: int = 3,
) -> dict[str, Any]:
  """Converts a weight file to a folder that `vssl_jax.load` reads, or with `to_format` a run.

  Args:
    source: the file or the prefix of a TensorFlow checkpoint, or for VideoMAE and V-JEPA 2 the
      folder with `config.json`; with `to_format`, the folder of a run or of an exported encoder.
    to: folder to write; with `to_format`, a file.
    format: format of `source`, one of `FORMATS`.
    to_format: "pyslowfast" writes our weights in that format.
    arch: PySlowFast's `MODEL.ARCH`, if the file does not contain it.
    alpha: PySlowFast's `SLOWFAST.ALPHA`, if the file does not contain it.
    encoder_only: leave out heads and momentum encoder.
    encoder: for a 2-D ResNet, the encoder to build: "slow" (default), "c2d" or "r3d".
    inflate: for a 2-D ResNet, how to inflate its kernels: "mean" (default) or "centre".
    channels: C of the clips that the encoder shall take; other than 3, its stem is changed as timm
      does (`models.stem.adapt`), it is normalized by the mean of the three channels' numbers, and
      heads are left out.

  Returns:
    `path`; for a folder also `encoder`, `width`, `method`, `mean`, `std` and `left_out`, the names
    of the tensors that were not converted.

  Raises:
    UserError: the input is wrong.
  """
  source, to = os.fspath(source), os.fspath(to)
  given: dict[str, Any] = {
    "arch": arch,
    "alpha": alpha,
    "encoder": encoder,
    "inflate": inflate,
    "encoder_only": encoder_only,
  }
  _refuse_idle(format, to_format, given)
  if to_format not in ("", "pyslowfast"):
    raise UserError(f"--to_format={to_format}: the only format to write is pyslowfast.")
  if channels < 1:
    raise UserError(f"--channels={channels}: give 1 or more.")
  if to_format and channels != 3:
    raise UserError("--channels: it is of encoders that are read; leave it out.")
  if to_format:
    to_pyslowfast(source, to, encoder_only=encoder_only)
    return {"path": to}
  if not format:
    raise UserError(f"give --format, one of {', '.join(FORMATS)}, or --to_format=pyslowfast.")
  given |= {"encoder": encoder or "slow", "inflate": inflate or "mean"}
  found = read(source, format, **given)
  if channels != 3:
    found = converted.for_channels(found, channels)
  whole_models = format in ("videomae", "vjepa2")
  save(found, to, str(huggingface.weights(source)) if whole_models else source)
  e, a = found.config.encoder, found.config.augment
  return {
    "path": to,
    "encoder": e.name,
    "width": e.width,
    "method": found.config.method,
    "mean": list(a.mean),
    "std": list(a.std),
    "left_out": [k for k in found.left_out if not k.endswith("num_batches_tracked")],
  }


def _refuse_idle(format: str, to_format: str, given: dict[str, Any]) -> None:
  """Raises `UserError` for flags that this conversion would ignore."""
  one = to_format or format
  for flag, formats in {
    "arch": ("pyslowfast",),
    "alpha": ("pyslowfast",),
    "encoder": ("resnet2d",),
    "inflate": ("resnet2d",),
    "encoder_only": ("pyslowfast", "tf_garden"),
  }.items():
    reads = one in formats and (flag == "encoder_only" or not to_format)
    if given[flag] and not reads:
      raise UserError(f"--{flag} is only for --format={' or '.join(formats)}; leave it out.")
  if format and to_format:
    raise UserError(
      "--format is the format of the input, --to_format that of the output; give only one."
    )


if __name__ == "__main__":
  from vssl_jax import cli

  sys.exit(cli.run("vssl_jax.commands.convert"))
