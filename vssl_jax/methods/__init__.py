"""The methods, one file each: pure functions that follow the paper.

A module here has `defaults()` (its config fields) and `build(config, mesh) -> Method`. It may also
have `resolve(config, source)` (fills in fields from the data),
`evaluator(config, mesh) -> Evaluator`, `STARTS_FROM_ENCODER` (`build` accepts
`encoder_variables`), `LEARNS_FROM_LABELS` (training uses the labels of the clips),
`freezes_encoder(config)` (whether training leaves the encoder as it was), `UNDECISIVE` (names
of its fields that have no effect on training), and `notes(config)` (lines about fields that are set
but have no effect in this config).
"""

import importlib
import types
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import config as config_lib
from vssl_jax.errors import UserError
from vssl_jax.methods.base import Evaluator, Method, Variables


def load(name: str) -> types.ModuleType:
  """The module `vssl_jax.methods.<name>`, with its `defaults()` and `build(config, mesh)`.

  Raises:
    UserError: there is no such method.
  """
  qualified = f"{__name__}.{name}"
  if not all(part.isidentifier() for part in name.split(".")):
    raise UserError(f"config.method: there is no method {name!r} in vssl_jax/methods.")
  try:
    module = importlib.import_module(qualified)
  except ModuleNotFoundError as e:
    if not f"{qualified}.".startswith(f"{e.name}."):  # the method is there, what it imports is not
      raise
    raise UserError(f"config.method: there is no method {name!r} in vssl_jax/methods.") from e
  if lacks := [f for f in ("defaults", "build") if not callable(getattr(module, f, None))]:
    raise UserError(
      f"config.method: {name!r} in vssl_jax/methods is no method, it has no {lacks[0]}()."
    )
  return module


def resolve(config: ConfigDict, source: Source | None) -> ConfigDict:
  """Fills in the fields of the config that come from the data.

  These are the length of an epoch, the fingerprint of the videos, and the fields that the method
  itself needs (the number of classes, for example). A config made for another method gets this
  one's fields at their defaults.

  Args:
    config: any config.
    source: the training split; without it (None) only the method's own placeholders are filled in.
  """
  module = load(config.method)
  if source is not None or config.method not in config:
    config = config.copy_and_resolve_references()
  if config.method not in config:
    with config.unlocked():
      config[config.method] = module.defaults()
  if source is not None:
    with config.unlocked():
      config.steps_per_epoch = source.steps_per_epoch
      config.data.fingerprint = source.fingerprint
  return module.resolve(config, source) if hasattr(module, "resolve") else config


def base_config(method: str) -> ConfigDict:
  """The complete config of one method, with every field at its default.

  Args:
    method: a module of `vssl_jax/methods`; its `defaults()` become `config.<method>`.

  Returns:
    An unlocked config.

  Raises:
    UserError: there is no such method.
  """
  c = config_lib.shared()
  c.method = method
  c[method] = load(method).defaults()
  return c


def complete(saved: ConfigDict, file: object = "") -> ConfigDict:
  """A stored config, with fields that later versions added set to their defaults.

  Args:
    saved: the config as it was read; it may name code, which stays there.
    file: where it came from, for messages; "" for a config that did not come from a file.

  Raises:
    UserError: a field holds a value of another type than its default, or there is no such method.
  """

  def fill(into: ConfigDict, default: ConfigDict, at: str) -> None:
    for key, value in default.items():
      if key not in into:
        into[key] = value
      elif not _fits(into[key], value):
        wanted = "fields" if isinstance(value, ConfigDict) else f"a value as {value!r}"
        raise UserError(f"{at}.{key} is {str(into[key])[:60]!r}, where {wanted} must be.")
      elif isinstance(value, ConfigDict):
        fill(into[key], value, f"{at}.{key}")

  whole = saved.copy_and_resolve_references().unlock()
  config_lib.rename_fields(whole)
  knn = whole.get("knn")
  if isinstance(knn, ConfigDict) and "bound" not in knn:
    knn.bound = False  # as it was then
  try:
    fill(whole, base_config(saved.method), "config")
  except UserError as e:
    raise UserError(f"{file}: {e}" if file else str(e)) from None
  return whole


def from_file(saved: ConfigDict, file: object) -> ConfigDict:
  """A config that came in a file, complete, and without what names code.

  Args:
    saved: the config as it was read.
    file: where it came from, for messages.

  Raises:
    UserError: a field holds a value of another type than its default, or there is no such method.
  """
  config = complete(saved, file)
  config_lib.without_code(config)
  return config


def _fits(value: Any, default: Any) -> bool:
  """Whether a stored value has the type of a field's default."""
  if default is None:
    return True
  if isinstance(default, bool) or isinstance(value, bool):
    return isinstance(default, bool) and isinstance(value, bool)
  if isinstance(default, float):
    return isinstance(value, float | int)
  if isinstance(default, tuple | list):
    return isinstance(value, tuple | list)
  return isinstance(value, type(default))


def build(
  config: ConfigDict, mesh: Mesh | None = None, encoder_variables: Variables | None = None
) -> Method:
  """Builds the method of a resolved config.

  Args:
    config: any resolved config.
    mesh: the devices.
    encoder_variables: initial weights of the encoder; None initializes it at random.

  Raises:
    UserError: `encoder_variables` are given, but the method always starts from random weights.
  """
  module = load(config.method)
  if encoder_variables is None:
    return module.build(config, mesh)
  if not getattr(module, "STARTS_FROM_ENCODER", False):
    raise UserError(
      f"config.checkpoint is {config.checkpoint}: {config.method} starts from random weights. To "
      "fine-tune a checkpoint take a recipe of method classify, such as cvrl:ucf6_supervised; "
      "to probe one, linear_probe."
    )
  return module.build(config, mesh, encoder_variables=encoder_variables)


def evaluator(config: ConfigDict, mesh: Mesh | None = None) -> Evaluator:
  """The method's own evaluation (see `Evaluator`); an empty one if it has none."""
  module = load(config.method)
  return module.evaluator(config, mesh) if hasattr(module, "evaluator") else Evaluator()


def learns_from_labels(config: ConfigDict) -> bool:
  """Whether the method of a config uses the labels of its training clips."""
  return bool(getattr(load(config.method), "LEARNS_FROM_LABELS", False))


def freezes_encoder(config: ConfigDict) -> bool:
  """Whether training under a config leaves the encoder that it started from unchanged."""
  module = load(config.method)
  return bool(module.freezes_encoder(config)) if hasattr(module, "freezes_encoder") else False


def notes(config: ConfigDict) -> tuple[str, ...]:
  """What a user should know about a config before it is trained: one line for each such thing."""
  module = load(config.method)
  return tuple(module.notes(config)) if hasattr(module, "notes") else ()


def undecisive_fields(method: str) -> tuple[str, ...]:
  """Dotted names of those config fields of a method that have no effect on its training."""
  return tuple(f"{method}.{field}" for field in getattr(load(method), "UNDECISIVE", ()))
