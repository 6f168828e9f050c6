"""Converts weights of other frameworks into ours, and ours into PySlowFast's.

An encoder becomes what `vssl_jax.export` writes, a contrastive model (PySlowFast's MoCo, BYOL,
SimCLR and SwAV; TF Garden's CVRL with its head) a run folder of its method at step 0. Either is a
checkpoint to probes, fine-tuning, `vssl_jax.export` and `vssl_jax.load`.

PyTorch files are read with `weights_only=True`; `.safetensors` files need no PyTorch. A missing,
left-over or misshapen tensor is an error that names it; classifiers are left out, and named.
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
ORIGIN = "origin.json"  # of a converted run: the file it came from


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
    arch: PySlowFast's `MODEL.ARCH`, where the file does not tell.
    alpha: PySlowFast's `SLOWFAST.ALPHA`, where the file does not tell.
    encoder_only: leave heads and momentum encoder out.
    encoder: what a 2-D ResNet becomes.
    inflate: how, `mean` or `centre`.

  Raises:
    UserError: no such file or format, or another network; missing, left-over and misshapen tensors
      are named, as are those that hold no finite floats.
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
  """Writes what `read` gave as a folder that `vssl_jax.load` reads.

  Args:
    found: the weights.
    folder: made if missing; a write that is broken off leaves nothing that stops the next.
    origin: the file they came from.

  Raises:
    UserError: the folder holds a run or an encoder already, or is none.
  """
  folder = pathlib.Path(folder)
  if folder.exists() and not folder.is_dir():
    raise UserError(f"{folder}: is a file; give a folder, --to.")
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

  A run of ρ-MoCo, -BYOL, -SimCLR or -SwAV becomes a ContrastiveModel, anything else a network
  without head.

  Args:
    path: run folder or exported folder.
    file: `.pyth`, or `.safetensors` for the tensors alone.
    encoder_only: leave heads and momentum encoder out.

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
    assert method.encoder is not None  # all of these have one
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
) -> dict[str, Any]:
  """Converts a file of weights into a folder that `vssl_jax.load` reads, or a run into a file.

  Args:
    source: the file, a TensorFlow checkpoint's prefix, or, with `to_format`, a run or an export.
    to: folder to write; a file with `to_format`.
    format: of `source`, one of `FORMATS`.
    to_format: "pyslowfast" to write ours in that format.
    arch: PySlowFast's `MODEL.ARCH`, where the file does not tell.
    alpha: PySlowFast's `SLOWFAST.ALPHA`, where the file does not tell.
    encoder_only: leave heads and momentum encoder out.
    encoder: what a 2-D ResNet becomes: "slow" (by default), "c2d" or "r3d".
    inflate: how: "mean" (by default) or "centre".

  Returns:
    `path`; of a folder also `encoder`, `width`, `method`, `mean`, `std` and `left_out`, the names
    of the tensors that were not taken.

  Raises:
    UserError: bad input.
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
    raise UserError(f"--to_format={to_format}: ours are written as pyslowfast alone.")
  if to_format:
    to_pyslowfast(source, to, encoder_only=encoder_only)
    return {"path": to}
  if not format:
    raise UserError(f"give --format, one of {', '.join(FORMATS)}, or --to_format=pyslowfast.")
  given |= {"encoder": encoder or "slow", "inflate": inflate or "mean"}
  found = read(source, format, **given)
  save(found, to, source)
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
  """Flags that this conversion would not look at."""
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
      raise UserError(f"--{flag} is of --format={' or '.join(formats)} alone; leave it out.")
  if format and to_format:
    raise UserError("--format is of what is read, --to_format of what is written; give one.")


if __name__ == "__main__":
  from vssl_jax import cli

  sys.exit(cli.run("vssl_jax.commands.convert"))
