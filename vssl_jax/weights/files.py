"""Reads and writes weight files (PyTorch and safetensors) as NumPy arrays by name."""

from __future__ import annotations

import os
import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines import optional
from vssl_jax import files
from vssl_jax.errors import UserError, brief
from vssl_jax.files import local
from vssl_jax.weights.table import Tensors

# Keys under which PyTorch programs save the state dict.
STATES = ("model_state", "state_dict", "model")


def read_torch(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, Any]]:
  """Reads the tensors of a PyTorch file (`.pyth`, `.pth`, `.pt`) or of a `.safetensors` file.

  A PyTorch file is a pickle, which can run any program. So it is only opened with
  `weights_only=True`, which accepts nothing but tensors and plain values.

  Args:
    path: the file; it holds a state dict, or a dict with one under `model_state`, `state_dict` or
      `model`.

  Returns:
    Arrays by name, without a common prefix `module.` (half precision becomes float32), and the
    other values in the file (PySlowFast: `epoch` and the text `cfg`).

  Raises:
    UserError: the file is missing or has another format, or PyTorch is needed but not installed.
  """
  path = local(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file of weights.")
  if path.suffix == ".safetensors" or _is_safetensors(path):
    tensors, rest = _safetensors(path), {}
  else:
    torch = _torch(path)
    try:
      whole = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
      raise UserError(
        f"{path}: is not a PyTorch file, or holds other objects than tensors and plain values, "
        "which could run any program and are not loaded; save only its state dict."
      ) from None
    except Exception as e:
      reason = re.sub(r"\x1b\[[0-9;]*m", "", brief(e))[:200]
      raise UserError(f"{path}: PyTorch cannot read it ({reason}).") from None
    if not isinstance(whole, Mapping):
      raise UserError(f"{path}: holds a {type(whole).__name__}; a state dict is needed.")
    key = next((k for k in STATES if isinstance(whole.get(k), Mapping)), None)
    state = whole if key is None else whole[key]
    rest = {} if key is None else {k: v for k, v in whole.items() if k != key}
    tensors = {}
    for name, x in state.items():
      if isinstance(x, torch.Tensor):
        tensors[name] = _array(torch, x, f"{path}: {name}")
  if not tensors:
    raise UserError(f"{path}: holds no tensors.")
  if all(k.startswith("module.") for k in tensors):
    tensors = {k.removeprefix("module."): x for k, x in tensors.items()}
  return tensors, rest


def _torch(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError:
    raise UserError(
      f"{path}: this is a PyTorch file, but PyTorch is not installed: {optional.install('torch')}, "
      "or give a .safetensors file."
    ) from None
  return torch


def _array(torch: Any, x: Any, where: str) -> np.ndarray:
  try:
    return (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).detach().numpy()
  except (TypeError, RuntimeError):
    raise UserError(
      f"{where} is a tensor of {x.dtype}, {x.layout}, which NumPy does not support; save it as "
      "float32."
    ) from None


def _is_safetensors(path: pathlib.Path) -> bool:
  """Whether the file starts like safetensors: the length of a header, then JSON."""
  with open(path, "rb") as file:
    head = file.read(9)
  return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _safetensors(path: pathlib.Path) -> Tensors:
  from vssl_jax.encoder import exported

  try:
    arrays = exported.arrays(path.read_bytes())
  except Exception as e:
    raise UserError(f"{path}: not a safetensors file ({brief(e)[:200]}).") from None
  return {k: x if x.dtype.kind in "iu" else x.astype(np.float32) for k, x in arrays.items()}


def write_torch(path: str | os.PathLike[str], tensors: Tensors, rest: Mapping[str, Any]) -> None:
  """Writes the tensors under `model_state` and `rest` next to it; `.safetensors` only has tensors.

  Raises:
    UserError: PyTorch is needed but not installed, or the folder cannot be created.
  """
  path = local(path)
  files.make_folder(path.parent)
  if path.suffix == ".safetensors":
    from safetensors.numpy import save

    with files.replacing(path) as file:
      file.write(save(tensors))
    return
  torch = _torch(path)
  state = {k: torch.from_numpy(np.array(x)) for k, x in tensors.items()}
  with files.replacing(path) as file:
    torch.save({**rest, "model_state": state}, file)
