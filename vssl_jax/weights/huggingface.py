"""Reads a model folder as Hugging Face's `save_pretrained` writes it.

`config.json` describes the network, `model.safetensors` (or shards with an index) holds it, and
`preprocessor_config.json` or `video_preprocessor_config.json` says how clips are prepared.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vssl_jax.errors import UserError, brief
from vssl_jax.files import check_name, local
from vssl_jax.weights import converted, files
from vssl_jax.weights.table import Tensors

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
PREPROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
STRIDES = ("stride", "sampling_rate", "frame_sample_rate")


class Fields:
  """The fields of a JSON file, each read as the type that it must have."""

  def __init__(self, fields: Mapping[str, Any], where: str):
    self._fields = fields
    self.where = where

  def has(self, name: str) -> bool:
    """Whether the field is there and not null."""
    return self._fields.get(name) is not None

  def text(self, name: str, default: str) -> str:
    """A string."""
    return self._read(name, default, lambda x: isinstance(x, str), "a text")

  def flag(self, name: str, default: bool) -> bool:
    """True or false."""
    return self._read(name, default, lambda x: isinstance(x, bool), "true or false")

  def whole(self, name: str, default: int) -> int:
    """A whole number from 1."""
    return self._read(name, default, lambda x: _is(x, int) and x > 0, "a whole number from 1")

  def number(self, name: str, default: float) -> float:
    """A positive number."""
    return self._read(name, default, _positive, "a positive number")

  def side(self, name: str, default: int) -> int:
    """The side of a square: a number, two equal ones, or `{height, width}` or `{shortest_edge}`."""
    x: Any = self._fields.get(name)
    if x is None:
      return default
    values = list(x.values()) if isinstance(x, Mapping) else x if isinstance(x, list) else [x]
    values = [v for v in values if v is not None]
    if not values or any(not _is(v, int) or v < 1 or v != values[0] for v in values):
      raise UserError(f"{self.where}: {name} is {str(x)[:80]}: only squares are supported.")
    return int(values[0])

  def colors(self, name: str, positive: bool) -> tuple[float, ...]:
    """Three numbers, of red, green and blue; without a default, since those of versions differ."""
    what = "three positive numbers" if positive else "three numbers"
    if not self.has(name):
      raise UserError(f"{self.where}: has no {name}; write there {what}, for red, green and blue.")
    found = self._read(
      name,
      None,
      lambda x: isinstance(x, list) and len(x) == 3 and all(_fits(v, positive) for v in x),
      what,
    )
    return tuple(float(x) for x in found)

  def require(self, name: str, default: Any, wanted: Any) -> None:
    """Raises `UserError` if the field has another value than the one that we support."""
    got = default if self._fields.get(name) is None else self._fields[name]
    if got != wanted:
      raise UserError(f"{self.where}: {name} is {got!r}; only {wanted!r} can be converted.")

  def _read(self, name: str, default: Any, valid: Any, what: str) -> Any:
    x = self._fields.get(name)
    if x is None:
      return default
    if not valid(x):
      raise UserError(f"{self.where}: {name} is {str(x)[:80]!r}; it must be {what}.")
    return x


@dataclasses.dataclass
class Model:
  """A model folder.

  Attributes:
    tensors: by name.
    config: of the network.
    preprocessor: of clips.
    file: of the weights; the index of several.
  """

  tensors: Tensors
  config: Fields
  preprocessor: Fields
  file: pathlib.Path


def read(path: str, model_type: str) -> Model:
  """Reads a folder, or a file of weights in one, with the JSON files beside it.

  Args:
    path: folder or file.
    model_type: what `config.json` must say.

  Raises:
    UserError: a file is missing or cannot be read, or the model is of another type.
  """
  file = weights(path)
  folder = file.parent
  config = Fields(_json(folder / CONFIG), str(folder / CONFIG))
  found = config.text("model_type", "")
  if found != model_type:
    raise UserError(f"{folder / CONFIG}: model_type is {found!r}, not {model_type!r}.")
  name = next((n for n in PREPROCESSORS if (folder / n).is_file()), PREPROCESSORS[-1])
  how = Fields(_json(folder / name), str(folder / name))
  return Model(_tensors(file), config, how, file)


def weights(path: str) -> pathlib.Path:
  """The file of weights that `read` reads: `path` itself, or the one in that folder.

  Raises:
    UserError: there is none.
  """
  given = local(path)
  if given.is_file():
    return given
  if not given.is_dir():
    raise UserError(f"{given}: no such file or folder of weights.")
  names = (WEIGHTS[0], INDEX, WEIGHTS[1])
  found = next((given / n for n in names if (given / n).is_file()), None)
  if found is None:
    raise UserError(f"{given}: has none of {', '.join(names)}.")
  return found


def _tensors(file: pathlib.Path) -> Tensors:
  if file.suffix != ".json":
    return files.read_torch(file)[0]
  places = _json(file).get("weight_map")
  if not isinstance(places, dict) or not all(isinstance(n, str) for n in places.values()):
    raise UserError(f"{file}: has no weight_map of files by tensor.")
  tensors: Tensors = {}
  for name in sorted(set(places.values())):
    part = files.read_torch(file.parent / check_name(name, str(file)))[0]
    twice = tensors.keys() & part.keys()
    if twice:
      raise UserError(f"{file}: two files hold {min(twice)}.")
    tensors |= part
  if tensors.keys() != places.keys():
    odd = min(tensors.keys() ^ places.keys())
    raise UserError(f"{file}: {odd} is not both in the index and in a file that it names.")
  return tensors


def _json(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    raise UserError(f"{path}: no such file; it must lie beside the weights.")
  try:
    found = json.loads(path.read_text())
  except (ValueError, RecursionError) as e:
    raise UserError(f"{path}: not JSON ({brief(e)[:200]}).") from None
  if not isinstance(found, dict):
    raise UserError(f"{path}: holds a {type(found).__name__}; fields are needed.")
  return found


def preprocessing(c: ConfigDict, how: Fields, *, frames: int, size: int, stride: int) -> str:
  """Sets normalization and clips, and says where the stride is from.

  Args:
    c: config to change.
    how: the preprocessor.
    frames: of a clip of training.
    size: of a clip of training, if the preprocessor does not say it.
    stride: if the preprocessor does not say it.

  Raises:
    UserError: clips are prepared in a way that we do not have.
  """
  for flag in ("do_rescale", "do_resize", "do_center_crop"):
    how.require(flag, True, True)
  scale = how.number("rescale_factor", 1 / 255)
  if not math.isclose(scale, 1 / 255, rel_tol=1e-4):
    raise UserError(f"{how.where}: rescale_factor is {scale:g}; only 1 / 255 can be converted.")
  c.augment.mean, c.augment.std = (0.0,) * 3, (1.0,) * 3
  if how.flag("do_normalize", True):
    c.augment.mean, c.augment.std = how.colors("image_mean", False), how.colors("image_std", True)
  resize = how.side("size", size)
  crop = how.side("crop_size", min(resize, size))  # files of the first versions do not have it
  if crop > resize:
    raise UserError(f"{how.where}: crop_size {crop} is larger than size {resize}.")
  field = next((f for f in STRIDES if how.has(f)), None)
  converted.views(
    c,
    frames=frames,
    stride=how.whole(field, stride) if field else stride,
    size=crop,
    resize=resize,
  )
  return f"{field} of {pathlib.Path(how.where).name}" if field else "the usual one; no file says it"


def _is(x: Any, kind: Any) -> bool:
  return isinstance(x, kind) and not isinstance(x, bool)


def _fits(x: Any, positive: bool) -> bool:
  return _is(x, int | float) and math.isfinite(x) and (x > 0 or not positive)


def _positive(x: Any) -> bool:
  return _fits(x, True)
