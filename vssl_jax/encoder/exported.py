"""Writes and reads an exported encoder: `encoder.safetensors` and its card, `encoder.json`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax import files as files_lib
from vssl_jax import results as results_lib
from vssl_jax._version import __version__
from vssl_jax.encoder import card as card_lib
from vssl_jax.errors import UserError, brief
from vssl_jax.files import check_name

WEIGHTS = "encoder.safetensors"
CARD = "encoder.json"
COLLECTIONS = ("params", "batch_stats")
_DTYPES: dict[str, Any] = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U64": np.uint64,
  "U32": np.uint32,
  "U16": np.uint16,
  "U8": np.uint8,
  "BOOL": np.bool_,
}


def save_encoder(
  folder: str | pathlib.Path,
  config: ConfigDict,
  variables: Mapping[str, Any],
  *,
  info: Mapping[str, Any] | None = None,
  results: Mapping[str, Any] | None = None,
  data: Mapping[str, Any] | None = None,
  programs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Writes the weights and the card of an encoder.

  Args:
    folder: created if missing; gets `encoder.safetensors` and, last, `encoder.json`.
    config: config of the run, at least `encoder`, `augment` and `data`.
    variables: `params` and `batch_stats`, in any dtypes that safetensors supports.
    info: facts about the checkpoint: `step`, `sha256`.
    results: results of probes, stored in the card.
    data: the training videos according to an earlier card; by default derived from `config.data`.
    programs: the programs in the folder, by name, see `card.programs`.

  Returns:
    The card.
  """
  from safetensors.numpy import save

  folder = files_lib.path(folder)
  host = jax.device_get({name: variables.get(name) or {} for name in COLLECTIONS})
  # safetensors writes raw memory, so views and transposed arrays must be copied to C order.
  flat = {
    name: np.array(x, order="C") for name, x in traverse_util.flatten_dict(host, sep="/").items()
  }
  weights = save(flat)
  files_lib.write_atomic(folder / WEIGHTS, weights)
  d = config.data
  card = {
    "format": 1,
    "vssl_jax": __version__,
    "weights": {"file": WEIGHTS, "sha256": results_lib.file_hash(folder / WEIGHTS)},
    "parameters": sum(x.size for name, x in flat.items() if name.startswith("params/")),
    "encoder_sha256": results_lib.tree_hash(host),
    "checkpoint": origin(info),
    "config_sha256": results_lib.config_hash(config),
    "data": dict(data) if data else card_lib.data(d),
    "programs": dict(programs or {}),
    "preprocessing": {
      "input": f"uint8{' RGB' if d.channels == 3 else ''} [N, T, H, W, {d.channels}]",
      "scale": "1/255, then (x - mean) / std",
      "mean": config.augment.mean,
      "std": config.augment.std,
      "trained_with": {"frames": d.frames, "stride": d.stride, "size": d.size},
      "evaluated_with": {k: d.eval[k] for k in ("frames", "stride", "resize", "size")},
    },
    "results": dict(results or {}),
    "config": json.loads(config.to_json()),
  }
  text = json.dumps(results_lib.plain(card, digits=12), indent=2, ensure_ascii=False)
  files_lib.write_atomic(folder / CARD, (text + "\n").encode())
  return card


def load_exported(path: str | pathlib.Path) -> tuple[ConfigDict, dict[str, Any]]:
  """Reads an exported encoder.

  Args:
    path: the folder that `save_encoder` wrote.

  Returns:
    `(config, variables)`: the run's config, and NumPy arrays under `params` and `batch_stats`,
    bit for bit as saved.

  Raises:
    UserError: a file is missing, or the hash of the weights differs from the card.
  """
  folder = files_lib.path(path)
  card = load_card(folder)
  name = card["weights"]["file"]
  if "/" in check_name(name, f"{folder / CARD}: weights.file"):
    raise UserError(f"{folder / CARD}: weights.file is {name!r}; it must lie beside the card.")
  file = folder / name
  if not file.is_file():
    raise UserError(f"{file}: missing beside its card; export the encoder again")
  found = results_lib.file_hash(file)
  if found != card["weights"]["sha256"]:
    raise UserError(
      f"{file}: damaged or replaced: its sha256 is {found[:12]}…, the card says "
      f"{card['weights']['sha256'][:12]}…; copy or export it again"
    )
  try:
    nested = traverse_util.unflatten_dict(arrays(file.read_bytes()), sep="/")
  except Exception as e:  # safetensors' own error, a type that NumPy lacks, or names that clash
    raise UserError(f"{file}: not a safetensors file of an encoder ({brief(e)[:200]})") from None
  variables = {name: nested.get(name, {}) for name in COLLECTIONS}
  return config_lib.from_json(card["config"], folder / CARD), variables


def arrays(data: bytes) -> dict[str, np.ndarray]:
  """The arrays of a safetensors file, also bfloat16, which safetensors' own NumPy reader lacks."""
  import safetensors

  return {
    name: np.frombuffer(x["data"], _DTYPES[x["dtype"]]).reshape(x["shape"]).copy()
    for name, x in safetensors.deserialize(data)
  }


def load_card(path: str | pathlib.Path) -> dict[str, Any]:
  """Reads the card of an exported encoder.

  Raises:
    UserError: the folder has no card, or the card is not valid.
  """
  file = files_lib.path(path) / CARD
  try:
    card = files_lib.parse_json(files_lib.read_text(file, strict=True))
    if card["format"] != 1:
      raise UserError(
        f"{file}: format {card['format']} is newer than this version of vssl_jax; update vssl_jax"
      )
    told = (*(card["weights"][k] for k in ("file", "sha256")), card["config"]["method"])
    if not all(isinstance(text, str) and text for text in told):
      raise KeyError("weights or config")
    for name in ("checkpoint", "results", "data"):
      card[name] = card.get(name) or {}
      if not isinstance(card[name], dict):
        raise KeyError(name)
  except FileNotFoundError:
    raise UserError(f"{path}: no {CARD} there; give a folder that vssl_jax.export wrote") from None
  except UserError:
    raise
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(f"{file}: not a card of vssl_jax.export ({e!r}); export it again") from None
  return card


def origin(info: Mapping[str, Any] | None) -> dict[str, Any]:
  """The facts about a checkpoint, without its path on this machine."""
  return {k: v for k, v in (info or {}).items() if k != "checkpoint"}
