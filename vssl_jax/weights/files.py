"""Files of weights as NumPy arrays by name: PyTorch's and safetensors."""

from __future__ import annotations

import os
import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vssl_jax import files
from vssl_jax.errors import UserError, brief
from vssl_jax.weights.table import Tensors

# Where PyTorch programs put the tensors among what else they save.
STATES = ("model_state", "state_dict", "model")


def read_torch(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, Any]]:
  """The tensors of a PyTorch file (`.pyth`, `.pth`, `.pt`) or of a `.safetensors` file.

  A PyTorch file is a pickle, which may run any program: it is opened with `weights_only=True`
  alone, which lets nothing but tensors and plain values through.

  Args:
    path: of the file: a state dict, or a dict with one under `model_state`, `state_dict` or
      `model`.

  Returns:
    Arrays by name, without a common `module.` in front (half precision becomes float32), and what
    else the file holds (PySlowFast: `epoch` and `cfg`, text).

  Raises:
    UserError: no such file, not such a file, or PyTorch is needed and not installed.
  """
  path = pathlib.Path(path)
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
        f"{path}: is no file of PyTorch, or holds other objects than tensors and plain values, "
        "which may run any program and are not loaded; save its state dict anew."
      ) from None
    except Exception as e:
      told = re.sub(r"\x1b\[[0-9;]*m", "", brief(e))[:200]
      raise UserError(f"{path}: PyTorch cannot read it ({told}).") from None
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
    raise UserError(f"{path}: no tensors in it.")
  if all(k.startswith("module.") for k in tensors):
    tensors = {k.removeprefix("module."): x for k, x in tensors.items()}
  return tensors, rest


def _torch(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError:
    raise UserError(
      f"{path}: a PyTorch file, and PyTorch is not installed: pip install torch, or give a "
      ".safetensors file."
    ) from None
  return torch


def _array(torch: Any, x: Any, where: str) -> np.ndarray:
  try:
    return (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).detach().numpy()
  except (TypeError, RuntimeError):
    raise UserError(
      f"{where} is a tensor of {x.dtype}, {x.layout}, which NumPy has not; save it as float32."
    ) from None


def _is_safetensors(path: pathlib.Path) -> bool:
  """By its beginning: the length of a header, which is JSON."""
  with open(path, "rb") as file:
    head = file.read(9)
  return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _safetensors(path: pathlib.Path) -> Tensors:
  from vssl_jax.encoder import exported

  try:
    arrays = exported.arrays(path.read_bytes())
  except Exception as e:
    raise UserError(f"{path}: not a safetensors file ({e}).") from None
  return {k: x if x.dtype.kind in "iu" else x.astype(np.float32) for k, x in arrays.items()}


def write_torch(path: str | os.PathLike[str], tensors: Tensors, rest: Mapping[str, Any]) -> None:
  """Writes tensors under `model_state` with `rest` beside them, or as `.safetensors` alone.

  Raises:
    UserError: PyTorch is needed and not installed, or there can be no such folder.
  """
  path = pathlib.Path(path)
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
