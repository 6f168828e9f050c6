"""One file a method: pure functions that read like the paper."""

import importlib
import types
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax.errors import UserError


def load(name: str) -> types.ModuleType:
  """The module `vssl_jax.methods.<name>`, with its `defaults()` and `build(config, mesh)`.

  Raises:
    UserError: there is no such method.
  """
  qualified = f"{__name__}.{name}"
  try:
    return importlib.import_module(qualified)
  except ModuleNotFoundError as e:
    if e.name != qualified:
      raise
    raise UserError(f"config.method: there is no method {name!r} in vssl_jax/methods.") from e


def resolve(config: ConfigDict, source: Any) -> ConfigDict:
  """The config with what comes from the data filled in.

  That is the length of an epoch, what tells the videos from others, and what the method itself
  takes (a number of classes, say).

  Args:
    config: any.
    source: the training split; None fills in nothing.
  """
  steps = getattr(source, "steps_per_epoch", 0)
  if steps:
    config = config.copy_and_resolve_references()
    with config.unlocked():
      config.steps_per_epoch = steps
      config.data.fingerprint = getattr(source, "fingerprint", "")
  module = load(config.method)
  return module.resolve(config, source) if hasattr(module, "resolve") else config


def base_config(method: str) -> ConfigDict:
  """The whole config for one method, every field at its default.

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


def complete(saved: ConfigDict) -> ConfigDict:
  """A stored config with the fields it lacks, which later versions added, at their defaults."""

  def fill(into: ConfigDict, default: ConfigDict) -> None:
    for key, value in default.items():
      if key not in into:
        into[key] = value
      elif isinstance(value, ConfigDict) and isinstance(into[key], ConfigDict):
        fill(into[key], value)

  whole = saved.copy_and_resolve_references().unlock()
  config_lib.rename_fields(whole)
  fill(whole, base_config(saved.method))
  return whole
